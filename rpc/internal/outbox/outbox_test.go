// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// newOutbox returns an outbox that delivers by deliver.
func newOutbox(t testing.TB, o Options, deliver func(context.Context, *pb.Item) error) *Outbox {
	t.Helper()
	o.Deliver = deliver
	b, err := New(o)
	if err != nil {
		t.Fatalf("New: %v", err)
	}
	return b
}

// running runs b until the test ends.
func running(t testing.TB, b *Outbox) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- b.Run(ctx) }()
	var stopped atomic.Bool
	stop = func() {
		if stopped.Swap(true) {
			return
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("Run = %v, want nil", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

func put(t testing.TB, b *Outbox, items ...*pb.Item) {
	t.Helper()
	for _, item := range items {
		if err := b.Put(item); err != nil {
			t.Fatalf("Put %s: %v", describe(item), err)
		}
	}
}

func TestOptions(t *testing.T) {
	_, err := New(Options{MaxEntries: -1, MaxBytes: -2, MaxInFlight: 3, MaxAge: -4, Timeout: -5})
	for _, want := range []string{
		"deliver: must not be nil",
		"max_entries: must be at least 1, got -1",
		"max_bytes: must be at least 1, got -2",
		"max_in_flight: must be at least 4, got 3",
		"max_age: must not be negative, got -4ns",
		"timeout: must not be negative, got -5ns",
	} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New = %v, want %q in it", err, want)
		}
	}
}

// TestErrors: which errors drop a call, and which are retried.
func TestErrors(t *testing.T) {
	wrapped := fmt.Errorf("deliver: %w", status.Error(codes.NotFound, "unknown reservation"))
	tests := []struct {
		err  error
		want Reason // empty: temporary
	}{
		{status.Error(codes.NotFound, "x"), Unknown},
		{wrapped, Unknown},
		{status.Error(codes.AlreadyExists, "x"), Conflict},
		{status.Error(codes.InvalidArgument, "x"), Invalid},
		{status.Error(codes.FailedPrecondition, "x"), Invalid},
		{status.Error(codes.OutOfRange, "x"), Invalid},
		{status.Error(codes.DataLoss, "x"), Invalid},
		{status.Error(codes.Unavailable, "x"), ""},
		{status.Error(codes.DeadlineExceeded, "x"), ""},
		{status.Error(codes.ResourceExhausted, "x"), ""},
		{status.Error(codes.Canceled, "x"), ""},
		{status.Error(codes.Aborted, "x"), ""},
		{status.Error(codes.Unauthenticated, "x"), ""},
		{status.Error(codes.PermissionDenied, "x"), ""},
		{status.Error(codes.Unimplemented, "x"), ""},
		{status.Error(codes.Internal, "x"), ""},
		{status.Error(codes.Unknown, "x"), ""},
		{errors.New("connection is broken"), ""},
		{context.DeadlineExceeded, ""},
	}
	for _, test := range tests {
		synctest.Test(t, func(t *testing.T) {
			var delivered, retried, dropped atomic.Int64
			fail := true
			b := newOutbox(t, Options{Events: Events{
				Delivered: func(*pb.Item) { delivered.Add(1) },
				Retried:   func(*pb.Item, error) { retried.Add(1) },
				Dropped: func(_ *pb.Item, why Reason, err error) {
					dropped.Add(1)
					if why != test.want || !errors.Is(err, test.err) {
						t.Errorf("%v: dropped for %s, %v, want %s", test.err, why, err, test.want)
					}
				},
			}}, func(context.Context, *pb.Item) error {
				if fail {
					fail = false
					return test.err
				}
				return nil
			})
			running(t, b)
			put(t, b, cancel("a", "1"))
			synctest.Wait()
			if (b.Len() == 0) != (test.want != "") {
				t.Errorf("%v: %d entries after it", test.err, b.Len())
			}
			time.Sleep(time.Second)
			got := [3]int64{delivered.Load(), retried.Load(), dropped.Load()}
			if want := map[bool][3]int64{true: {0, 0, 1}, false: {1, 1, 0}}[test.want != ""]; got != want || b.Len() != 0 {
				t.Errorf("%v: delivered, retried, dropped = %v, want %v", test.err, got, want)
			}
		})
	}
}

// TestFrozenOwnerDoesNotDelayOthers: each attempt at an owner that hangs takes its whole
// timeout.
func TestFrozenOwnerDoesNotDelayOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		var live, tries atomic.Int64
		b := newOutbox(t, Options{Timeout: time.Second}, func(ctx context.Context, item *pb.Item) error {
			if rootOf(item) == "frozen" {
				tries.Add(1)
				<-ctx.Done()
				return ctx.Err()
			}
			live.Add(1)
			return nil
		})
		running(t, b)
		for i := range 1000 {
			put(t, b, check("frozen", fmt.Sprint(i)))
		}
		for i := range 100 {
			put(t, b, check("live", fmt.Sprint(i)))
			synctest.Wait()
			if live.Load() != int64(i+1) {
				t.Fatalf("%s after the start: %d of %d delivered", time.Since(begin), live.Load(), i+1)
			}
			time.Sleep(100 * time.Millisecond)
		}
		if n := tries.Load(); n > 16+10 {
			t.Errorf("%d attempts at the frozen owner in %s, want the first 16 and a few probes", n, time.Since(begin))
		}
	})
}

func TestRetryNow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		b := newOutbox(t, Options{}, func(context.Context, *pb.Item) error {
			if up.Load() {
				return nil
			}
			return status.Error(codes.Unavailable, "down")
		})
		running(t, b)
		put(t, b, reserve("a/x", "1"))
		time.Sleep(time.Minute) // now the waits are seconds
		if b.Len() != 1 {
			t.Errorf("Len() = %d, want the call that was put", b.Len())
		}
		up.Store(true)
		b.RetryNow()
		synctest.Wait()
		if b.Len() != 0 {
			t.Error("a kick has not delivered what waits")
		}
	})
}

func TestExpiredCallIsDropped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var dropped atomic.Int64
		begin := time.Now()
		b := newOutbox(t, Options{
			Events: Events{Dropped: func(_ *pb.Item, why Reason, _ error) {
				dropped.Add(1)
				if why != TooOld || time.Since(begin) < DefaultMaxAge {
					t.Errorf("dropped for %s after %s", why, time.Since(begin))
				}
			}},
		}, func(context.Context, *pb.Item) error { return errors.New("down") })
		running(t, b)
		for i := range 5 {
			put(t, b, check("a", fmt.Sprint(i)))
		}
		time.Sleep(DefaultMaxAge - time.Second)
		if dropped.Load() != 0 || b.Len() != 5 {
			t.Fatalf("%d dropped, %d left before the time", dropped.Load(), b.Len())
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if dropped.Load() != 5 || b.Len() != 0 {
			t.Errorf("%d dropped, %d left, want 5 and none", dropped.Load(), b.Len())
		}
	})
}

// TestDropsAreLoggedTogether: the first at once, the next ones together.
func TestDropsAreLoggedTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		b := newOutbox(t, Options{Logger: slog.New(slog.NewTextHandler(&log, nil))}, func(context.Context, *pb.Item) error {
			return status.Error(codes.NotFound, "unknown reservation")
		})
		stop := running(t, b)
		for i := range 100 {
			put(t, b, cancel("acme/alice", fmt.Sprint(i)))
			time.Sleep(150 * time.Millisecond)
		}
		stop()
		lines := strings.Split(strings.TrimSpace(log.String()), "\n")
		if len(lines) != 3 {
			t.Fatalf("%d lines in 15 s, want 3:\n%s", len(lines), log.String())
		}
		total := 0
		for _, line := range lines {
			var n int
			if _, after, ok := strings.Cut(line, "unknown_reservation="); ok {
				_, _ = fmt.Sscan(after, &n)
			}
			total += n
			if strings.Contains(line, "alice") {
				t.Errorf("a line names a key: %s", line)
			}
		}
		if total != 100 {
			t.Errorf("the lines count %d drops, want 100:\n%s", total, log.String())
		}
	})
}

func TestFlush(t *testing.T) {
	for _, withRun := range []bool{true, false} {
		synctest.Test(t, func(t *testing.T) {
			var up atomic.Bool
			b := newOutbox(t, Options{}, func(ctx context.Context, _ *pb.Item) error {
				if !up.Load() {
					return status.Error(codes.Unavailable, "down")
				}
				return nil
			})
			if withRun {
				running(t, b)
			}
			if err := b.Flush(t.Context()); err != nil {
				t.Errorf("Flush of nothing = %v", err)
			}
			for i := range 500 {
				put(t, b, check("a", fmt.Sprint(i)))
			}
			short, cancel := context.WithTimeout(t.Context(), 3*time.Second)
			defer cancel()
			begin := time.Now()
			err := b.Flush(short)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "500 calls left") || time.Since(begin) != 3*time.Second {
				t.Errorf("Flush = %v after %s, want 500 left after 3 s", err, time.Since(begin))
			}
			time.AfterFunc(time.Second, func() { up.Store(true) })
			begin = time.Now()
			if err := b.Flush(t.Context()); err != nil || b.Len() != 0 || time.Since(begin) > 3*time.Second {
				t.Errorf("Flush = %v after %s with %d left, want none within 3 s", err, time.Since(begin), b.Len())
			}
		})
	}
}

// TestFlushTakesOver: Flush delivers what an ended Run left.
func TestFlushTakesOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var stopped atomic.Bool
		b := newOutbox(t, Options{Timeout: time.Minute}, func(ctx context.Context, _ *pb.Item) error {
			if stopped.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		stop := running(t, b)
		put(t, b, check("a", "1"))
		flushed := make(chan error)
		go func() { flushed <- b.Flush(t.Context()) }()
		synctest.Wait()
		stopped.Store(true)
		stop()
		if err := <-flushed; err != nil || b.Len() != 0 {
			t.Errorf("Flush = %v with %d left, want none", err, b.Len())
		}
	})
}

func TestClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newOutbox(t, Options{MaxEntries: 1}, func(context.Context, *pb.Item) error { return nil })
		put(t, b, check("a", "1"))
		if err := b.Put(check("a", "2")); !errors.Is(err, ErrFull) || !strings.Contains(err.Error(), "1 calls wait") {
			t.Errorf("Put to a full outbox = %v, want ErrFull with the number", err)
		}
		b.Close()
		if err := b.Put(check("a", "2")); !errors.Is(err, ErrClosed) {
			t.Errorf("Put after Close = %v, want ErrClosed", err)
		}
		if err := b.Flush(t.Context()); err != nil || b.Len() != 0 {
			t.Errorf("Flush after Close = %v with %d left, want none", err, b.Len())
		}
	})
}

// TestRunStopsImmediately and keeps the calls in flight for the next Run.
func TestRunStopsImmediately(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var up atomic.Bool
		b := newOutbox(t, Options{}, func(ctx context.Context, _ *pb.Item) error {
			if up.Load() {
				return nil
			}
			<-ctx.Done()
			return ctx.Err()
		})
		stop := running(t, b)
		put(t, b, check("a", "1"))
		synctest.Wait()
		begin := time.Now()
		stop()
		if time.Since(begin) != 0 || b.Len() != 1 {
			t.Errorf("stopped after %s with %d left, want at once with 1", time.Since(begin), b.Len())
		}
		up.Store(true)
		running(t, b)
		synctest.Wait()
		if b.Len() != 0 {
			t.Error("the next Run waits, want an attempt at once")
		}
	})
}
