// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// maxRenewals bounds the renewals in flight. The client batches concurrent
// requests.
const maxRenewals = 256

// A renewer renews the leases of all calls in progress and reports their
// progress. One timer serves all calls and runs only while there are any.
type renewer struct {
	interval time.Duration
	renew    func(*Call) error
	timer    *time.Timer
	inFlight chan struct{} // semaphore of maxRenewals; never closed

	mu struct {
		sync.Mutex
		due   map[*Call]time.Time // zero: a renewal is in flight
		armed bool                // the timer is running, or tick is
	}
}

func newRenewer(interval time.Duration, renew func(*Call) error) *renewer {
	r := &renewer{interval: interval, renew: renew, inFlight: make(chan struct{}, maxRenewals)}
	r.mu.due = map[*Call]time.Time{}
	r.timer = time.AfterFunc(time.Hour, r.tick)
	r.timer.Stop()
	return r
}

// tickInterval is the time between two checks for due calls, and so the longest
// delay of a renewal.
func (r *renewer) tickInterval() time.Duration { return max(r.interval/4, time.Millisecond) }

func (r *renewer) add(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mu.due[c] = time.Now().Add(r.interval)
	if !r.mu.armed {
		r.mu.armed = true
		r.timer.Reset(r.tickInterval())
	}
}

func (r *renewer) remove(c *Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.mu.due, c)
}

// tick runs when the timer fires.
func (r *renewer) tick() {
	for _, c := range r.takeDue(time.Now()) {
		r.inFlight <- struct{}{}
		go func() {
			defer func() { <-r.inFlight }()
			r.reschedule(c, r.renew(c))
		}()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.mu.armed = len(r.mu.due) > 0; r.mu.armed {
		r.timer.Reset(r.tickInterval())
	}
}

// takeDue returns the calls that are due and marks their renewals as in flight.
func (r *renewer) takeDue(now time.Time) (due []*Call) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for c, at := range r.mu.due {
		if !at.IsZero() && !now.Before(at) {
			r.mu.due[c] = time.Time{}
			due = append(due, c)
		}
	}
	return due
}

// reschedule sets the next renewal of a call after one has returned err. If it
// reached no node, the call is due at once.
func (r *renewer) reschedule(c *Call, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.mu.due[c]; !ok {
		return // the call has ended
	}
	at := time.Now()
	if !errors.Is(err, client.ErrUnreachable) {
		at = at.Add(r.interval)
	}
	r.mu.due[c] = at
}
