// SPDX-License-Identifier: Apache-2.0

package source

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/filewatch"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source/postgres"
	"github.com/bucketring/bucketring/limiter/policy/source/web"
)

// feed is a source that is no file. Load is called by one goroutine at a time, and Wait
// and Run may run at the same time.
type feed interface {
	// Load returns the policy: that of the last call if it did not change. With all set it
	// reads everything again. An error that is no policy.Problems means that the source
	// did not answer.
	Load(ctx context.Context, all bool) (*policy.Policy, error)
	// Wait returns when the policy may have changed, or ctx is done.
	Wait(ctx context.Context)
	// Run does until ctx is done what Wait needs.
	Run(ctx context.Context)
	Close()
	// Name is the URL without credentials.
	Name() string
}

// feedOf returns the feed of a URL and its kind; nil if the path is no URL.
func feedOf(o Options) (f feed, kind string, err error) {
	kind, _, isURL := strings.Cut(o.Path, "://")
	switch kind = strings.ToLower(kind); {
	case !isURL:
		return nil, "", nil
	case kind == "https" || kind == "http":
		f, err = web.New(web.Options{
			URL: o.Path, Catalog: o.Catalog, TokenFile: o.TokenFile, Files: o.TLS, Insecure: o.Insecure, Interval: o.Interval,
		})
	case kind == "postgres" || kind == "postgresql":
		kind = "postgres"
		f, err = postgres.New(postgres.Options{URL: o.Path, Catalog: o.Catalog, Logger: o.Logger, Insecure: o.Insecure, Interval: o.Interval})
	default:
		return nil, "", fmt.Errorf("policy: a URL must begin with https:// or postgres://, got %.20q", kind+"://")
	}
	return f, kind, err
}

// remote keeps the policy of a feed.
type remote struct {
	feed     feed
	kind     string
	log      *slog.Logger
	onChange func(*policy.Policy)
	kept     *lastGood     // nil: the policy is not kept on disk
	newer    chan struct{} // says that kept should have the current policy
	current  atomic.Pointer[policy.Policy]

	loading sync.Mutex // held during a load
	mu      struct {
		sync.Mutex // held for no I/O
		status     Status
	}
}

// startTimeout bounds how long a store waits for its source when it is made.
const startTimeout = 3 * time.Minute

func newRemote(o Options, f feed, kind string) (*remote, error) {
	r := &remote{feed: f, kind: kind, log: o.Logger, onChange: o.OnChange, newer: make(chan struct{}, 1)}
	r.mu.status.Path, r.mu.status.Source = f.Name(), kind
	if o.Directory != "" {
		r.kept = &lastGood{directory: o.Directory, source: f.Name(), catalog: o.Catalog}
	}
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	p, err := f.Load(ctx, true)
	if err == nil {
		r.succeed(p)
		return r, nil
	}
	if r.kept == nil {
		f.Close()
		return nil, fmt.Errorf("load policy: %w", err)
	}
	p, at, keptErr := r.kept.read()
	if keptErr != nil {
		f.Close()
		return nil, fmt.Errorf("load policy: %w; and there is no last good policy to start with: %w", err, keptErr)
	}
	r.fail(fmt.Errorf("load policy: %w", err))
	r.current.Store(p)
	r.mu.status.LoadedAt, r.mu.status.LastGood = at, true
	o.Logger.Error("the source of the policy has none that is valid: started with the last good policy, and trying again",
		append(filewatch.LogAttrs(f.Name(), err), "version", p.VersionString(), "of", at.UTC().Format(time.RFC3339), "file", r.kept.path())...)
	return r, nil
}

func (r *remote) Current() *policy.Policy { return r.current.Load() }

func (r *remote) Name() string { return r.feed.Name() }

func (r *remote) close() {
	r.loading.Lock()
	defer r.loading.Unlock()
	r.feed.Close()
}

func (r *remote) Status() Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	s, p := r.mu.status, r.current.Load()
	s.Digest, s.Version = p.Digest(), p.VersionString()
	return s
}

// succeed makes p current, and returns the status and the policy before.
func (r *remote) succeed(p *policy.Policy) (before Status, old *policy.Policy) {
	r.mu.Lock()
	defer r.mu.Unlock()
	before, old = r.mu.status, r.current.Load()
	now, s := time.Now(), &r.mu.status
	if old != p {
		r.current.Store(p)
		select {
		case r.newer <- struct{}{}:
		default:
		}
		s.LoadedAt = now
		if old != nil {
			s.Reloads++
		}
	}
	s.ConfirmedAt, s.StaleSince, s.LastError, s.LastGood = now, time.Time{}, "", false
	return before, old
}

// fail records an error, and reports whether it is a new one.
func (r *remote) fail(err error) (isNew bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now, s := time.Now(), &r.mu.status
	if s.StaleSince.IsZero() {
		s.StaleSince = now
	}
	isNew = s.LastError != err.Error()
	s.LastError, s.LastErrorAt = err.Error(), now
	if isNew {
		s.Failures++
	}
	return isNew
}

// load loads the policy. It reports whether the result is another one than before.
func (r *remote) load(ctx context.Context, all bool) (changed bool, err error) {
	r.loading.Lock()
	defer r.loading.Unlock()
	p, err := r.feed.Load(ctx, all)
	if ctx.Err() != nil {
		return false, ctx.Err()
	}
	if err != nil {
		err = fmt.Errorf("reload policy: %w", err)
		return r.fail(err), err
	}
	before, old := r.succeed(p)
	if before.LastError != "" {
		r.log.Info("the source of the policy has a valid one again", "path", r.Name(), "after", time.Since(before.StaleSince).Round(time.Second))
	}
	if old == p {
		return false, nil
	}
	logChange(r.log, r.Name(), old, p)
	if r.onChange != nil {
		r.onChange(p)
	}
	return true, nil
}

func (r *remote) Reload() error {
	ctx, cancel := context.WithTimeout(context.Background(), startTimeout)
	defer cancel()
	_, err := r.load(ctx, true)
	return err
}

// minRetry and maxRetry are how soon a source is asked again that did not answer. The time
// doubles, and is up to a quarter longer at random.
const (
	minRetry = 250 * time.Millisecond
	maxRetry = 8 * time.Second
)

func (r *remote) Run(ctx context.Context) error {
	var work sync.WaitGroup
	work.Go(func() { r.feed.Run(ctx) })
	if r.kept != nil {
		work.Go(func() { r.keep(ctx) })
	}
	retry := minRetry
	var logged time.Time // the last error of a source that did not answer
	for ctx.Err() == nil {
		changed, err := r.load(ctx, false)
		var problems policy.Problems
		invalid := errors.As(err, &problems)
		if changed && err != nil && (invalid || time.Since(logged) > time.Minute) {
			r.log.Error("policy not reloaded", filewatch.LogAttrs(r.Name(), err)...)
			if !invalid {
				logged = time.Now()
			}
		}
		if err == nil || invalid {
			retry, logged = minRetry, time.Time{}
			r.feed.Wait(ctx)
			continue
		}
		sleep(ctx, retry+time.Duration(rand.Int64N(int64(retry)/4)))
		retry = min(2*retry, maxRetry)
	}
	work.Wait()
	r.close()
	return nil
}

// keep writes the policy to disk whenever it changed, until ctx is done, and then a last
// time. Writing takes at most a twentieth of the time.
func (r *remote) keep(ctx context.Context) {
	failed := false
	for {
		select {
		case <-ctx.Done():
			r.write(&failed)
			return
		case <-r.newer:
		}
		sleep(ctx, 20*r.write(&failed))
		for failed && ctx.Err() == nil {
			sleep(ctx, time.Minute)
			r.write(&failed)
		}
	}
}

// write writes the policy to disk, unless it is from there, and returns how long it took.
func (r *remote) write(failed *bool) time.Duration {
	s, began := r.Status(), time.Now()
	if s.LastGood {
		return 0
	}
	err := r.kept.write(r.Current(), s.LoadedAt)
	if err != nil && !*failed {
		r.log.Error("the last good policy is not kept: a restart while its source is down will have an older one, or none", "path", r.kept.path(), "error", err)
	}
	*failed = err != nil
	return time.Since(began)
}

func sleep(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
