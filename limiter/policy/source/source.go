// SPDX-License-Identifier: Apache-2.0

// Package source keeps the policy of a node up to date with its files. A
// [Store] always has a valid policy: files with problems are reported and
// change nothing.
package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Options configure a [Store].
type Options struct {
	// Path is a file, or a directory whose *.yaml files are one policy. Empty:
	// the built-in policy, which never changes.
	Path    string
	Catalog *limiter.Catalog // required
	Logger  *slog.Logger     // nil: no log
	// Debounce is how long to wait after the last event before reading the files
	// again (default: 250 ms); Poll is how often to read them without an event
	// (default: 1 min).
	Debounce, Poll time.Duration
	// OnChange is called after each successful load but the first, one call at a
	// time, when the policy is current. It must not block or call the Store.
	OnChange func(*policy.Policy)
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

// Status is what a store has loaded and how the last attempt went. Path is empty
// for the built-in policy.
type Status struct {
	filewatch.Status
	Digest  string `json:"digest"`
	Version string `json:"version"`
}

// A Store is safe for concurrent use.
type Store struct {
	path   string
	log    *slog.Logger
	loader *filewatch.Loader[policy.Policy]
}

// New loads the policy. The error of files with problems wraps a
// [policy.Problems].
func New(o Options) (*Store, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("policy source: %w", err)
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Store{path: o.Path, log: o.Logger}
	var err error
	s.loader, err = filewatch.Load(filewatch.Options[policy.Policy]{
		Path: o.Path, Large: true, What: "policy", Logger: o.Logger, Debounce: o.Debounce, Poll: o.Poll,
		Parse: func(files []yamldoc.File) (*policy.Policy, error) {
			if o.Path == "" {
				return policy.Default(o.Catalog), nil
			}
			return policy.ParseFiles(files, o.Catalog)
		},
		OnReload: func(old, p *policy.Policy) {
			s.logChange(old, p)
			if o.OnChange != nil {
				o.OnChange(p)
			}
		},
		OnError: func(err error) { s.log.Error("policy not reloaded", filewatch.LogAttrs(s.path, err)...) },
	})
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Current returns the policy to decide by, with one atomic load. Load it once per
// request.
func (s *Store) Current() *policy.Policy { return s.loader.Current() }

// Status returns the status.
func (s *Store) Status() Status {
	status, p := s.loader.Status()
	return Status{status, p.Digest(), p.VersionString()}
}

// Reload loads the files now and logs what changes in the policy. If it fails,
// nothing changes but [Status], and the caller logs the error.
func (s *Store) Reload() error { return s.loader.Reload() }

// Run reloads the policy whenever its files change, until ctx is done; then it
// returns nil. A failure is logged once; the next attempt waits until the files
// change again.
func (s *Store) Run(ctx context.Context) error {
	s.loader.Run(ctx)
	return nil
}

// maxLogged bounds the list of changes in one log line.
const maxLogged = 50

func (s *Store) logChange(old, p *policy.Policy) {
	changes, total := policy.DiffMost(old, p, maxLogged)
	if total == 0 {
		s.log.Info("policy unchanged", "path", s.path, "version", p.VersionString())
		return
	}
	s.log.Info("policy changed", "path", s.path,
		"from", old.VersionString(), "version", p.VersionString(),
		"count", total, "changes", changes)
}
