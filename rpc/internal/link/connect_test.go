// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

var errRejected = errors.New("rejected")

func TestOpenFails(t *testing.T) {
	f := &fake{handle: answering(0), reject: func(int) error { return errRejected }}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		within(t, 0, func() {
			r, err := l.Do(t.Context(), check("k"))
			wantError(t, ErrBroken, r, err)
			wantError(t, errRejected, r, err) // the cause
		})
		// For 10 s, a call each millisecond: all fail at once, and the member is
		// not hammered.
		for range 10_000 {
			within(t, 0, func() {
				r, err := l.Do(t.Context(), check("k"))
				wantError(t, ErrBroken, r, err)
			})
			time.Sleep(time.Millisecond)
		}
		attempts, _, _ := f.count()
		if attempts < 10 || attempts > 20 { // 50 ms doubling to 1 s, give or take a quarter
			t.Errorf("opened %d times within 10 s", attempts)
		}
		if first := f.opened[1].Sub(f.opened[0]); first > 65*time.Millisecond {
			t.Errorf("tried again after %v, want about 50 ms", first)
		}
		for i := 1; i < len(f.opened); i++ {
			if d := f.opened[i].Sub(f.opened[i-1]); d < 37*time.Millisecond || d > 1300*time.Millisecond {
				t.Errorf("attempt %d came %v after the one before", i+1, d)
			}
		}
		f.reject = nil
		time.Sleep(1300 * time.Millisecond)
		r, err := l.Do(t.Context(), check("k"))
		wantResult(t, "k", r, err)
	})
}

// A stream that breaks fails all calls at once; the next call opens a new one.
func TestStreamBreaks(t *testing.T) {
	f := &fake{handle: func(n int, p *pipe) error {
		if n > 1 {
			return answering(0)(n, p)
		}
		for i := 0; ; i++ {
			b, err := p.Recv()
			if err != nil {
				return err
			}
			if i == 3 {
				time.Sleep(10 * time.Millisecond)
				return errRejected
			}
			a := echo(b)
			a.Sequence = b.GetSequence()
			if err := p.Send(a); err != nil {
				return err
			}
		}
	}}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		for range 3 {
			r, err := l.Do(t.Context(), check("k"))
			wantResult(t, "k", r, err)
		}
		within(t, 10*time.Millisecond, func() {
			var pending []*Pending
			for range 20 { // under way, and waiting
				pending = append(pending, l.Start(t.Context(), check("k")))
				synctest.Wait()
			}
			for _, p := range pending {
				r, err := p.Wait(t.Context())
				wantError(t, ErrBroken, r, err)
				wantError(t, errRejected, r, err)
			}
		})
		within(t, 0, func() {
			r, err := l.Do(t.Context(), check("k"))
			wantResult(t, "k", r, err)
		})
	})
}

// Calls that the member has not read when it ends the stream are sent on the next
// one, before newer calls, in the same order.
func TestStreamEndsWithOK(t *testing.T) {
	var got []string
	record := func(b *pb.Batch) {
		for _, item := range b.GetItems() {
			got = append(got, item.GetCheck().GetKey())
		}
	}
	f := &fake{handle: func(n int, p *pipe) error {
		if n == 1 {
			b, _ := p.Recv()
			record(b)
			a := echo(b)
			a.Sequence = 1
			_ = p.Send(a)
			time.Sleep(10 * time.Millisecond)
			return nil
		}
		return Serve(p, nil, func(b *pb.Batch) *pb.Answers {
			record(b)
			return echo(b)
		})
	}}
	bubble(t, f, Options{MaxItems: 2}, func(t *testing.T, l *Link) {
		r, err := l.Do(t.Context(), check("first"))
		wantResult(t, "first", r, err)
		within(t, 10*time.Millisecond, func() {
			var pending []*Pending
			for i := range 9 {
				pending = append(pending, l.Start(t.Context(), check(fmt.Sprint(i))))
				synctest.Wait()
			}
			for i, p := range pending {
				r, err := p.Wait(t.Context())
				wantResult(t, fmt.Sprint(i), r, err)
			}
		})
	})
	if want := "[first 0 1 2 3 4 5 6 7 8]"; fmt.Sprint(got) != want {
		t.Errorf("the members decided %v, want %v", got, want)
	}
}

// A member that ends every stream at once fails its calls.
func TestEveryStreamEndsWithOK(t *testing.T) {
	f := &fake{handle: func(_ int, p *pipe) error {
		_, _ = p.Recv()
		return nil
	}}
	bubble(t, f, Options{}, func(t *testing.T, l *Link) {
		r, err := l.Do(t.Context(), check("k"))
		wantError(t, ErrBroken, r, err)
		start := time.Now()
		for time.Since(start) < 10*time.Second {
			_, err := l.Do(t.Context(), check("k"))
			if !errors.Is(err, ErrBroken) && !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrBreakerOpen) {
				t.Fatalf("Do() = %v", err)
			}
			time.Sleep(time.Millisecond)
		}
		if attempts, _, _ := f.count(); attempts > 40 {
			t.Errorf("opened %d streams within 10 s", attempts)
		}
	})
}

// Streams are replaced under load without failing a call.
func TestRotation(t *testing.T) {
	f := &fake{handle: answering(3 * time.Millisecond)}
	bubble(t, f, Options{Rotate: time.Second}, func(t *testing.T, l *Link) {
		done := make(chan error)
		for range 8 {
			go func() {
				for start := time.Now(); time.Since(start) < 20*time.Second; {
					if _, err := l.Do(t.Context(), check("k")); err != nil {
						done <- err
						return
					}
				}
				done <- nil
			}()
		}
		for range 8 {
			if err := <-done; err != nil {
				t.Errorf("Do() = %v", err)
			}
		}
		attempts, running, most := f.count()
		if attempts < 18 || attempts > 23 {
			t.Errorf("opened %d streams within 20 s, want one a second", attempts)
		}
		if running > 2 || most > 2 {
			t.Errorf("%d streams are open, and were %d; want at most 2", running, most)
		}
		// Without calls the last one goes, and no other comes.
		time.Sleep(5 * time.Second)
		after, running, _ := f.count()
		if running != 0 || after > attempts+1 || l.Status().Connected {
			t.Errorf("%d streams are open, %d were opened without a call", running, after-attempts)
		}
		r, err := l.Do(t.Context(), check("k"))
		wantResult(t, "k", r, err)
	})
}

// The old stream stays in use while no new one can be opened.
func TestRotationFails(t *testing.T) {
	f := &fake{handle: answering(3 * time.Millisecond), reject: func(n int) error {
		if n > 1 && n < 10 {
			return errRejected
		}
		return nil
	}}
	bubble(t, f, Options{Rotate: time.Second}, func(t *testing.T, l *Link) {
		for start := time.Now(); time.Since(start) < 15*time.Second; {
			if _, err := l.Do(t.Context(), check("k")); err != nil {
				t.Fatalf("Do() = %v", err)
			}
		}
		if attempts, _, _ := f.count(); attempts < 10 || attempts > 25 {
			t.Errorf("opened %d times", attempts)
		}
	})
}

// A draining stream is closed if its member stops answering.
func TestDrainingStreamIsClosed(t *testing.T) {
	f := &fake{handle: func(n int, p *pipe) error {
		if n > 1 {
			return answering(0)(n, p)
		}
		b, _ := p.Recv()
		a := echo(b)
		a.Sequence = 1
		_ = p.Send(a)
		<-p.ctx.Done()
		return p.ctx.Err()
	}}
	bubble(t, f, Options{Rotate: 5 * time.Second}, func(t *testing.T, l *Link) {
		r, err := l.Do(t.Context(), check("k"))
		wantResult(t, "k", r, err)
		time.Sleep(6 * time.Second)
		r, err = l.Do(t.Context(), check("k"))
		wantResult(t, "k", r, err)
		if _, running, _ := f.count(); running != 2 {
			t.Errorf("%d streams are open, want 2", running)
		}
		time.Sleep(2 * time.Second)
		synctest.Wait()
		if _, running, _ := f.count(); running != 1 {
			t.Errorf("%d streams are open, want 1", running)
		}
	})
}

// A frozen member costs its first callers the timeout. Then only one probe per
// 250 ms waits for it, until the first answer.
func TestBreakerOpensAndCloses(t *testing.T) {
	thaw := make(chan struct{})
	close(thaw)
	cut := 0
	var mu sync.Mutex
	var events []bool
	failed := map[error]int{}
	f := &fake{handle: func(n int, p *pipe) error {
		select {
		case <-thaw:
			return answering(0)(n, p)
		default:
		}
		err := frozen(n, p)
		mu.Lock()
		defer mu.Unlock()
		cut++
		return err
	}}
	o := Options{Events: Events{
		Breaker: func(open bool) { events = append(events, open) },
		Failed: func(err error, calls int) {
			mu.Lock()
			defer mu.Unlock()
			for _, e := range []error{ErrTimeout, ErrBreakerOpen, ErrBroken} {
				if errors.Is(err, e) {
					failed[e] += calls
				}
			}
		},
	}}
	bubble(t, f, o, func(t *testing.T, l *Link) {
		thaw = make(chan struct{})
		within(t, time.Second, func() {
			r, err := l.Do(t.Context(), check("k"))
			wantError(t, ErrTimeout, r, err)
		})
		synctest.Wait()
		if cut != 1 || !l.Status().BreakerOpen {
			t.Errorf("cut %d streams, status %+v; want the breaker open", cut, l.Status())
		}
		probes, rejected := 0, 0
		done := make(chan struct{}, 100)
		for range 5000 { // 5 s
			p := l.Start(t.Context(), check("k"))
			select {
			case <-p.done:
				rejected++
				p.done <- struct{}{}
				r, err := p.Wait(t.Context())
				wantError(t, ErrBreakerOpen, r, err)
			default:
				probes++
				go func() {
					_, _ = p.Wait(t.Context())
					done <- struct{}{}
				}()
			}
			time.Sleep(time.Millisecond)
		}
		for range probes {
			<-done
		}
		if probes < 4 || probes > 20 || rejected < 4000 {
			t.Errorf("%d calls waited, %d were rejected; want a probe at a time", probes, rejected)
		}
		close(thaw)
		time.Sleep(250 * time.Millisecond)
		for range 3 {
			r, err := l.Do(t.Context(), check("k"))
			wantResult(t, "k", r, err)
		}
		if fmt.Sprint(events) != "[true false]" || l.Status().BreakerOpen {
			t.Errorf("breaker %v, want it opened and closed", events)
		}
		mu.Lock()
		defer mu.Unlock()
		if failed[ErrBreakerOpen] != rejected || failed[ErrTimeout]+failed[ErrBroken] != probes+1 {
			t.Errorf("reported %v; want %d rejected, %d timed out or broken", failed, rejected, probes+1)
		}
	})
}

// Calls whose deadlines are too short get no answers, and do not affect other calls.
func TestShortDeadlinesDoNotOpenTheBreaker(t *testing.T) {
	bubble(t, &fake{handle: answering(2 * time.Millisecond)}, Options{}, func(t *testing.T, l *Link) {
		stop := make(chan struct{})
		late := make(chan int)
		for range 20 {
			go func() {
				n := 0
				for {
					select {
					case <-stop:
						late <- n
						return
					default:
					}
					at := time.Now().Add(time.Millisecond)
					if _, err := l.Do(WithDeadline(t.Context(), at), check("short")); errors.Is(err, ErrTimeout) {
						n++
						time.Sleep(time.Until(at)) // it ended early if no batch was as fast lately
					} else if err != nil {
						t.Errorf("Do() = %v, want late", err)
						time.Sleep(time.Millisecond)
					}
				}
			}()
		}
		for range 500 {
			r, err := l.Do(t.Context(), check("k"))
			wantResult(t, "k", r, err)
		}
		close(stop)
		n := 0
		for range 20 {
			n += <-late
		}
		if n < 500 {
			t.Errorf("only %d calls were late: nothing was tested", n)
		}
		if l.Status().BreakerOpen {
			t.Error("the breaker is open")
		}
	})
}

// Cancelled calls are not timeouts, but a member that is silent for the whole timeout
// opens the breaker for the next call.
func TestBreakerWithCancelledCalls(t *testing.T) {
	bubble(t, &fake{handle: frozen}, Options{}, func(t *testing.T, l *Link) {
		var err error
		for range 60 { // 1.2 s
			ctx, cancel := context.WithCancel(t.Context())
			time.AfterFunc(20*time.Millisecond, cancel)
			if _, err = l.Do(ctx, check("k")); errors.Is(err, ErrBreakerOpen) {
				break
			}
			if !errors.Is(err, context.Canceled) {
				t.Fatalf("Do() = %v", err)
			}
		}
		if !errors.Is(err, ErrBreakerOpen) {
			t.Errorf("Do() = %v after 1.2 s of silence, want ErrBreakerOpen", err)
		}
	})
}

// A stream that takes longer to open than a call may wait is used in the end.
func TestSlowOpen(t *testing.T) {
	f := &fake{handle: answering(0)}
	synctest.Test(t, func(t *testing.T) {
		l := New(Options{Open: func(ctx context.Context) (Stream, error) {
			time.Sleep(3 * time.Second)
			return f.open(ctx)
		}})
		defer l.Close()
		var err error
		for start := time.Now(); time.Since(start) < 4*time.Second; {
			if _, err = l.Do(t.Context(), check("k")); err == nil {
				return
			}
			time.Sleep(10 * time.Millisecond)
		}
		t.Errorf("after 4 s: %v", err)
	})
}
