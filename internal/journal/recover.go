// SPDX-License-Identifier: Apache-2.0

package journal

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/bucketring/bucketring/internal/snapshotfile"
)

// link is a journal that continues the snapshot.
type link struct {
	header
	name string
	end  int64 // where the next one continues it; -1: unknown, because it is the last
}

// recovery reads a directory into the state.
type recovery struct {
	*Journal
	base       uint64 // generation of the snapshot; 0: none
	links      []link
	positions  []int64 // of the partitions in the snapshot, in the journal of its generation
	end        int64   // of the last journal
	clean      bool    // the last journal ends orderly
	blocks     int
	partitions int // in the snapshot
	wanted     []bool
}

// recover restores the snapshot and the journals, and begins a new journal.
func (j *Journal) recover() error {
	fs, err := j.list()
	if err != nil {
		return err
	}
	if j.metrics.corrupt.Set(float64(len(fs.corrupt))); len(fs.corrupt) > 0 {
		j.log.Warn("usage in corrupt files is not counted: delete them to end this warning", "files", fs.corrupt)
	}
	if fs.old {
		j.log.Warn("usage in the snapshot of an earlier version is not counted: delete the file to end this warning", "file", oldSnapshot)
	}
	r := &recovery{Journal: j, positions: make([]int64, j.o.Partitions), wanted: make([]bool, j.o.Partitions)}
	began := time.Now()
	if err = r.read(&fs); err != nil {
		if damage, ok := errors.AsType[*DamageError](err); ok {
			return errors.Join(j.keepAside(damage), err)
		}
		return err
	}
	if r.base == 0 {
		j.log.Info("no snapshot to restore", "dir", j.o.Dir)
	} else {
		j.log.Info("snapshot restored", "dir", j.o.Dir, "generation", r.base, "partitions", r.partitions, "journals", len(r.links), "journal_blocks", r.blocks,
			"took", time.Since(began).Round(time.Millisecond))
	}
	r.begin()
	return nil
}

func (r *recovery) read(fs *files) error {
	for _, name := range fs.unfinished {
		if err := r.fs.Remove(name); err != nil {
			return fmt.Errorf("remove unfinished file: %w", err)
		}
	}
	for _, all := range [][]uint64{fs.snapshots, fs.journals} {
		if len(all) > 0 {
			r.lastGeneration = max(r.lastGeneration, all[len(all)-1])
		}
	}
	if n := len(fs.snapshots); n > 0 {
		r.base = fs.snapshots[n-1]
	}
	if err := r.link(fs.journals); err != nil {
		return err
	}
	if r.base != 0 {
		if err := r.restore(); err != nil {
			return err
		}
	}
	for i := range r.links {
		if err := r.replay(&r.links[i]); err != nil {
			return err
		}
	}
	if err := r.fs.Sync(); err != nil { // what this process has seen must not vanish any more
		return err
	}
	if r.base == 0 {
		return nil
	}
	return r.removeBefore(r.base)
}

// link finds the journals that continue the snapshot.
func (r *recovery) link(journals []uint64) error {
	for _, g := range journals {
		if g < r.base {
			continue
		}
		name := journalName(g)
		h, err := r.header(name, g)
		switch {
		case err != nil:
			return err
		case g != r.base && h.previous == 0:
			// Its snapshot was never completed, so nothing in it was durable.
			r.log.Warn("a journal whose snapshot was not completed is not restored", "file", name)
			if err := r.fs.Remove(name); err != nil {
				return fmt.Errorf("remove %s: %w", name, err)
			}
			continue
		case g != r.base && (len(r.links) == 0 || r.links[len(r.links)-1].generation != h.previous):
			return fmt.Errorf("%s continues %s, which is missing or does not continue %s: restore the missing files, or move %s out of the directory to start without its usage",
				name, journalName(h.previous), snapshotName(r.base), name)
		}
		if n := len(r.links); n > 0 {
			r.links[n-1].end = h.end
		}
		r.links = append(r.links, link{header: h, name: name, end: -1})
	}
	if r.base != 0 && len(r.links) == 0 {
		r.log.Warn("there is no journal that continues the snapshot: usage since then is not counted", "file", snapshotName(r.base))
	}
	return nil
}

func (r *recovery) header(name string, generation uint64) (header, error) {
	f, err := r.fs.Open(name)
	if err != nil {
		return header{}, err
	}
	defer f.Close()
	return readHeader(f, name, generation)
}

// restore restores the snapshot.
func (r *recovery) restore() error {
	name := snapshotName(r.base)
	f, err := r.fs.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if r.snapshot, err = f.Size(); err != nil {
		return fmt.Errorf("read %s: %w", name, err)
	}
	err = snapshotfile.Read(f, r.snapshot, r.base, func(s *snapshotfile.Section) error {
		if s.Partition >= r.o.Partitions {
			return fmt.Errorf("must be below %d", r.o.Partitions)
		}
		r.partitions++
		r.positions[s.Partition] = int64(s.Position)
		r.found[s.Partition], r.restored[s.Partition] = true, Copy{Origin: s.Origin, Seq: s.Seq, Complete: s.Complete}
		return r.o.State.Restore(s.Partition, s.Data, s.Seq, s.Wall)
	})
	switch {
	case errors.Is(err, snapshotfile.ErrCorrupt):
		return &DamageError{File: name, Problem: err.Error()}
	case errors.Is(err, snapshotfile.ErrVersion):
		return fmt.Errorf("%s: %w: run that version, or move all files out of the directory to start without their usage", name, err)
	case err != nil:
		return fmt.Errorf("read %s: %w", name, err)
	}
	return nil
}

// replay applies the blocks of a journal.
func (r *recovery) replay(l *link) error {
	f, err := r.fs.Open(l.name)
	if err != nil {
		return err
	}
	defer f.Close()
	size, err := f.Size()
	if err != nil {
		return fmt.Errorf("read %s: %w", l.name, err)
	}
	if l.end > size {
		return &DamageError{File: l.name, Offset: size, Problem: fmt.Sprintf("the file ends, and the next journal continues it at byte %d", l.end)}
	}
	in := blockReader{f: f, size: size, salt: l.salt}
	at := int64(headerSize)
	for r.clean = false; at != l.end; {
		b, err := in.at(at)
		if errors.Is(err, io.EOF) {
			break
		}
		if errors.Is(err, errBad) {
			if err := r.tornOrDamaged(&in, l, at); err != nil {
				return err
			}
			break
		}
		if err == nil {
			err = r.apply(l, &b)
		}
		if err != nil {
			return fmt.Errorf("read %s: byte %d: %w", l.name, at, err)
		}
		r.blocks++
		at = b.next
	}
	if r.end = at; l.end >= 0 {
		r.older += at
		return nil
	}
	if err := f.Sync(); err != nil { // it was perhaps only in the memory of the system
		return fmt.Errorf("sync %s: %w", l.name, err)
	}
	return nil
}

// tornOrDamaged decides what it means that there is no intact block. If a crash has cut
// it off, it returns nil.
func (r *recovery) tornOrDamaged(in *blockReader, l *link, at int64) error {
	damaged := l.end >= 0
	if !damaged {
		var err error
		if damaged, err = in.provesSync(at); err != nil {
			return fmt.Errorf("read %s: %w", l.name, err)
		}
	}
	if damaged {
		return &DamageError{File: l.name, Offset: at, Problem: "no intact block, but intact blocks follow that were written later"}
	}
	r.log.Warn("torn end of a journal cut off: a crash interrupted its last writes", "file", l.name, "offset", at, "bytes", in.size-at)
	return nil
}

// apply applies a block, except for partitions that the snapshot has with it.
func (r *recovery) apply(l *link, b *block) error {
	in := payloadReader{buf: b.payload}
	has := func(partition int) bool { return l.generation == r.base && b.offset < r.positions[partition] }
	found := func(s section) {
		r.found[s.partition], r.restored[s.partition] = true, Copy{Origin: s.origin, Seq: s.seq, Complete: s.flags&flagComplete != 0}
	}
	r.clean = false
	switch kind := in.uint(); kind {
	case kindChanges:
		clear(r.wanted)
		some := false
		for n := in.uint(); n > 0 && !in.bad; n-- {
			s := in.section(r.o.Partitions)
			if in.bad || has(s.partition) {
				continue
			}
			r.wanted[s.partition] = s.flags&flagMessage != 0
			some = some || r.wanted[s.partition]
			found(s)
		}
		if in.bad {
			break
		}
		if some {
			return r.o.State.Apply(in.buf, b.wall, func(partition int) bool { return r.wanted[partition] })
		}
	case kindFull:
		s := in.section(r.o.Partitions)
		if in.bad || has(s.partition) {
			break
		}
		found(s)
		return r.o.State.Restore(s.partition, in.buf, s.seq, b.wall)
	case kindCleared:
		for n := in.uint(); n > 0 && !in.bad; n-- {
			if p := in.partition(r.o.Partitions); !in.bad && !has(p) {
				r.o.State.Clear(p)
				r.found[p], r.restored[p] = false, Copy{}
			}
		}
	case kindEnd:
		r.clean = true
	default:
		return fmt.Errorf("unknown kind of block %d", kind)
	}
	if in.bad {
		return errors.New("invalid list of partitions")
	}
	return nil
}

// begin begins a new journal. It continues the last one, if there is one.
func (r *recovery) begin() {
	j := r.Journal
	for p := range j.written {
		j.written[p] = written{j.found[p], j.restored[p]}
		j.durable[p] = j.restored[p].Seq
	}
	if r.base == 0 || len(r.links) == 0 {
		j.restart()
		return
	}
	last := &r.links[len(r.links)-1]
	f, h, _, err := j.newJournal(last.generation, r.end)
	if err != nil {
		j.fail(err)
		return
	}
	j.older += r.end
	j.journals = len(r.links)
	j.use(f, h)
	if !r.clean || j.compactionDue() {
		j.requestSnapshot()
	}
}
