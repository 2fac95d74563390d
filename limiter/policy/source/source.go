// SPDX-License-Identifier: Apache-2.0

// Package source keeps the policy of a node up to date with its source: files, a URL, or
// a database. A [Store] always has a valid policy: a source with problems is reported
// and changes nothing.
package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/url"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source/web"
)

// Options configure a [Store].
type Options struct {
	// Path is a file, or a directory whose *.yaml files are one policy, or the URL of a
	// file, https://..., or of a database, postgres://.... Empty: the built-in policy,
	// which never changes.
	Path    string
	Catalog *limiter.Catalog // required
	Logger  *slog.Logger     // nil: no log
	// Debounce is how long to wait after the last event before reading the files
	// again (default: 250 ms); Poll is how often to read them without an event
	// (default: 1 min).
	Debounce, Poll time.Duration
	// Interval is how often to ask a URL, and a database without a notification
	// (default: 10 s).
	Interval time.Duration
	// Directory keeps the last valid policy of a URL or a database, so that a store can be
	// made while its source is down. Empty: it is not kept.
	Directory string
	// TokenFile has the bearer token for a URL, and TLS the files for https.
	TokenFile string
	TLS       web.TLSFiles
	// Insecure allows connections to other machines without encryption.
	Insecure bool
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
	if o.Interval < 0 {
		problems = append(problems, fmt.Errorf("interval: must not be negative, got %s", o.Interval))
	}
	return errors.Join(problems...)
}

// Status is what a store has loaded and how the last attempt went. Path is empty for the
// built-in policy, and a URL is without its credentials.
type Status struct {
	filewatch.Status
	Digest  string `json:"digest"`
	Version string `json:"version"`
	// Source is the kind of a source that is no file: http, https or postgres.
	Source string `json:"source,omitempty"`
	// ConfirmedAt is when such a source last said which policy is in force.
	ConfirmedAt time.Time `json:"confirmed_at,omitzero"`
	// StaleSince is when such a source was first found without a valid policy, if it has
	// none now: it is down, or its policy has problems. LastError says which.
	StaleSince time.Time `json:"stale_since,omitzero"`
	// LastGood says that the policy in force is the one that was kept on disk, because
	// the source has had no valid one since this process began.
	LastGood bool `json:"last_good,omitempty"`
}

// A Store is safe for concurrent use.
type Store struct{ keeper }

// keeper keeps the policy of one kind of source. Its methods are those of [Store].
type keeper interface {
	Current() *policy.Policy
	Status() Status
	Reload() error
	Run(ctx context.Context) error
	Name() string
	close() // of a store that does not run
}

// New loads the policy. The error of a source with problems wraps a [policy.Problems].
func New(o Options) (*Store, error) {
	k, err := open(o)
	if err != nil {
		return nil, err
	}
	return &Store{k}, nil
}

// Load loads a policy once, for a command that runs no node.
func Load(o Options) (*policy.Policy, error) {
	k, err := open(o)
	if err != nil {
		return nil, err
	}
	k.close()
	return k.Current(), nil
}

func open(o Options) (keeper, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("policy source: %w", err)
	}
	o.Interval = cmp.Or(o.Interval, 10*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	feed, kind, err := feedOf(o)
	if err != nil {
		return nil, err
	}
	if feed == nil {
		return newFiles(o)
	}
	return newRemote(o, feed, kind)
}

// Current returns the policy to decide by, with one atomic load. Load it once per
// request.
func (s *Store) Current() *policy.Policy { return s.keeper.Current() }

// Status returns the status.
func (s *Store) Status() Status { return s.keeper.Status() }

// Reload loads the policy now, changed or not, and logs what changes in it. If it fails,
// nothing changes but [Status], and the caller logs the error.
func (s *Store) Reload() error { return s.keeper.Reload() }

// Run reloads the policy whenever its source changes, until ctx is done; then it
// returns nil. A failure is logged once; the next attempt waits until the source may have
// changed.
func (s *Store) Run(ctx context.Context) error { return s.keeper.Run(ctx) }

// Name returns the path, or the URL without its credentials.
func (s *Store) Name() string { return s.keeper.Name() }

// Redacted returns a path as it is, and a URL without its credentials and parameters.
func Redacted(path string) string {
	if !strings.Contains(path, "://") {
		return path
	}
	u, err := url.Parse(path)
	if err != nil {
		return "the URL"
	}
	return (&url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}).String()
}

// maxLogged bounds the list of changes in one log line.
const maxLogged = 50

// logChange logs what is different in a new policy.
func logChange(log *slog.Logger, name string, old, p *policy.Policy) {
	changes, total := policy.DiffMost(old, p, maxLogged)
	if total == 0 {
		log.Info("policy unchanged", "path", name, "version", p.VersionString())
		return
	}
	log.Info("policy changed", "path", name,
		"from", old.VersionString(), "version", p.VersionString(),
		"count", total, "changes", changes)
}
