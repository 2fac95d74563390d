// SPDX-License-Identifier: Apache-2.0

// Package postgres reads a policy from tables in PostgreSQL, and writes one into them.
// [Schema] has the tables.
//
// A [Feed] reads everything once, in one snapshot. Afterwards it reads only the rows that
// were changed: triggers list their keys together with the transaction, and each load
// asks for the transactions that the snapshot of the last load did not see. So
// transactions that are committed in another order than they began lose nothing. A
// notification says that there is something to read; a slow poll finds it without one.
//
// No error shows the password of the URL.
package postgres

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgxlisten"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Options configure a [Feed].
type Options struct {
	URL     string           // postgres://... or postgresql://...
	Catalog *limiter.Catalog // required
	Logger  *slog.Logger     // nil: no log
	// Insecure allows connections to other machines that are not encrypted.
	Insecure bool
	// Interval is the mean time between two looks for changes without a notification.
	// Default: 10 s.
	Interval time.Duration
}

// channel is the one that the triggers notify.
const channel = "bucketring_policy"

// Times to wait for the server: for what is answered at once, and to read all rows.
const (
	quickTimeout = 15 * time.Second
	readTimeout  = 2 * time.Minute
)

// A Feed reads a policy from a database. Load, Close and Name must not be used
// concurrently; Run and Wait may run at the same time.
type Feed struct {
	options Options
	config  *pgx.ConnConfig
	name    string
	conn    *pgx.Conn // nil: none
	server  string    // the address of the last connection; "": there was none
	wake    chan struct{}

	current *policy.Policy // nil: none was loaded
	last    position       // of the last load, whatever its result was
	lastErr error          // the problems of the last load
	pending pending        // what changed since current
	full    int            // how often all rows were read
}

// New returns the feed of a database, without connecting to it.
func New(o Options) (*Feed, error) {
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Interval <= 0 {
		o.Interval = 10 * time.Second
	}
	config, name, err := parseURL(o.URL, o.Insecure)
	if err != nil {
		return nil, err
	}
	return &Feed{options: o, config: config, name: name, wake: make(chan struct{}, 1), pending: pending{all: true}}, nil
}

// Name returns the URL without user, password and parameters.
func (f *Feed) Name() string { return f.name }

// Close ends the connection.
func (f *Feed) Close() {
	if f.conn != nil {
		closeConn(f.conn)
		f.conn = nil
	}
}

func closeConn(c *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	_ = c.Close(ctx) // there is nothing left to lose
}

// Run listens for notifications until ctx is done.
func (f *Feed) Run(ctx context.Context) {
	listener := pgxlisten.Listener{
		Connect:        func(ctx context.Context) (*pgx.Conn, error) { return connect(ctx, f.config) },
		ReconnectDelay: time.Second,
		LogError: func(_ context.Context, err error) {
			f.options.Logger.Debug("no notifications of policy changes, polling instead", "path", f.name, "error", err)
			f.notify() // if the server is gone, a load finds it out at once
		},
	}
	listener.Handle(channel, handler{f})
	_ = listener.Listen(ctx) // returns when ctx is done
}

// handler wakes a feed.
type handler struct{ *Feed }

func (h handler) HandleNotification(context.Context, *pgconn.Notification, *pgx.Conn) error {
	h.notify()
	return nil
}

// HandleBacklog is called when it begins to listen: changes before it were not notified.
func (h handler) HandleBacklog(context.Context, string, *pgx.Conn) error {
	h.notify()
	return nil
}

func (f *Feed) notify() {
	select {
	case f.wake <- struct{}{}:
	default:
	}
}

// Wait returns after a notification, or after an interval, 10 % shorter or longer at
// random.
func (f *Feed) Wait(ctx context.Context) {
	t := time.NewTimer(time.Duration((0.9 + 0.2*rand.Float64()) * float64(f.options.Interval)))
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	case <-f.wake:
	}
}

// Load returns the policy in the tables: that of the last call if nothing changed. With
// all set it reads every row again. The error is a [policy.Problems] if the policy is
// invalid; otherwise none was read.
func (f *Feed) Load(ctx context.Context, all bool) (*policy.Policy, error) {
	reused := f.conn != nil
	p, err := f.load(ctx, all)
	if err != nil && reused && f.conn == nil && ctx.Err() == nil {
		p, err = f.load(ctx, all) // the server may have been restarted
	}
	return p, err
}

// sayServer logs which server is in use if the URL has several and it is another than before.
func (f *Feed) sayServer() {
	before := f.server
	f.server = f.conn.PgConn().Conn().RemoteAddr().String()
	if f.server == before || len(serversOf(f.config)) < 2 {
		return
	}
	if before == "" {
		before = "none"
	}
	f.options.Logger.Info("connected to the database of the policy", "path", f.name, "server", f.server, "before", before)
}

// load loads once. It keeps the connection only if that works.
func (f *Feed) load(ctx context.Context, all bool) (p *policy.Policy, err error) {
	var problems policy.Problems
	defer func() {
		if err != nil && !errors.As(err, &problems) {
			f.Close()
			err = fmt.Errorf("%s: %w", f.name, advise(err))
		}
	}()
	if f.conn == nil {
		if f.conn, err = connect(ctx, f.config); err != nil {
			return nil, err
		}
		f.sayServer()
	}
	quick, cancel := context.WithTimeout(ctx, quickTimeout)
	defer cancel()
	lineage := readLineage(quick, f.conn)
	tx, err := f.conn.BeginTx(quick, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly})
	if err != nil {
		return nil, err
	}
	defer func() {
		if f.conn != nil {
			_ = tx.Rollback(ctx) // it only read
		}
	}()
	now, err := readPosition(quick, tx)
	if err != nil {
		return nil, err
	}
	now.lineage = lineage
	if all || !now.follows(f.last) {
		f.pending = pending{all: true}
	} else {
		changed, err := f.pending.read(quick, tx, f.last)
		if err != nil {
			return nil, err
		}
		if !changed {
			f.last = now
			return f.current, f.lastErr
		}
	}
	if f.pending.all {
		f.full++
	}
	reading, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	p, err = f.pending.apply(reading, tx, f.current, f.options.Catalog)
	if err != nil && !errors.As(err, &problems) {
		f.pending.all = true
		f.last = position{} // not read to the end
		return nil, err
	}
	f.last, f.lastErr = now, err
	if err == nil {
		f.current, f.pending = p, pending{}
	}
	return p, err
}
