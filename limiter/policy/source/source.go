// SPDX-License-Identifier: Apache-2.0

// Package source keeps the policy of a node up to date with its files. A
// [Store] always has a policy that compiles: files that don't are reported and
// otherwise ignored. How changes are noticed is internal/filewatch's.
package source

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

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Options configure a [Store].
type Options struct {
	// Path is a file, or a directory whose *.yaml files are one policy. Empty:
	// the embedded default policy, which never changes.
	Path    string
	Catalog *limiter.Catalog // required
	Logger  *slog.Logger     // nil: no log
	// Debounce is how long files must be left alone before they are read
	// again, Poll how often they are read without an event. Defaults: 250 ms
	// and 1 min.
	Debounce, Poll time.Duration
	// OnChange is called after each load that succeeded but the first, one call
	// at a time, when the policy is current. It must not block or call the Store.
	OnChange func(*policy.Policy)
}

func (o Options) withDefaults() Options {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	o.Debounce = cmp.Or(o.Debounce, 250*time.Millisecond)
	o.Poll = cmp.Or(o.Poll, time.Minute)
	return o
}

// Validate reports every option that cannot be used.
func (o Options) Validate() error {
	var problems []error
	if o.Catalog == nil {
		problems = append(problems, errors.New("catalog: must be set"))
	}
	if o.Debounce < 0 {
		problems = append(problems, fmt.Errorf("debounce: must not be negative, got %s", o.Debounce))
	}
	if o.Poll < 0 {
		problems = append(problems, fmt.Errorf("poll: must not be negative, got %s", o.Poll))
	}
	return errors.Join(problems...)
}

// Status is what a store has loaded and how the last attempt went.
type Status struct {
	Path     string    `json:"path,omitempty"` // "": the embedded default
	Digest   string    `json:"digest"`
	Version  string    `json:"version"`
	LoadedAt time.Time `json:"loaded_at"` // of the last success
	// LastError is what is wrong with the files now, "" if the last attempt
	// succeeded. LastErrorAt stays.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	Reloads     int64     `json:"reloads"` // successful ones, the first load not counted
	Failures    int64     `json:"failures"`
}

// A Store is safe for concurrent use; reading the current policy is one atomic
// load.
type Store struct {
	options Options
	current atomic.Pointer[policy.Policy]

	// loading makes loads one at a time, and guards attempt.
	loading sync.Mutex
	attempt attempt

	mu struct {
		sync.Mutex // held for no I/O
		status     Status
	}
}

// attempt identifies what the last load saw: content, or why there was none.
type attempt struct {
	content [sha256.Size]byte
	failure string
}

// New loads the policy. The error of files that don't compile wraps a
// [policy.Problems].
func New(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("policy source: %w", err)
	}
	s := &Store{options: o.withDefaults()}
	s.mu.status.Path = o.Path
	if o.Path == "" {
		s.succeed(policy.Default(o.Catalog))
		return s, nil
	}
	files, err := filewatch.Read(o.Path)
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	s.attempt = attempt{content: filewatch.Digest(files)}
	p, err := policy.ParseFiles(policyFiles(files), o.Catalog)
	if err != nil {
		return nil, fmt.Errorf("load policy: %w", err)
	}
	s.succeed(p)
	return s, nil
}

// Current returns the policy to decide by. Callers load it once per request.
func (s *Store) Current() *policy.Policy { return s.current.Load() }

// Status returns a copy.
func (s *Store) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.mu.status
}

// Reload reads the files now, compiles them, logs what changes and swaps. If it
// fails, nothing changes but [Status]; the caller logs the error. SIGHUP, an
// admin call and the watch share this path.
func (s *Store) Reload() error {
	if s.options.Path == "" {
		return nil
	}
	s.loading.Lock()
	defer s.loading.Unlock()
	_, err := s.loadLocked(true)
	return err
}

// refresh is Reload if the files are not as the last load saw them. It reports
// whether they were not.
func (s *Store) refresh() (bool, error) {
	s.loading.Lock()
	defer s.loading.Unlock()
	return s.loadLocked(false)
}

// loadLocked needs loading.
func (s *Store) loadLocked(always bool) (bool, error) {
	files, err := filewatch.Read(s.options.Path)
	now := attempt{}
	if err != nil {
		now.failure = err.Error()
	} else {
		now.content = filewatch.Digest(files)
	}
	if now == s.attempt && !always {
		return false, nil
	}
	s.attempt = now
	var p *policy.Policy
	if err == nil {
		p, err = policy.ParseFiles(policyFiles(files), s.options.Catalog)
	}
	if err != nil {
		err = fmt.Errorf("reload policy: %w", err)
		s.fail(err)
		return true, err
	}
	old := s.Current()
	s.succeed(p)
	s.logChange(old, p)
	if s.options.OnChange != nil {
		s.options.OnChange(p)
	}
	return true, nil
}

// succeed makes p current.
func (s *Store) succeed(p *policy.Policy) {
	first := s.current.Swap(p) == nil
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.status
	st.Digest, st.Version, st.LoadedAt, st.LastError = p.Digest(), p.VersionString(), time.Now(), ""
	if !first {
		st.Reloads++
	}
}

func (s *Store) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := &s.mu.status
	st.LastError, st.LastErrorAt = err.Error(), time.Now()
	st.Failures++
}

// maxLogged bounds the lists in one log line.
const maxLogged = 50

func (s *Store) logChange(old, p *policy.Policy) {
	changes := policy.Diff(old, p)
	if len(changes) == 0 {
		s.options.Logger.Info("policy unchanged", "path", s.options.Path, "version", p.VersionString())
		return
	}
	total := len(changes)
	s.options.Logger.Info("policy changed", "path", s.options.Path,
		"from", old.VersionString(), "version", p.VersionString(),
		"count", total, "changes", changes[:min(total, maxLogged)])
}

// logFailure logs what is wrong with the files, a problem to a list item.
func (s *Store) logFailure(err error) {
	var problems policy.Problems
	if !errors.As(err, &problems) {
		s.options.Logger.Error("policy not reloaded", "path", s.options.Path, "error", err)
		return
	}
	lines := make([]string, 0, min(len(problems), maxLogged))
	for _, p := range problems[:cap(lines)] {
		lines = append(lines, p.String())
	}
	s.options.Logger.Error("policy not reloaded", "path", s.options.Path, "count", len(problems), "problems", lines)
}

func policyFiles(files []filewatch.File) []policy.File {
	list := make([]policy.File, len(files))
	for i, f := range files {
		list[i] = policy.File{Name: f.Name, Source: f.Source}
	}
	return list
}

// Run reloads the policy whenever its files change, until ctx is done; then it
// returns nil. A failed reload is logged once, and tried again when the files
// change again.
func (s *Store) Run(ctx context.Context) error {
	if s.options.Path == "" {
		<-ctx.Done()
		return nil
	}
	filewatch.Run(ctx, filewatch.Options{
		Path: s.options.Path, Logger: s.options.Logger, Debounce: s.options.Debounce, Poll: s.options.Poll,
		Refresh: func() {
			if changed, err := s.refresh(); changed && err != nil {
				s.logFailure(err)
			}
		},
	})
	return nil
}
