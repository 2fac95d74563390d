// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"context"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

func newTestPool(t *testing.T, target CheckFunc, size int) *pool {
	t.Helper()
	o := Options{Target: target, Interval: time.Second}
	r := &runState{target: o.Target, timeout: time.Hour, start: time.Now(), requestCtx: t.Context(), recorder: newRecorder(&o)}
	return newPool(r, size)
}

// A call that waits for its answer does not keep others from being sent.
func TestPoolSendsAllCallsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const calls = 500
		var inFlight atomic.Int64
		release := make(chan struct{})
		p := newTestPool(t, func(context.Context, *Call) (Answer, error) {
			inFlight.Add(1)
			<-release
			return Answer{Outcome: Allowed}, nil
		}, calls)
		c := new(planned)
		for range calls {
			if !p.submit(c) {
				t.Fatal("a call was dropped")
			}
		}
		if p.submit(c) {
			t.Errorf("call %d was sent, want at most %d", calls+1, calls)
		}
		synctest.Wait()
		if n := inFlight.Load(); n != calls {
			t.Errorf("%d calls are in flight, want %d", n, calls)
		}
		close(release)
		synctest.Wait()
		// The workers are idle now, and are used again.
		for range calls {
			if !p.submit(c) {
				t.Fatal("a call was dropped")
			}
		}
		synctest.Wait()
		if n := inFlight.Load(); n != 2*calls || p.workers.Load() > calls {
			t.Errorf("%d calls were sent by %d workers, want %d by at most %d", n, p.workers.Load(), 2*calls, calls)
		}
		p.close()
		p.running.Wait()
	})
}

// Calls that are refused at once need few goroutines, whatever their number.
func TestRefusedCallsNeedFewWorkers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newTestPool(t, func(context.Context, *Call) (Answer, error) { return Answer{}, &OverloadedError{} }, 10_000)
		c := new(planned)
		for range 100 {
			for range 90 {
				if !p.submit(c) {
					t.Fatal("a call was dropped")
				}
			}
			synctest.Wait()
		}
		if n := p.workers.Load(); n > 20 {
			t.Errorf("%d workers for 9,000 calls that were refused at once, want a few", n)
		}
		p.close()
		p.running.Wait()
	})
}

// A closed pool sends no call that is still queued.
func TestClosedPoolSendsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sent atomic.Int64
		release := make(chan struct{})
		p := newTestPool(t, func(context.Context, *Call) (Answer, error) {
			sent.Add(1)
			<-release
			return Answer{Outcome: Allowed}, nil
		}, 1)
		p.submit(new(planned))
		synctest.Wait()
		p.resume(newLLMCall(&Call{ID: "1"}, 0, 0, &Answer{}))
		synctest.Wait()
		p.close()
		close(release)
		p.running.Wait()
		if sent.Load() != 1 || len(p.tasks) != 1 {
			t.Errorf("%d sent, %d queued, want one each", sent.Load(), len(p.tasks))
		}
	})
}
