// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

// TestFailover: with two servers in the URL, a feed goes on with the second when the first
// stops, reads and is notified there, and says which one it uses. It stays there until the
// second stops.
func TestFailover(t *testing.T) {
	for _, attrs := range []string{"any", "read-write"} {
		t.Run(attrs, func(t *testing.T) {
			first, second := pgtest.Start(t), pgtest.Start(t)
			one, two := first.Database(t, Schema(), small), second.Database(t, Schema(), small)
			two.Exec(t, "UPDATE bucketring_limits SET amount = 60000 WHERE tier = 'gold'")
			url := strings.Replace(one.URL, first.Addr(), first.Addr()+","+second.Addr(), 1) + "?target_session_attrs=" + attrs
			name := "postgres://" + first.Addr() + "," + second.Addr() + "/db1"
			logged := &lines{}
			f, err := New(Options{URL: url, Catalog: limiter.NewCatalog(), Interval: time.Hour, Logger: slog.New(slog.NewTextHandler(logged, nil))})
			check(t, err)
			defer f.Close()
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { f.Run(ctx); close(done) }()
			defer func() { cancel(); <-done }()

			wantServer := func(server, before string) {
				t.Helper()
				want := fmt.Sprintf("path=%s server=%s before=%s\n", name, server, before)
				if text := logged.take(); !strings.HasSuffix(text, want) || strings.Contains(text, pgtest.Password) {
					t.Errorf("the log is\n%swant %q at its end, and no password", text, want)
				}
			}
			// notified waits until a change is known without a poll.
			notified := func(key, tier string) {
				t.Helper()
				deadline := waittest.Context(t, waittest.Limit)
				for {
					p, err := f.Load(deadline, false)
					check(t, err)
					if got := tierOf(t, p, key); got == tier {
						return
					} else if f.Wait(deadline); deadline.Err() != nil {
						t.Fatalf("%s has %s after %s, want %s", key, got, waittest.Limit, tier)
					}
				}
			}
			notified("acme/alice", "gold 50000")
			wantServer(first.Addr(), "none")

			first.Kill()
			notified("acme/alice", "gold 60000") // all rows are read again, without an error
			wantServer(second.Addr(), first.Addr())
			if f.full != 2 {
				t.Errorf("all rows were read %d times, want twice", f.full)
			}
			observer := two.Connect(t)
			waittest.Until(t, "a connection that listens at the second server", func() bool {
				var n int
				check(t, observer.QueryRow(ctx, "SELECT count(*) FROM pg_stat_activity WHERE query ILIKE 'listen%' AND application_name = 'bucketring'").Scan(&n))
				return n == 1
			})
			two.Exec(t, "UPDATE bucketring_limits SET amount = 70000 WHERE tier = 'gold'")
			notified("acme/alice", "gold 70000")

			first.Run(t) // nothing changes until the connection ends
			two.Exec(t, "UPDATE bucketring_limits SET amount = 80000 WHERE tier = 'gold'")
			notified("acme/alice", "gold 80000")
			if text := logged.take(); text != "" || f.full != 2 {
				t.Errorf("after the first server came back all rows were read %d times, want twice, and the log is %q, want none", f.full, text)
			}
			second.Kill()
			notified("acme/alice", "gold 50000")
			wantServer(first.Addr(), second.Addr())

			first.Kill() // and nobody is left
			_, err = f.Load(ctx, false)
			for _, part := range []string{name, first.Addr(), second.Addr()} {
				if err == nil || !strings.Contains(err.Error(), part) || strings.Contains(err.Error(), pgtest.Password) {
					t.Errorf("Load without a server = %v, want an error with %s and no password", err, part)
				}
			}
		})
	}
}

// TestFirstServerIsReadOnly: with target_session_attrs=read-write a server that takes no
// changes, such as a standby, is passed over, and so is one that does not answer.
func TestFirstServerIsReadOnly(t *testing.T) {
	readOnly, server := pgtest.Start(t), pgtest.Start(t)
	readOnly.Database(t, Schema(), "ALTER DATABASE db1 SET default_transaction_read_only = on")
	d := server.Database(t, Schema(), small)
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer silent.Close()
	d.URL = strings.Replace(d.URL, server.Addr(), silent.Addr().String()+","+readOnly.Addr()+","+server.Addr(), 1) + "?target_session_attrs=read-write&connect_timeout=1"
	want(t, load(t, newFeed(t, d)), "acme/alice", "gold 50000")
}

// lines is a log that may be written while it is read.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(b)
}

// take returns what was written since the last take.
func (l *lines) take() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	defer l.text.Reset()
	return l.text.String()
}
