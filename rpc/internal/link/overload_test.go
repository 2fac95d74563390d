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

func settle(key string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Settle{Settle: &pb.SettleRequest{Key: key, RequestId: "r"}}}
}

// busy is a handler that takes a time for each item.
func busy(each time.Duration, decided func([]*pb.Item)) func(int, *pipe) error {
	return func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			time.Sleep(each * time.Duration(len(b.GetItems())))
			decided(b.GetItems())
			return echo(b)
		})
	}
}

// Ten times more is asked than the member answers. The rest is refused at once, never
// sent, and what is answered takes little longer than a queue of 20 ms and the batches in
// flight. Settles are answered, all of them.
func TestOverload(t *testing.T) {
	const perSecond = 8_000
	var mu sync.Mutex
	decided, refusedEvents, reports := map[string]int{}, 0, []Overload{}
	f := &fake{handle: busy(time.Second/perSecond, func(items []*pb.Item) {
		mu.Lock()
		defer mu.Unlock()
		for _, item := range items {
			decided[item.GetCheck().GetKey()]++
		}
	})}
	o := Options{Events: Events{
		Refused:    func() { mu.Lock(); refusedEvents++; mu.Unlock() },
		Overloaded: func(o Overload) { mu.Lock(); reports = append(reports, o); mu.Unlock() },
		Failed:     func(err error, n int) { t.Errorf("%d calls failed: %v", n, err) },
	}}
	bubble(t, f, o, func(t *testing.T, l *Link) {
		var wg sync.WaitGroup
		answered, refused, settled := 0, 0, 0
		var took []time.Duration
		start := time.Now()
		for i := range 3 * 10 * perSecond {
			time.Sleep(time.Until(start.Add(time.Duration(i) * time.Second / perSecond / 10)))
			began := time.Now()
			if i%50 == 0 { // a fifth of what the member answers
				p := l.Start(t.Context(), settle("s"))
				wg.Go(func() {
					if _, err := p.Wait(t.Context()); err != nil {
						t.Errorf("settle: %v", err)
					}
					mu.Lock()
					settled++
					mu.Unlock()
				})
				continue
			}
			p := l.Start(t.Context(), check("k"))
			if len(p.done) > 0 { // it ended at once
				_, err := p.Wait(t.Context())
				e, ok := errors.AsType[*OverloadedError](err)
				if !ok || !errors.Is(err, ErrOverloaded) || MayBeDecided(err) || e.RetryAfter <= 0 || e.RetryAfter > time.Second {
					t.Fatalf("Start() = %v, want an OverloadedError", err)
				}
				mu.Lock()
				refused++
				mu.Unlock()
				continue
			}
			wg.Go(func() {
				r, err := p.Wait(t.Context())
				mu.Lock()
				defer mu.Unlock()
				if errors.Is(err, ErrOverloaded) && time.Since(began) < 500*time.Millisecond && time.Since(start) < time.Second {
					refused++ // at the end of the first burst
					return
				}
				wantResult(t, "k", r, err)
				answered++
				if time.Since(start) > 2*time.Second { // the first burst has passed
					took = append(took, time.Since(began))
				}
			})
		}
		wg.Wait()
		if total := answered + settled; total < 3*perSecond*95/100 {
			t.Errorf("%d calls were answered in 3 s, want nearly %d", total, 3*perSecond)
		}
		if settled != 3*10*perSecond/50 {
			t.Errorf("%d settles were answered, want all", settled)
		}
		slices.Sort(took)
		if got, most := took[len(took)*99/100], 250*time.Millisecond; got > most {
			t.Errorf("p99 %v, want at most %v", got, most)
		}
		if n := decided["k"]; n != answered {
			t.Errorf("%d checks were decided, and %d answered", n, answered)
		}
		if refusedEvents != refused || l.Status().Refused != uint64(refused) {
			t.Errorf("%d calls were refused; events said %d, Status %d", refused, refusedEvents, l.Status().Refused)
		}
		if len(reports) != 1 || reports[0].Refused != 1 || reports[0].Queued < minQueue {
			t.Errorf("Events.Overloaded said %+v, want one report a minute", reports)
		}
		if l.Status().BreakerOpen {
			t.Error("the breaker is open")
		}
		time.Sleep(time.Second)
		for range 1000 { // a burst, a second later
			p := l.Start(t.Context(), check("k"))
			wg.Go(func() {
				r, err := p.Wait(t.Context())
				wantResult(t, "k", r, err)
			})
		}
		wg.Wait()
	})
}

// What ends or corrects a decision is sent before what asks for one, and both in their
// order. The calls of one request keep their order.
func TestUrgentCallsGoFirst(t *testing.T) {
	tests := []struct {
		name   string
		inTurn bool
		want   []string
	}{
		{"urgent", false, []string{"s1", "s2", "replay", "k1", "k2", "give back", "k3"}},
		{"in turn", true, []string{"k1", "s1", "k2", "s2", "give back", "k3", "replay"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var batches [][]string
			f := &fake{handle: func(_ int, p *pipe) error {
				return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
					var keys []string
					for _, item := range b.GetItems() {
						keys = append(keys, item.GetCheck().GetKey()+item.GetSettle().GetKey()+item.GetCount().GetKey())
					}
					batches = append(batches, keys)
					time.Sleep(10 * time.Millisecond)
					return echo(b)
				})
			}}
			bubble(t, f, Options{}, func(t *testing.T, l *Link) {
				ctx := WithDeadline(t.Context(), time.Now().Add(time.Second))
				if tt.inTurn {
					ctx = ctx.InTurn()
				}
				replay := check("replay")
				replay.Replay = true
				giveBack := &pb.Item{Call: &pb.Item_Count{Count: &pb.CountRequest{Key: "give back", GiveBack: true}}}
				var pending []*Pending
				for _, item := range []*pb.Item{check("a"), check("b"), check("k1"), settle("s1"), check("k2"), settle("s2"), giveBack, check("k3"), replay} {
					pending = append(pending, l.Start(&ctx, item))
					synctest.Wait()
				}
				for _, p := range pending {
					if _, err := p.Wait(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
			if len(batches) != 3 || !slices.Equal(batches[2], tt.want) {
				t.Errorf("batches %q, want the third to be %q", batches, tt.want)
			}
		})
	}
}

// Settles take all that the member answers, for a second. Calls that wait behind them are
// refused before they are too old, if others are refused, too.
func TestCallsBehindUrgentOnesAreRefused(t *testing.T) {
	f := &fake{handle: busy(200*time.Microsecond, func([]*pb.Item) {})} // 5,000 a second
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		var wg sync.WaitGroup
		var mu sync.Mutex
		refused, answered, late := 0, 0, 0
		for i := range 2000 { // ms
			n := 10
			if i > 500 && i < 1500 {
				for range 6 {
					wg.Go(func() {
						if _, err := l.Do(t.Context(), settle("s")); err != nil && !errors.Is(err, ErrTimeout) {
							t.Errorf("settle: %v", err)
						}
					})
				}
			}
			for range n {
				wg.Go(func() {
					start := time.Now()
					_, err := l.Do(t.Context(), check("k"))
					mu.Lock()
					defer mu.Unlock()
					switch {
					case errors.Is(err, ErrOverloaded):
						refused++
						if took := time.Since(start); took > 450*time.Millisecond {
							t.Errorf("refused after %v", took)
						} else if took > 10*time.Millisecond {
							late++
						}
					case err != nil:
						t.Errorf("Do() = %v", err)
					default:
						answered++
						if took := time.Since(start); took > 500*time.Millisecond {
							t.Errorf("answered after %v", took)
						}
					}
				})
			}
			time.Sleep(time.Millisecond)
		}
		wg.Wait()
		if answered < 4000 || refused < 10_000 || late == 0 || late > refused/3 {
			t.Errorf("%d answered, %d refused, %d of them not at once", answered, refused, late)
		}
		if l.Status().Refused != uint64(refused) {
			t.Errorf("Status() says %d refused, want %d", l.Status().Refused, refused)
		}
	})
}

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

// A member that refuses calls itself gets fewer, and all again once it refuses none.
func TestMemberRefuses(t *testing.T) {
	var mu sync.Mutex
	capacity, left, seen, seenSettles := 100, 0, 0, 0 // per 10 ms
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			time.Sleep(time.Millisecond)
			mu.Lock()
			defer mu.Unlock()
			a := echo(b)
			for i, item := range b.GetItems() {
				if item.GetSettle() != nil {
					seenSettles++
					continue
				}
				if seen++; left > 0 {
					left--
					continue
				}
				a.Results[i] = &pb.Result{Term: 7, Result: &pb.Result_Error{Error: &pb.Error{Code: int32(codes.ResourceExhausted), RetryAfterMs: 20}}}
			}
			return a
		})
	}}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		var wg sync.WaitGroup
		var answered, refusedByMember, refusedHere int
		offer := func(d time.Duration, per10ms int) {
			for end := time.Now().Add(d); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
				mu.Lock()
				left = capacity
				mu.Unlock()
				for range per10ms {
					wg.Go(func() {
						r, err := l.Do(t.Context(), check("k"))
						mu.Lock()
						defer mu.Unlock()
						switch {
						case errors.Is(err, ErrOverloaded):
							refusedHere++
						case err != nil:
							t.Errorf("Do() = %v", err)
						case r.GetError() != nil:
							refusedByMember++
						default:
							answered++
						}
					})
				}
				wg.Go(func() {
					if _, err := l.Do(t.Context(), settle("s")); err != nil {
						t.Errorf("settle: %v", err)
					}
				})
			}
			wg.Wait()
		}
		offer(time.Second, 1000)
		answered, refusedByMember, refusedHere, seen = 0, 0, 0, 0
		offer(3*time.Second, 1000)
		if possible := 300 * capacity; answered < possible*85/100 || refusedByMember > possible*40/100 {
			t.Errorf("%d answered of %d that are possible, %d refused by the member and %d before", answered, possible, refusedByMember, refusedHere)
		}
		if seenSettles != 400 {
			t.Errorf("%d settles came to the member, want all 400", seenSettles)
		}
		capacity = 10_000
		offer(2*time.Second, 1000)
		answered, refusedByMember, refusedHere = 0, 0, 0
		offer(time.Second, 1000)
		if refusedByMember+refusedHere > 0 || answered != 100_000 {
			t.Errorf("%d answered, %d refused by the member and %d before, 2 s after it refused nothing any more", answered, refusedByMember, refusedHere)
		}
	})
}

// A call is patient with a member that answers others, and not with one that is silent.
func TestPatience(t *testing.T) {
	patient := func(t *testing.T, l *Link) error {
		ctx := WithDeadline(t.Context(), time.Now().Add(900*time.Millisecond)).WithPatience(300 * time.Millisecond)
		_, err := l.Do(&ctx, check("patient"))
		return err
	}
	t.Run("silent", func(t *testing.T) {
		bubble(t, &fake{handle: frozen}, Options{}, func(t *testing.T, l *Link) {
			within(t, 300*time.Millisecond, func() {
				if err := patient(t, l); !errors.Is(err, ErrTimeout) || IsSlow(err) || !MayBeDecided(err) {
					t.Errorf("Do() = %v, want a timeout of a member that may be gone", err)
				}
			})
		})
	})
	t.Run("slow", func(t *testing.T) {
		f := &fake{handle: answering(250 * time.Millisecond)}
		bubble(t, f, Options{}, func(t *testing.T, l *Link) {
			var before []*Pending
			for range 3 { // one after the other, in batches of one
				before = append(before, l.Start(t.Context(), check("k")))
				synctest.Wait()
			}
			within(t, 750*time.Millisecond, func() { // together with the third
				if err := patient(t, l); err != nil {
					t.Errorf("Do() = %v, want an answer", err)
				}
			})
			for _, p := range before {
				if _, err := p.Wait(t.Context()); err != nil {
					t.Error(err)
				}
			}
		})
	})
	t.Run("too slow", func(t *testing.T) {
		f := &fake{handle: answering(250 * time.Millisecond)}
		bubble(t, f, Options{MaxItems: 1}, func(t *testing.T, l *Link) {
			var before []*Pending
			for range 6 {
				before = append(before, l.Start(t.Context(), check("k")))
				synctest.Wait()
			}
			if err := patient(t, l); !errors.Is(err, ErrTimeout) || !IsSlow(err) || MayBeDecided(err) {
				t.Errorf("Do() = %v, want a timeout of a slow member, before the call was sent", err)
			}
			for _, p := range before {
				_, _ = p.Wait(t.Context()) // some of them are late, too
			}
			if l.Status().BreakerOpen {
				t.Error("the breaker is open")
			}
		})
	})
}

// A member that answers once after a call was started, and then never, is not slow: it may
// be gone, and the call is for others to decide.
func TestMemberThatFallsSilentIsNotSlow(t *testing.T) {
	answered := false
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			if answered {
				<-p.Context().Done()
			}
			answered = true
			time.Sleep(50 * time.Millisecond)
			return echo(b)
		})
	}}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		ctx := WithDeadline(t.Context(), time.Now().Add(900*time.Millisecond))
		var calls []*Pending
		for range 3 { // two in flight, and one that is never sent
			calls = append(calls, l.Start(&ctx, check("k")))
			synctest.Wait()
		}
		if _, err := calls[0].Wait(&ctx); err != nil {
			t.Errorf("the first call: %v", err)
		}
		for i, p := range calls[1:] {
			if _, err := p.Wait(&ctx); !errors.Is(err, ErrTimeout) || IsSlow(err) {
				t.Errorf("call %d ended with %v, want a timeout of a member that may be gone", i+1, err)
			}
		}
	})
}

// A member that answers every 200 ms, each time later than the calls wait, is slow and
// not gone: the breaker stays closed. Once it is silent, the breaker opens.
func TestSlowMemberDoesNotOpenTheBreaker(t *testing.T) {
	var mu sync.Mutex
	silence := false
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			for {
				time.Sleep(200 * time.Millisecond)
				mu.Lock()
				stop := silence
				mu.Unlock()
				if !stop {
					return echo(b)
				}
			}
		})
	}}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		late := 0
		call := func(wait time.Duration) error {
			ctx, cancel := context.WithTimeout(t.Context(), wait)
			defer cancel()
			_, err := l.Do(ctx, check("k"))
			return err
		}
		var wg sync.WaitGroup
		for range 1000 { // 10 s
			wg.Go(func() {
				switch err := call(150 * time.Millisecond); {
				case errors.Is(err, ErrTimeout):
					mu.Lock()
					late++
					mu.Unlock()
				case err != nil:
					t.Errorf("Do() = %v, want a timeout", err)
				}
			})
			if l.Status().BreakerOpen {
				t.Fatal("the breaker is open")
			}
			time.Sleep(10 * time.Millisecond)
		}
		wg.Wait()
		if late < 500 {
			t.Errorf("%d calls were late: nothing was tested", late)
		}
		mu.Lock()
		silence = true
		mu.Unlock()
		for start := time.Now(); !l.Status().BreakerOpen; {
			if time.Since(start) > 2*time.Second {
				t.Fatal("the breaker is closed after 2 s of silence")
			}
			_ = call(50 * time.Millisecond)
			time.Sleep(10 * time.Millisecond)
		}
		mu.Lock()
		silence = false
		mu.Unlock()
	})
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
