// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// Run reloads the policy whenever its files change, until ctx is done; then it
// returns nil. A failed reload is logged once, and tried again when the files
// change again.
func (s *Store) Run(ctx context.Context) error {
	if s.options.Path == "" {
		<-ctx.Done()
		return nil
	}
	w := s.newWatch()
	defer w.close()
	s.follow(w) // what changed since New
	poll := time.NewTicker(s.options.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(0) // runs out when the files have been left alone
	<-quiet.C
	var latest time.Time // when to read even though they have not
	for {
		select {
		case <-ctx.Done():
			quiet.Stop()
			return nil
		case event := <-w.events():
			if event.Op == fsnotify.Chmod {
				continue
			}
			now := time.Now()
			if latest.IsZero() {
				latest = now.Add(maxDebounce * s.options.Debounce)
			}
			quiet.Reset(min(s.options.Debounce, latest.Sub(now)))
		case err := <-w.errors():
			s.options.Logger.Warn("policy watch failed", "path", s.options.Path, "error", err)
			quiet.Reset(s.options.Debounce)
		case <-quiet.C:
			latest = time.Time{}
			s.follow(w)
		case <-poll.C:
			s.follow(w)
		}
	}
}

// maxDebounce bounds, in multiples of the debounce, how long a directory that
// is never quiet can put off a reload.
const maxDebounce = 10

// follow refreshes the policy and then the watched directories, and again if
// these were others: what happened in a new one before it was watched has no
// event.
func (s *Store) follow(w *watch) {
	for range 3 {
		if changed, err := s.refresh(); changed && err != nil {
			s.logFailure(err)
		}
		if !w.update(s.options.Path) {
			return
		}
	}
}

// watch is an fsnotify watcher, or nothing but the poll if there is none.
type watch struct {
	store  *Store
	fs     *fsnotify.Watcher // nil: none to be had
	warned map[string]bool   // directories that could not be watched
}

func (s *Store) newWatch() *watch {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		s.options.Logger.Warn("policy files cannot be watched, polling", "path", s.options.Path, "poll", s.options.Poll, "error", err)
	}
	return &watch{s, fs, map[string]bool{}}
}

func (w *watch) events() chan fsnotify.Event {
	if w.fs == nil {
		return nil
	}
	return w.fs.Events
}

func (w *watch) errors() chan error {
	if w.fs == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *watch) close() {
	if w.fs != nil {
		_ = w.fs.Close() // nothing is left to lose
	}
}

// update watches the directories that path leads through now, and no others.
// It reports whether there are new ones.
func (w *watch) update(path string) (added bool) {
	if w.fs == nil {
		return false
	}
	want := directories(path)
	have := w.fs.WatchList()
	for _, dir := range have {
		if !slices.Contains(want, dir) {
			_ = w.fs.Remove(dir) // gone already, if this fails
		}
	}
	for _, dir := range want {
		if slices.Contains(have, dir) {
			continue
		}
		if err := w.fs.Add(dir); err != nil {
			if !w.warned[dir] {
				w.store.options.Logger.Warn("policy directory cannot be watched", "directory", dir, "error", err)
			}
			w.warned[dir] = true
			continue
		}
		added = true
	}
	return added
}

// directories returns those in which a change can change the policy: where path
// is, where its symlink leads, and path itself if it is a directory. They are
// free of symlinks, so that none is watched twice. What does not exist is left
// out.
func directories(path string) (dirs []string) {
	add := func(dir string) {
		if !slices.Contains(dirs, dir) {
			dirs = append(dirs, dir)
		}
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil
	}
	if parent, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil {
		add(parent)
	}
	target, err := filepath.EvalSymlinks(path)
	if err != nil {
		return dirs
	}
	add(filepath.Dir(target))
	if isDir(target) {
		add(target)
	}
	return dirs
}

func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
