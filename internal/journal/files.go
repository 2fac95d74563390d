// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Names of files. A generation follows the first two.
const (
	snapshotPrefix = "snapshot-"
	journalPrefix  = "journal-"
	newSuffix      = ".new"      // a file that is not complete
	corruptSuffix  = ".corrupt-" // followed by the time when a file was found to be corrupt
	oldSnapshot    = "state.snapshot"
)

func snapshotName(generation uint64) string {
	return snapshotPrefix + strconv.FormatUint(generation, 10)
}

func journalName(generation uint64) string {
	return journalPrefix + strconv.FormatUint(generation, 10)
}

// files are the files of a directory, in order of their generations.
type files struct {
	snapshots, journals []uint64
	unfinished, corrupt []string
	old                 bool // a snapshot of a version without journals
}

func (j *Journal) list() (fs files, err error) {
	names, err := j.fs.List()
	if err != nil {
		return fs, err
	}
	for _, name := range names {
		switch number, isJournal := strings.CutPrefix(name, journalPrefix); {
		case strings.Contains(name, corruptSuffix):
			fs.corrupt = append(fs.corrupt, name)
		case strings.HasSuffix(name, newSuffix):
			fs.unfinished = append(fs.unfinished, name)
		case name == oldSnapshot:
			fs.old = true
		case isJournal:
			if g, err := strconv.ParseUint(number, 10, 64); err == nil && g > 0 && journalName(g) == name {
				fs.journals = append(fs.journals, g)
			}
		default:
			g, err := strconv.ParseUint(strings.TrimPrefix(name, snapshotPrefix), 10, 64)
			if err == nil && g > 0 && snapshotName(g) == name {
				fs.snapshots = append(fs.snapshots, g)
			}
		}
	}
	slices.Sort(fs.snapshots)
	slices.Sort(fs.journals)
	return fs, nil
}

// newJournal creates the journal of the next generation, with its header on disk. named
// says that it may have its name even though there is an error.
func (j *Journal) newJournal(previous uint64, end int64) (f File, h header, named bool, err error) {
	j.lastGeneration++
	h = header{generation: j.lastGeneration, previous: previous, end: end, salt: rand.Uint64(), wall: time.Now().UnixNano()}
	name := journalName(h.generation)
	f, err = j.fs.Create(name + newSuffix)
	if err != nil {
		return nil, h, false, err
	}
	if _, err = f.WriteAt(h.encode(), 0); err == nil {
		err = f.Sync()
	}
	if err == nil {
		named = true
		err = j.fs.Rename(name+newSuffix, name)
	}
	if err == nil {
		err = j.fs.Sync()
	}
	if err != nil {
		_ = j.fs.Remove(name + newSuffix) // the next start removes it, too
		return nil, h, named, errors.Join(fmt.Errorf("create %s: %w", name, err), f.Close())
	}
	return f, h, true, nil
}

// removeBefore deletes the files that snapshot of a generation makes superfluous.
func (j *Journal) removeBefore(generation uint64) error {
	fs, err := j.list()
	if err != nil {
		return err
	}
	for _, g := range fs.snapshots {
		if g < generation {
			err = errors.Join(err, j.fs.Remove(snapshotName(g)))
		}
	}
	for _, g := range fs.journals {
		if g < generation {
			err = errors.Join(err, j.fs.Remove(journalName(g)))
		}
	}
	return err
}

// keepAside renames a damaged file and those that are worth nothing without it. Of a
// journal it keeps what is before the damage.
func (j *Journal) keepAside(e *DamageError) error {
	fs, err := j.list()
	if err != nil {
		return err
	}
	suffix := corruptSuffix + time.Now().UTC().Format("20060102T150405.000")
	number, isJournal := strings.CutPrefix(e.File, journalPrefix)
	if !isJournal {
		number = strings.TrimPrefix(e.File, snapshotPrefix)
	}
	generation, err := strconv.ParseUint(number, 10, 64)
	if err != nil {
		return fmt.Errorf("keep %s aside: %w", e.File, err)
	}
	keep := isJournal && e.Offset > int64(headerSize)
	if keep {
		if err := j.copyPrefix(e.File, e.Offset); err != nil {
			return fmt.Errorf("keep the first %d bytes of %s: %w", e.Offset, e.File, err)
		}
	}
	for _, g := range slices.Backward(fs.journals) { // the last first, so that a crash leaves no gap
		if g > generation || g == generation && !isJournal {
			err = errors.Join(err, j.fs.Rename(journalName(g), journalName(g)+suffix))
		}
	}
	err = errors.Join(err, j.fs.Rename(e.File, e.File+suffix))
	if keep {
		err = errors.Join(err, j.fs.Rename(e.File+newSuffix, e.File))
	}
	if err = errors.Join(err, j.fs.Sync()); err != nil {
		return fmt.Errorf("keep %s aside: %w", e.File, err)
	}
	next := "without the usage in it"
	if keep {
		next = fmt.Sprintf("with its first %d bytes, which are intact", e.Offset)
	} else if !isJournal {
		next = "without usage"
	}
	e.Aside = fmt.Sprintf("it was renamed to %s: the next start begins %s", e.File+suffix, next)
	return nil
}

// copyPrefix copies the begin of a file to one with newSuffix.
func (j *Journal) copyPrefix(name string, size int64) (err error) {
	from, err := j.fs.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := j.fs.Create(name + newSuffix)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.NewOffsetWriter(to, 0), io.NewSectionReader(from, 0, size))
	return errors.Join(err, to.Sync(), to.Close())
}
