// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
)

const waitFor = 30 * time.Second // for anything that takes as long as it takes

// open opens a target, waits until it answers, and closes it after the test.
func open(t testing.TB, spec string, o Options) bench.Target {
	t.Helper()
	if o.Timeout == 0 {
		o.Timeout = 10 * time.Second // a machine that is busy is not a server that is away
	}
	target, err := Open(spec, o)
	if err != nil {
		t.Fatalf("Open(%q) = %v", spec, err)
	}
	t.Cleanup(func() {
		if err := target.Close(); err != nil {
			t.Errorf("Close(%q) = %v", spec, err)
		}
	})
	ctx, cancel := context.WithTimeout(context.Background(), waitFor)
	defer cancel()
	if err := Ready(ctx, target); err != nil {
		t.Fatal(err)
	}
	return target
}

func check(t testing.TB, target bench.Target, c bench.Call) bench.Answer {
	t.Helper()
	a, err := target.Check(t.Context(), &c)
	if err != nil {
		t.Fatalf("%s: Check(%+v) = %v", target.Name(), c, err)
	}
	return a
}

// storm sends calls checks from 48 goroutines and counts those allowed. All others
// must be denied.
func storm(t *testing.T, target bench.Target, calls int, call bench.Call) (allowed int) {
	t.Helper()
	var next, granted atomic.Int64
	var wg sync.WaitGroup
	for range 48 {
		wg.Go(func() {
			for {
				n := next.Add(1)
				if n > int64(calls) {
					return
				}
				c := call
				c.ID = fmt.Sprintf("%s/%d", call.Key, n) // ids count within the root of a key
				a, err := target.Check(t.Context(), &c)
				switch {
				case err != nil:
					t.Errorf("%s: Check %d = %v", target.Name(), n, err)
					return
				case a.Outcome == bench.Allowed:
					granted.Add(1)
				case a.Outcome != bench.Denied || a.Reason != "limit_exceeded":
					t.Errorf("%s: Check %d = %+v, want allowed, or denied for limit_exceeded", target.Name(), n, a)
				}
			}
		})
	}
	wg.Wait()
	return int(granted.Load())
}

// wantExactly checks that a limit of 1,000 allows exactly 1,000 calls.
func wantExactly(t *testing.T, target bench.Target, call bench.Call) {
	t.Helper()
	const limit = 1000
	if got := storm(t, target, limit+200, call); got != limit {
		t.Errorf("%s: %d calls were allowed, want %d", target.Name(), got, limit)
	}
}

// wantUsed checks the usage of one limit of a key.
func wantUsed(t *testing.T, target bench.Target, key, tier, dimension string, used, limit int64) {
	t.Helper()
	reader, ok := target.(bench.UsageReader)
	if !ok {
		t.Fatalf("%s is not a UsageReader", target.Name())
	}
	states, err := reader.ReadUsage(t.Context(), key, tier, "")
	if err != nil {
		t.Fatalf("%s: ReadUsage(%s) = %v", target.Name(), key, err)
	}
	for _, s := range states {
		if s.Dimension == dimension && s.Scope == key {
			if s.Used != used || s.Limit != limit {
				t.Errorf("%s: %s of %s: used %d of %d, want %d of %d", target.Name(), dimension, key, s.Used, s.Limit, used, limit)
			}
			return
		}
	}
	t.Errorf("%s: ReadUsage(%s) = %+v, want a limit on %s", target.Name(), key, states, dimension)
}

// wantLate checks that a target returns at the deadline of its context, with
// DeadlineExceeded.
func wantLate(t *testing.T, spec string, o Options) {
	t.Helper()
	target, err := Open(spec, o)
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	ask := func(ctx context.Context, what string) {
		t.Helper()
		start := time.Now()
		a, err := target.Check(ctx, &bench.Call{Key: "acme/alice", ID: "late"})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: Check with %s = %+v, %v, want context.DeadlineExceeded", spec, what, a, err)
		}
		if took := time.Since(start); took > 5*time.Second {
			t.Errorf("%s: Check with %s took %v", spec, what, took)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	ask(ctx, "a deadline")
	ask(ctx, "a deadline that is over")
	ask(t.Context(), "no deadline") // Options.Timeout
}

// silence returns the address of a server that accepts connections and never answers.
func silence(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var conns []net.Conn
	done := make(chan struct{}) // closed when accepting has ended
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		_ = l.Close()
		<-done
		for _, c := range conns {
			_ = c.Close()
		}
	})
	return l.Addr().String()
}

func wantNoReservations(t *testing.T, target bench.Target) {
	t.Helper()
	if _, err := target.Reserve(t.Context(), &bench.Call{Key: "acme"}); !errors.Is(err, bench.ErrNoReservations) {
		t.Errorf("%s: Reserve = %v, want %v", target.Name(), err, bench.ErrNoReservations)
	}
	if _, err := target.Settle(t.Context(), bench.Usage{Key: "acme"}); !errors.Is(err, bench.ErrNoReservations) {
		t.Errorf("%s: Settle = %v, want %v", target.Name(), err, bench.ErrNoReservations)
	}
}
