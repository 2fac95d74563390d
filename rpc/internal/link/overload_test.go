// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

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

// Long round trips make a call more patient, but leave it the last quarter of its time: the
// member may be gone, and another one is to be asked.
func TestPatienceLeavesTimeForAnother(t *testing.T) {
	frozen := false
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			if frozen {
				<-p.Context().Done()
			}
			time.Sleep(250 * time.Millisecond)
			return echo(b)
		})
	}}
	bubble(t, f, Options{Timeout: 2 * time.Second}, func(t *testing.T, l *Link) {
		for range 30 {
			if _, err := l.Do(t.Context(), check("k")); err != nil {
				t.Fatal(err)
			}
		}
		frozen = true
		ctx := WithDeadline(t.Context(), time.Now().Add(1200*time.Millisecond)).WithPatience(400 * time.Millisecond)
		within(t, 900*time.Millisecond, func() {
			if _, err := l.Do(&ctx, check("patient")); !errors.Is(err, ErrTimeout) || IsSlow(err) || !MayBeDecided(err) {
				t.Errorf("Do() = %v, want a timeout of a member that may be gone", err)
			}
		})
	})
}

// A call that is late though little is asked, since packets are lost, say, is for another
// member to decide while there is time, even if this one answers others meanwhile.
func TestLateCallOfAFewIsForAnother(t *testing.T) {
	f := &fake{handle: answering(350 * time.Millisecond)}
	bubble(t, f, Options{Timeout: 2 * time.Second}, func(t *testing.T, l *Link) {
		var before []*Pending
		for range 12 { // two in flight, one after the other, and ten that wait for them
			before = append(before, l.Start(t.Context(), check("k")))
			synctest.Wait()
		}
		ctx := WithDeadline(t.Context(), time.Now().Add(1000*time.Millisecond)).WithPatience(400 * time.Millisecond)
		within(t, 875*time.Millisecond, func() {
			if _, err := l.Do(&ctx, check("late")); !errors.Is(err, ErrTimeout) || IsSlow(err) {
				t.Errorf("Do() = %v, want a timeout that leaves the call to another member", err)
			}
		})
		for _, p := range before {
			if _, err := p.Wait(t.Context()); err != nil {
				t.Error(err)
			}
		}
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

// One of a few calls that is not sent in time, because nothing came from the member for
// long, is not one too many for it: packets were lost, say. So it is for others to decide,
// and not refused.
func TestFewCallsAreNotTooMany(t *testing.T) {
	const usual = 50 * time.Millisecond
	for _, deadline := range []time.Duration{350 * time.Millisecond, time.Second} {
		t.Run(deadline.String(), func(t *testing.T) {
			var batches atomic.Int64
			f := &fake{handle: func(_ int, p *pipe) error {
				return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
					if batches.Add(1) == 20 {
						time.Sleep(deadline - usual - 10*time.Millisecond) // and its answer is just in time
					}
					time.Sleep(usual)
					return echo(b)
				})
			}}
			bubble(t, f, Options{Timeout: time.Second}, func(t *testing.T, l *Link) {
				for range 19 {
					if _, err := l.Do(t.Context(), check("k")); err != nil {
						t.Fatal(err)
					}
				}
				ctx := WithDeadline(t.Context(), time.Now().Add(deadline))
				var calls []*Pending
				for range 6 { // two are sent
					calls = append(calls, l.Start(&ctx, check("k")))
					synctest.Wait()
				}
				unsent := 0
				for i, p := range calls {
					_, err := p.Wait(&ctx)
					if err == nil || MayBeDecided(err) {
						continue
					}
					unsent++
					if IsSlow(err) || errors.Is(err, ErrOverloaded) {
						t.Errorf("call %d ended with %v, as if the member were slow", i, err)
					}
				}
				if unsent == 0 {
					t.Error("all calls were sent")
				}
			})
		})
	}
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
