// SPDX-License-Identifier: Apache-2.0

package filewatch

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/yamldoc"
)

// Options configure a [Loader] of values of type T.
type Options[T any] struct {
	// Path is a file or a directory, as in [Read]. Empty: Parse is called once,
	// without files, and its value never changes.
	Path string
	// All reads the files with [ReadAll].
	All bool
	// Large reads the files with [ReadLarge].
	Large  bool
	What   string       // names the configuration in errors, such as "policy"
	Logger *slog.Logger // nil: no log
	// Debounce is how long to wait after the last event before reading the files
	// again (default: 250 ms); Poll is how often to read them without an event
	// (default: 1 min).
	Debounce, Poll time.Duration
	Parse          func([]yamldoc.File) (*T, error) // required
	// OnReload is called after each successful load but the first, one call at a
	// time, when the new value is current. It must not block or call the Loader.
	OnReload func(old, new *T)
	// OnError is called when a load by [Loader.Run] fails.
	OnError func(error)
}

// Status says what a [Loader] has loaded and how the last attempt went.
type Status struct {
	Path     string    `json:"path,omitempty"`
	LoadedAt time.Time `json:"loaded_at"` // of the last success
	// LastError is the error of the last attempt, "" if it succeeded. LastErrorAt
	// is the time of the last failure, even if a success followed.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Reloads     int64     `json:"reloads"` // successful ones, without the first load
	Failures    int64     `json:"failures"`
}

// A Loader keeps the value that files describe. Files that cannot be read or
// parsed change nothing but its status. It is safe for concurrent use.
type Loader[T any] struct {
	options   Options[T]
	readFiles func(path string) ([]yamldoc.File, error) // Read, but for tests
	current   atomic.Pointer[T]

	loading struct { // held during a load
		sync.Mutex
		attempt attempt // the last one
	}
	mu struct {
		sync.Mutex // held for no I/O
		status     Status
	}
}

// attempt is what a load read: the digest of the files, and the error of reading them.
type attempt struct {
	digest [sha256.Size]byte
	err    string
}

// Load loads the value for the first time.
func Load[T any](o Options[T]) (*Loader[T], error) {
	o.Debounce = cmp.Or(o.Debounce, 250*time.Millisecond)
	o.Poll = cmp.Or(o.Poll, time.Minute)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	l := &Loader[T]{options: o, readFiles: Read}
	switch {
	case o.All:
		l.readFiles = ReadAll
	case o.Large:
		l.readFiles = ReadLarge
	}
	l.mu.status.Path = o.Path
	files, unread := l.read()
	v, err := Parse(files, unread, o.Parse)
	if err != nil {
		return nil, fmt.Errorf("load %s: %w", o.What, err)
	}
	l.loading.attempt.digest = digest(files)
	l.succeed(v)
	return l, nil
}

func (l *Loader[T]) read() ([]yamldoc.File, error) {
	if l.options.Path == "" {
		return nil, nil
	}
	return l.readFiles(l.options.Path)
}

// Current returns the value. It is one atomic load.
func (l *Loader[T]) Current() *T { return l.current.Load() }

// Status returns the status, and the value that it is about.
func (l *Loader[T]) Status() (Status, *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.mu.status, l.current.Load()
}

// Reload loads the files now, changed or not. The caller logs the error.
func (l *Loader[T]) Reload() error {
	_, err := l.load(true)
	return err
}

// load loads the files unless they are what the last load read and force is not
// set. It reports whether it did.
func (l *Loader[T]) load(force bool) (bool, error) {
	if l.options.Path == "" {
		return false, nil
	}
	l.loading.Lock()
	defer l.loading.Unlock()
	files, unread := l.read()
	now := attempt{digest: digest(files)}
	if unread != nil {
		now.err = unread.Error()
	}
	if now == l.loading.attempt && !force {
		return false, nil
	}
	l.loading.attempt = now
	v, err := Parse(files, unread, l.options.Parse)
	if err != nil {
		err = fmt.Errorf("reload %s: %w", l.options.What, err)
		l.fail(err)
		return true, err
	}
	old := l.succeed(v)
	if l.options.OnReload != nil {
		l.options.OnReload(old, v)
	}
	return true, nil
}

// unread reports whether the last load could not read the files.
func (l *Loader[T]) unread() bool {
	l.loading.Lock()
	defer l.loading.Unlock()
	return l.loading.attempt.err != ""
}

// succeed makes v current, and returns what was: nil the first time.
func (l *Loader[T]) succeed(v *T) (old *T) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old = l.current.Swap(v)
	l.mu.status.LoadedAt, l.mu.status.LastError = time.Now(), ""
	if old != nil {
		l.mu.status.Reloads++
	}
	return old
}

func (l *Loader[T]) fail(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.status.LastError, l.mu.status.LastErrorAt = err.Error(), time.Now()
	l.mu.status.Failures++
}

// Run loads the files again whenever they change, until ctx is done. A failure is
// reported to OnError once; the next attempt waits until the files change again, or a few
// seconds if they could not be read.
func (l *Loader[T]) Run(ctx context.Context) {
	if l.options.Path == "" {
		<-ctx.Done()
		return
	}
	w := newWatcher(l.options.Path, l.options.Logger, l.options.Poll)
	defer w.close()
	w.run(ctx, l.options.Debounce, func() (failed bool) {
		if loaded, err := l.load(false); loaded && err != nil && l.options.OnError != nil {
			l.options.OnError(err)
		}
		return l.unread()
	})
}

// maxLogged bounds the list of problems in one log line.
const maxLogged = 50

// LogAttrs returns the attributes of a log line about files that cannot be used:
// their path and the error, or a list item for each problem of [yamldoc.Problems].
func LogAttrs(path string, err error) []any {
	var problems yamldoc.Problems
	if !errors.As(err, &problems) {
		return []any{"path", path, "error", err}
	}
	lines := make([]string, min(len(problems), maxLogged))
	for i := range lines {
		lines[i] = problems[i].String()
	}
	return []any{"path", path, "count", len(problems), "problems", lines}
}
