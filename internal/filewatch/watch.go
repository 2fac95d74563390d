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

// Options configure [Run]. Path, Logger, Debounce, Poll and Refresh are needed.
type Options struct {
	Path   string // as in [Read]
	Logger *slog.Logger
	// Debounce is how long files must be left alone before they are looked at
	// again, Poll how often they are without an event.
	Debounce, Poll time.Duration
	// Refresh is called when the files may have changed, and at the beginning. It
	// reads them and compares.
	Refresh func()
}

// Run watches until ctx is done.
func Run(ctx context.Context, o Options) {
	w := newWatch(o)
	defer w.close()
	w.follow() // what changed since the caller read
	poll := time.NewTicker(o.Poll)
	defer poll.Stop()
	quiet := time.NewTimer(0) // runs out when the files have been left alone
	<-quiet.C
	var latest time.Time // when to read even though they have not
	for {
		select {
		case <-ctx.Done():
			quiet.Stop()
			return
		case event := <-w.events():
			if event.Op == fsnotify.Chmod {
				continue
			}
			now := time.Now()
			if latest.IsZero() {
				latest = now.Add(maxDebounce * o.Debounce)
			}
			quiet.Reset(min(o.Debounce, latest.Sub(now)))
		case err := <-w.errors():
			o.Logger.Warn("watching files failed", "path", o.Path, "error", err)
			quiet.Reset(o.Debounce)
		case <-quiet.C:
			latest = time.Time{}
			w.follow()
		case <-poll.C:
			w.follow()
		}
	}
}

// maxDebounce bounds, in multiples of the debounce, how long a directory that
// is never quiet can put off a reload.
const maxDebounce = 10

// follow refreshes and then updates the watched directories, and again if these
// were others: what happened in a new one before it was watched has no event.
func (w *watch) follow() {
	for range 3 {
		w.options.Refresh()
		if !w.update() {
			return
		}
	}
}

// watch is an fsnotify watcher, or nothing but the poll if there is none.
type watch struct {
	options Options
	fs      *fsnotify.Watcher // nil: none to be had
	warned  map[string]bool   // directories that could not be watched
}

func newWatch(o Options) *watch {
	fs, err := fsnotify.NewWatcher()
	if err != nil {
		o.Logger.Warn("files cannot be watched, polling", "path", o.Path, "poll", o.Poll, "error", err)
	}
	return &watch{o, fs, map[string]bool{}}
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

// update watches the directories that the path leads through now, and no others.
// It reports whether there are new ones.
func (w *watch) update() (added bool) {
	if w.fs == nil {
		return false
	}
	want := directories(w.options.Path)
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
				w.options.Logger.Warn("directory cannot be watched", "directory", dir, "error", err)
			}
			w.warned[dir] = true
			continue
		}
		added = true
	}
	return added
}

// directories returns those in which a change can change what is read: where path
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
