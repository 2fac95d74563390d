// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// renewals records when calls were renewed. Each renewal takes a second.
type renewals struct {
	began time.Time
	err   error

	mu sync.Mutex
	at map[*Call][]time.Duration
}

func (r *renewals) renew(c *Call) error {
	time.Sleep(time.Second)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at[c] = append(r.at[c], time.Since(r.began))
	return r.err
}

func newTestRenewer(err error) (*renewer, *renewals) {
	r := &renewals{began: time.Now(), err: err, at: map[*Call][]time.Duration{}}
	return newRenewer(10*time.Second, r.renew), r
}

func TestLeasesAreRenewedInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, r := newTestRenewer(nil)
		var calls []*Call
		for range 1000 {
			c := &Call{}
			calls = append(calls, c)
			k.add(c)
			time.Sleep(7 * time.Millisecond)
		}
		time.Sleep(10 * time.Minute)
		for _, c := range calls {
			k.remove(c)
		}
		time.Sleep(time.Minute) // the last renewals end
		synctest.Wait()
		for i, c := range calls {
			last := time.Duration(i) * 7 * time.Millisecond
			for _, at := range r.at[c] {
				if gap := at - last; gap < 10*time.Second || gap > 20*time.Second {
					t.Fatalf("call %d was renewed after %v, want 10s to 20s", i, gap)
				}
				last = at
			}
			if n := len(r.at[c]); n < 30 {
				t.Fatalf("call %d was renewed %d times in 10m, want at least 30", i, n)
			}
		}
	})
}

func TestFailedRenewalIsRetried(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, r := newTestRenewer(client.ErrUnreachable)
		c := &Call{}
		k.add(c)
		time.Sleep(20 * time.Second)
		k.remove(c)
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := len(r.at[c]); n < 4 {
			t.Errorf("%d attempts in 20s, want at least 4 of them in the second half", n)
		}
	})
}

// Calls that have ended are not renewed, and the timer stops without calls.
func TestRenewerStopsWithoutCalls(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k, r := newTestRenewer(nil)
		for range 3 { // the timer can be restarted
			c := &Call{}
			k.add(c)
			time.Sleep(9 * time.Second)
			k.remove(c)
			time.Sleep(time.Hour)
			synctest.Wait()
			if len(r.at) > 0 {
				t.Errorf("renewed at %v, want never", r.at)
			}
			if k.mu.armed {
				t.Error("the timer runs without a call")
			}
		}
	})
}
