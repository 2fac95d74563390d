// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/client"
)

// scene is a test in virtual time, with a cluster of fake nodes and a client that is
// connected to all of them.
type scene struct {
	*testing.T
	*fake
	c *client.Client
}

// run runs a scene without a ring: every call is unary.
func run(t *testing.T, o client.Options, addrs []string, test func(scene)) {
	t.Helper()
	o.DisableOwnerRouting = true
	runScene(t, o, addrs, func(*fake) {}, test)
}

// runBoth runs a scene without a ring, and one in which the client follows a ring of
// all nodes.
func runBoth(t *testing.T, o client.Options, addrs []string, test func(scene)) {
	t.Helper()
	t.Run("plain", func(t *testing.T) { run(t, o, addrs, test) })
	t.Run("ring", func(t *testing.T) { runRing(t, o, addrs, test) })
}

// runRing runs a scene in which the client follows a ring of all nodes.
func runRing(t *testing.T, o client.Options, addrs []string, test func(scene)) {
	t.Helper()
	runScene(t, o, addrs, func(f *fake) { f.serveRing(f.ring(1, addrs...)) }, test)
}

func runScene(t *testing.T, o client.Options, addrs []string, prepare func(*fake), test func(scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f := newFake(addrs...)
		defer f.stop()
		prepare(f)
		c := f.dial(t, o, addrs...)
		defer func() { _ = c.Close() }()
		test(scene{t, f, c})
	})
}

func check(t scene) client.Decision {
	t.Helper()
	d, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"})
	if err != nil {
		t.Fatalf("Check() = %v, want a decision", err)
	}
	return d
}

func wantUnreachable(t scene, err error) {
	t.Helper()
	if !errors.Is(err, client.ErrUnreachable) {
		t.Errorf("Check() = %v, want ErrUnreachable", err)
	}
}

func wantTook(t scene, start time.Time, want time.Duration) {
	t.Helper()
	if got := time.Since(start); got != want {
		t.Errorf("Check() took %v, want %v", got, want)
	}
}

func TestLostAnswerChargesOnce(t *testing.T) {
	for _, code := range []codes.Code{codes.Unavailable, codes.DeadlineExceeded} {
		runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
			t.nodes["a"].behave(func(_ context.Context, nth int) error {
				if nth == 1 {
					return lostAnswer{status.Error(code, "lost")}
				}
				return nil
			})
			d := check(t)
			seen := t.nodes["a"].seen()
			if len(seen) != 2 || seen[0] != seen[1] || seen[0] == "" {
				t.Errorf("%v: node was sent ids %q, want one id twice", code, seen)
			}
			if got, want := t.charged(), seen[:1]; !slices.Equal(got, want) {
				t.Errorf("%v: charged %q, want %q", code, got, want)
			}
			if !d.Replayed || d.RequestID != seen[0] {
				t.Errorf("%v: Check() = replayed %v, id %q, want true, %q", code, d.Replayed, d.RequestID, seen[0])
			}
		})
	}
}

func TestAnotherNodeAfterASilentOne(t *testing.T) {
	run(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		for _, n := range t.nodes {
			n.behave(func(ctx context.Context, nth int) error {
				if n == t.nodes["a"] {
					return lostAnswer{silent(ctx, nth)}
				}
				return nil
			})
		}
		start := time.Now()
		check(t)
		check(t)
		wantTook(t, start, time.Second/3) // one of the two asked a: its share of the deadline
		a, b := t.nodes["a"].seen(), t.nodes["b"].seen()
		if len(a) != 1 || len(b) != 2 || !slices.Contains(b, a[0]) {
			t.Errorf("a was sent %q, b %q, want both calls at b, with the ids of a", a, b)
		}
		if got := len(t.charged()); got != 2 {
			t.Errorf("charged %d calls, want 2", got)
		}
	})
}

func TestAttemptsAreBounded(t *testing.T) {
	for _, attempts := range []int{1, 2, 3, 7} {
		for _, addrs := range [][]string{{"a"}, {"a", "b"}, {"a", "b", "c", "d"}} {
			run(t, client.Options{MaxAttempts: attempts, Timeout: time.Minute}, addrs, func(t scene) {
				var ids []string
				for _, n := range t.nodes {
					n.behave(always(codes.Unavailable))
				}
				_, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"})
				wantUnreachable(t, err)
				if status.Code(err) != codes.Unavailable {
					t.Errorf("status.Code(%v) = %v, want Unavailable", err, status.Code(err))
				}
				if errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Check() = %v, which is DeadlineExceeded, want not", err)
				}
				asked := 0
				for _, n := range t.nodes {
					ids = append(ids, n.seen()...)
					if len(n.seen()) > 0 {
						asked++
					}
				}
				if len(ids) != attempts || len(slices.Compact(ids)) != 1 {
					t.Errorf("nodes were sent %q, want one id %d times", ids, attempts)
				}
				if want := min(attempts, len(addrs)); asked != want {
					t.Errorf("%d attempts asked %d of %d nodes, want %d", attempts, asked, len(addrs), want)
				}
			})
		}
	}
}

func TestOtherStatusesAreNotRetried(t *testing.T) {
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		if code == codes.Unavailable || code == codes.DeadlineExceeded {
			continue
		}
		runBoth(t, client.Options{}, []string{"a", "b"}, func(t scene) {
			for _, n := range t.nodes {
				n.behave(always(code))
			}
			_, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"})
			if status.Code(err) != code {
				t.Errorf("Check() = %v, want the status %v", err, code)
			}
			if errors.Is(err, client.ErrUnreachable) {
				t.Errorf("Check() = %v, which is ErrUnreachable, want not", err)
			}
			if sent := len(t.nodes["a"].seen()) + len(t.nodes["b"].seen()); sent != 1 {
				t.Errorf("%v: sent %d times, want 1", code, sent)
			}
		})
	}
}

func TestDeadlines(t *testing.T) {
	tests := []struct {
		name     string
		options  client.Options
		deadline time.Duration // of the context; 0: none
		want     time.Duration
	}{
		{"none", client.Options{}, 0, time.Second},
		{"none, own timeout", client.Options{Timeout: 300 * time.Millisecond}, 0, 300 * time.Millisecond},
		{"short", client.Options{}, 200 * time.Millisecond, 200 * time.Millisecond},
		{"short, one attempt", client.Options{MaxAttempts: 1}, 200 * time.Millisecond, 200 * time.Millisecond},
		{"longer than the timeout", client.Options{MaxAttempts: 2}, 1500 * time.Millisecond, 1500 * time.Millisecond},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			runBoth(t, test.options, []string{"a", "b", "c"}, func(t scene) {
				for _, n := range t.nodes {
					n.behave(silent)
				}
				ctx := t.Context()
				if test.deadline > 0 {
					var cancel context.CancelFunc
					ctx, cancel = context.WithTimeout(ctx, test.deadline)
					defer cancel()
				}
				start := time.Now()
				_, err := t.c.Check(ctx, client.Call{Key: "acme/alice"})
				wantUnreachable(t, err)
				if !errors.Is(err, context.DeadlineExceeded) {
					t.Errorf("Check() = %v, want DeadlineExceeded", err)
				}
				wantTook(t, start, test.want)
			})
		})
	}
}

func TestSilentNodesCannotUseUpALongDeadline(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		for _, n := range t.nodes {
			n.behave(silent)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		_, err := t.c.Check(ctx, client.Call{Key: "acme/alice"})
		wantUnreachable(t, err)
		wantTook(t, start, 3*client.DefaultTimeout)
	})
}

// A node forgets the id of a check after 30 s, so a later attempt could charge twice.
func TestNoAttemptAfterIDsAreForgotten(t *testing.T) {
	runBoth(t, client.Options{Timeout: 10 * time.Second, MaxAttempts: 10}, []string{"a", "b", "c", "d"}, func(t scene) {
		var mu sync.Mutex
		var last time.Time
		for _, n := range t.nodes {
			n.behave(func(ctx context.Context, nth int) error {
				mu.Lock()
				last = time.Now()
				mu.Unlock()
				return silent(ctx, nth)
			})
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		start := time.Now()
		_, err := t.c.Check(ctx, client.Call{Key: "acme/alice"})
		wantUnreachable(t, err)
		mu.Lock()
		defer mu.Unlock()
		if at := last.Sub(start); at != 20*time.Second {
			t.Errorf("last attempt after %v, want 20s", at)
		}
	})
}

func TestDoneContextSendsNothing(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := t.c.Check(ctx, client.Call{Key: "acme/alice"}); !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrUnreachable) {
			t.Errorf("Check(cancelled) = %v, want Canceled alone", err)
		}
		ctx, cancel = context.WithTimeout(t.Context(), 0)
		defer cancel()
		_, err := t.c.Check(ctx, client.Call{Key: "acme/alice"})
		wantUnreachable(t, err)
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Check(expired) = %v, want DeadlineExceeded", err)
		}
		if seen := t.nodes["a"].seen(); len(seen) != 0 {
			t.Errorf("node was sent %q, want nothing", seen)
		}
	})
}

func TestCancelledWhileWaiting(t *testing.T) {
	for name, behave := range map[string]func(context.Context, int) error{
		"for an answer": silent,
		"to retry":      always(codes.Unavailable),
	} {
		t.Run(name, func(t *testing.T) {
			runBoth(t, client.Options{MaxAttempts: 100}, []string{"a"}, func(t scene) {
				t.nodes["a"].behave(behave)
				ctx, cancel := context.WithCancel(t.Context())
				time.AfterFunc(4*time.Millisecond, cancel)
				start := time.Now()
				_, err := t.c.Check(ctx, client.Call{Key: "acme/alice"})
				if !errors.Is(err, context.Canceled) || errors.Is(err, client.ErrUnreachable) {
					t.Errorf("Check() = %v, want Canceled alone", err)
				}
				wantTook(t, start, 4*time.Millisecond)
			})
		})
	}
}

func TestBackoffGrows(t *testing.T) {
	run(t, client.Options{Timeout: 20 * time.Second, MaxAttempts: 9}, []string{"a"}, func(t scene) {
		var at []time.Time
		t.nodes["a"].behave(func(context.Context, int) error {
			at = append(at, time.Now())
			return status.Error(codes.Unavailable, "injected")
		})
		_, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"})
		wantUnreachable(t, err)
		want := 10 * time.Millisecond
		for i := 1; i < len(at); i++ {
			if pause := at[i].Sub(at[i-1]); pause < want/2 || pause > want*3/2 {
				t.Errorf("pause %d = %v, want %v within a half", i, pause, want)
			}
			want = min(2*want, 500*time.Millisecond)
		}
	})
}

// Many callers, and nodes that fail in every way, less often than the retry budget allows
// for. Each call is charged once or returns ErrUnreachable, and no id is charged twice.
func TestStorm(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		for _, n := range t.nodes {
			n.behave(func(ctx context.Context, nth int) error {
				switch nth % 40 {
				case 2:
					return status.Error(codes.Unavailable, "injected")
				case 15:
					return lostAnswer{status.Error(codes.Unavailable, "lost")}
				case 30:
					return lostAnswer{silent(ctx, nth)}
				}
				return nil
			})
		}
		answered := make(chan string, 1000) // one per call
		var wg sync.WaitGroup
		for caller := range 50 {
			wg.Go(func() {
				for i := range 20 {
					id := fmt.Sprintf("%d-%d", caller, i)
					d, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice", RequestID: id})
					switch {
					case err == nil && d.RequestID == id:
						answered <- id
					case !errors.Is(err, client.ErrUnreachable):
						t.Errorf("Check(%s) = %q, %v, want its answer or ErrUnreachable", id, d.RequestID, err)
					}
				}
			})
		}
		wg.Go(func() {
			for range 5 {
				t.nodes["b"].kill()
				time.Sleep(500 * time.Millisecond)
				t.nodes["b"].start()
				time.Sleep(500 * time.Millisecond)
			}
		})
		wg.Wait()
		close(answered)
		if got := len(answered); got < 900 {
			t.Errorf("%d of 1000 calls were answered, want at least 900", got)
		}
		charged := t.charged()
		for id := range answered {
			if _, found := slices.BinarySearch(charged, id); !found {
				t.Errorf("%s was answered, but not charged", id)
			}
		}
	})
}
