// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/fsnotify/fsnotify"
)

// watcher calls a function when files may have changed. Without fsnotify it only
// polls.
type watcher struct {
	path   string
	log    *slog.Logger
	poll   time.Duration
	fs     *fsnotify.Watcher // nil: none could be made
	warned map[string]bool   // directories that could not be watched
}

func newWatcher(path string, log *slog.Logger, poll time.Duration) *watcher {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		log.Warn("files cannot be watched, polling instead", "path", path, "poll", poll, "error", err)
	}
	return &watcher{path, log, poll, fs, map[string]bool{}}
}

// minRetry and maxRetry are how soon files are read again that could not be read, such
// as while the process had no file descriptor left. The time doubles.
const (
	minRetry = time.Second
	maxRetry = 30 * time.Second
)

// maxDebounce bounds how long a directory with constant events delays a refresh:
// this many times the debounce.
const maxDebounce = 10

// run calls refresh at once, after events, and at each poll, until ctx is done; and soon
// again when refresh reports that it could not read the files.
func (w *watcher) run(ctx context.Context, debounce time.Duration, refresh func() (failed bool)) {
	retry := time.NewTimer(maxRetry)
	defer retry.Stop()
	wait := minRetry // until the next retry
	update := func() {
		if !w.refresh(refresh) {
			retry.Stop()
			wait = minRetry
			return
		}
		retry.Reset(wait)
		wait = min(2*wait, maxRetry)
	}
	update() // the files may have changed since the caller read them
	poll := time.NewTicker(w.poll)
	defer poll.Stop()
	idle := time.NewTimer(0) // fires a debounce after the last event
	defer idle.Stop()
	<-idle.C
	var deadline time.Time // of the refresh after the events so far; zero: no event yet
	for {
		select {
		case <-ctx.Done():
			return
		case event := <-w.events():
			if event.Op == fsnotify.Chmod {
				continue
			}
			now := time.Now()
			if deadline.IsZero() {
				deadline = now.Add(maxDebounce * debounce)
			}
			idle.Reset(min(debounce, deadline.Sub(now)))
		case err := <-w.errors():
			w.log.Warn("watching files failed", "path", w.path, "error", err)
			idle.Reset(debounce)
		case <-idle.C:
			deadline = time.Time{}
			update()
		case <-poll.C:
			update()
		case <-retry.C:
			update()
		}
	}
}

// refresh calls the function and then updates the watched directories. If there
// are new ones it does so again, because a change in a directory that was not
// watched yet sent no event. It returns what the function did.
func (w *watcher) refresh(refresh func() bool) (failed bool) {
	for range 3 {
		failed = refresh()
		if !w.update() {
			break
		}
	}
	return failed
}

func (w *watcher) events() chan fsnotify.Event {
	if w.fs == nil {
		return nil
	}
	return w.fs.Events
}

func (w *watcher) errors() chan error {
	if w.fs == nil {
		return nil
	}
	return w.fs.Errors
}

func (w *watcher) close() {
	if w.fs != nil {
		_ = w.fs.Close() // nothing was written
	}
}

// update watches the directories on the path as it leads now, and no others. It
// reports whether there are new ones.
func (w *watcher) update() (added bool) {
	if w.fs == nil {
		return false
	}
	want := directories(w.path)
	have := w.fs.WatchList()
	for _, dir := range have {
		if !slices.Contains(want, dir) {
			_ = w.fs.Remove(dir) // fails if the directory was deleted
		}
	}
	for _, dir := range want {
		if slices.Contains(have, dir) {
			continue
		}
		if err := w.fs.Add(dir); err != nil {
			if !w.warned[dir] {
				w.log.Warn("directory cannot be watched, polling it instead", "directory", dir, "error", err)
			}
			w.warned[dir] = true
			continue
		}
		added = true
	}
	return added
}

// directories returns the directories in which a change can affect what is read:
// the one that holds path, the one its symlink leads to, and path itself if it is a
// directory. Symlinks are resolved, so none is watched twice. Missing directories
// are left out.
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
	if info, err := os.Stat(target); err == nil && info.IsDir() {
		add(target)
	}
	return dirs
}
