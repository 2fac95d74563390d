// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Each call that is answered is settled, after two reports. These take most of what the
// member answers and are sent first, so that few calls can wait behind them: what waits is
// answered, and what is refused is refused at once. Settles are in time, also if the member
// is slow.
func TestRefusalsAreImmediateBesideSettles(t *testing.T) {
	for _, tt := range []struct {
		each       time.Duration // of the member's time
		least      int           // answers in 2 s
		p99        time.Duration
		lateShare  int // at most one in so many refusals takes more than 10 ms
		settlesP99 time.Duration
	}{
		{90 * time.Microsecond, 4000, 200 * time.Millisecond, 1000, 100 * time.Millisecond},
		{700 * time.Microsecond, 500, time.Second, 100, 800 * time.Millisecond},
	} {
		t.Run(tt.each.String(), func(t *testing.T) {
			f := &fake{handle: busy(tt.each, func([]*pb.Item) {})}
			bubble(t, f, Options{}, func(t *testing.T, l *Link) {
				var wg sync.WaitGroup
				var mu sync.Mutex
				refused, late, failed := 0, 0, 0
				var took, settles []time.Duration
				start := time.Now()
				settleOnce := func() {
					began := time.Now()
					_, err := l.Do(t.Context(), settle("s"))
					mu.Lock()
					defer mu.Unlock()
					if began.Sub(start) < 2*time.Second {
						return
					}
					if err != nil {
						failed++
					}
					settles = append(settles, time.Since(began))
				}
				for time.Since(start) < 4*time.Second {
					for range 10 { // per ms, where 3 are answered, or less
						wg.Go(func() {
							began := time.Now()
							_, err := l.Do(t.Context(), check("k"))
							mu.Lock()
							steady := began.Sub(start) > 2*time.Second
							switch {
							case !steady:
							case errors.Is(err, ErrOverloaded):
								if refused++; time.Since(began) > 10*time.Millisecond {
									late++
								}
							case err == nil:
								took = append(took, time.Since(began))
							}
							mu.Unlock()
							if err != nil {
								return
							}
							for range 3 {
								time.Sleep(100 * time.Millisecond)
								settleOnce()
							}
						})
					}
					time.Sleep(time.Millisecond)
				}
				wg.Wait()
				slices.Sort(took)
				slices.Sort(settles)
				p99, settlesP99 := took[len(took)*99/100], settles[len(settles)*99/100]
				t.Logf("%d answered, p99 %v; %d refused, %d of them late; %d settles, p99 %v, %d failed", len(took), p99, refused, late, len(settles), settlesP99, failed)
				if len(took) < tt.least || late > refused/tt.lateShare || p99 > tt.p99 {
					t.Errorf("%d calls were answered with a p99 of %v, and %d of %d refusals took more than 10 ms", len(took), p99, late, refused)
				}
				if failed > 0 || settlesP99 > tt.settlesP99 {
					t.Errorf("%d settles failed, and p99 is %v", failed, settlesP99)
				}
			})
		})
	}
}

func TestOverloadedErrorHasAStatus(t *testing.T) {
	for ms, want := range map[time.Duration]time.Duration{0: 1, 1: 1, 20: 20, 256: 256, 5000: 256} {
		err := refusal(ms * time.Millisecond)
		if err.RetryAfter != want*time.Millisecond || status.Code(err) != codes.ResourceExhausted {
			t.Errorf("refusal(%d ms) = %v with code %v, want %d ms and ResourceExhausted", ms, err, status.Code(err), want)
		}
	}
}

// full returns a link whose queue is at its bound.
func full(tb testing.TB) *Link {
	l := New(Options{
		Open:    func(ctx context.Context) (Stream, error) { <-ctx.Done(); return nil, ctx.Err() },
		Timeout: time.Minute,
	})
	tb.Cleanup(l.Close)
	for range maxBurst {
		p := l.Start(tb.Context(), check("k"))
		go func() { _ = p.WaitInto(context.Background(), new(decoded)) }()
	}
	return l
}

func TestRefusalAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	l := full(t)
	item, d := check("k"), new(decoded)
	if got := testing.AllocsPerRun(1000, func() {
		if err := l.DoInto(t.Context(), item, d); !errors.Is(err, ErrOverloaded) {
			t.Fatalf("DoInto() = %v, want ErrOverloaded", err)
		}
	}); got != 0 {
		t.Errorf("a refusal makes %v allocations, want none", got)
	}
}

func TestRefusedInMinute(t *testing.T) {
	l := full(t)
	item, d := check("k"), new(decoded)
	before := l.Status()
	for range 5 {
		if err := l.DoInto(t.Context(), item, d); !errors.Is(err, ErrOverloaded) {
			t.Fatalf("DoInto() = %v, want ErrOverloaded", err)
		}
	}
	if got := l.Status(); got.RefusedInMinute != before.RefusedInMinute+5 || got.Refused != before.Refused+5 {
		t.Errorf("after 5 refusals %d in the last minute and %d in all, before %d and %d", got.RefusedInMinute, got.Refused, before.RefusedInMinute, before.Refused)
	}
}

// BenchmarkRefused measures a call that is refused because the queue is full.
func BenchmarkRefused(b *testing.B) {
	l := full(b)
	item, d := check("k"), new(decoded)
	b.ReportAllocs()
	for b.Loop() {
		_ = l.DoInto(b.Context(), item, d)
	}
}

// Refuse is told by whatever changes the queue: it refuses nothing any more once the calls
// that filled the queue have ended, however they ended.
func TestRefuseEnds(t *testing.T) {
	for name, end := range map[string]func(l *Link, cancel func()){
		"the callers stop waiting": func(_ *Link, cancel func()) { cancel() },
		"the deadlines pass":       func(*Link, func()) { time.Sleep(2 * time.Second) },
		"the breaker opens": func(l *Link, _ func()) {
			l.mu.Lock()
			l.tripLocked(l.now())
			l.unlock()
		},
		"the link is closed": func(l *Link, _ func()) { l.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, &fake{handle: frozen}, Options{Timeout: time.Second}, func(t *testing.T, l *Link) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var wg sync.WaitGroup
				for range 2 { // at first, two batches are sent
					for range 2 * maxBurst {
						p := l.Start(ctx, check("k"))
						wg.Go(func() { _, _ = p.Wait(ctx) })
					}
					synctest.Wait()
				}
				if err := l.Refuse(); !errors.Is(err, ErrOverloaded) {
					t.Fatalf("Refuse() = %v with a full queue, want ErrOverloaded", err)
				}
				end(l, cancel)
				wg.Wait()
				if err := l.Refuse(); err != nil {
					t.Errorf("Refuse() = %v with an empty queue", err)
				}
			})
		})
	}
}
