// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/client"
)

const (
	// maxLateCharges bounds the charges that wait for a node, of all roots together. Each
	// takes a few hundred bytes. As with bodies, a root has a share, and no more than
	// what is left for others afterwards.
	maxLateCharges = 16_384
	maxLatePerRoot = maxLateCharges / bodyShares
	// maxLateAge is how long a charge waits for a key with no room for a reservation, or
	// for a node.
	maxLateAge = time.Hour

	minLateRetry, maxLateRetry = 100 * time.Millisecond, 5 * time.Second
)

var (
	errLateFull  = errors.New("queue of charges for calls without a decision is full")
	errLateShare = errors.New("too many charges of this root for calls without a decision")
	errLateOld   = fmt.Errorf("not accepted within %v", maxLateAge)
)

// A lateCharge is the usage of a call that ran without a decision.
type lateCharge struct {
	key, tier, model string
	id               string           // of the call
	requests         int64            // of the call
	costs            map[string]int64 // of the reservation: 0 for each own dimension of the call
	usage            ChargedUsage
	reserved         ChargedUsage // that the call could have used
	ended            time.Time
	denied           bool // the last reservation was
}

// lateCharges charges calls after the fact: it makes a reservation of no tokens, and
// settles it with their usage, which limits do not bound. One goroutine runs while charges
// wait. It is safe for concurrent use.
type lateCharges struct {
	limiter Limiter
	dropped func(lateCharge, error) // not called with a lock held
	charged func(c lateCharge, tier string, s settlement)
	wake    notify.Signal // to retry now

	mu struct {
		sync.Mutex
		queue   []lateCharge   // at most maxLateCharges; the first one is next
		perRoot map[string]int // charges in queue, at most maxLatePerRoot; only of roots with charges
		running bool           // run is
		idle    chan struct{}  // closed when run ends; nil: no waiter
	}
}

func newLateCharges(l Limiter) *lateCharges {
	return &lateCharges{limiter: l, wake: notify.New()}
}

// put enqueues a charge, or returns errLateFull or errLateShare.
func (l *lateCharges) put(c lateCharge) error {
	root := keypath.Root(c.key)
	l.mu.Lock()
	defer l.mu.Unlock()
	switch own := l.mu.perRoot[root] + 1; {
	case own > maxLatePerRoot:
		return errLateShare
	case own > maxLateCharges-len(l.mu.queue)-1:
		return errLateFull
	}
	if l.mu.perRoot == nil {
		l.mu.perRoot = map[string]int{}
	}
	l.mu.perRoot[root]++
	l.mu.queue = append(l.mu.queue, c)
	if !l.mu.running {
		l.mu.running = true
		go l.run()
	}
	return nil
}

// pending returns the number of charges that wait.
func (l *lateCharges) pending() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.mu.queue)
}

// run reports charges until none waits. One that is refused goes to the end, so that it
// does not delay those of other keys.
func (l *lateCharges) run() {
	wait, refusals := minLateRetry, 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		c, left := l.first()
		if left == 0 {
			return
		}
		retry, err := l.deliver(&c)
		if retry && time.Since(c.ended) > maxLateAge {
			retry, err = false, errors.Join(errLateOld, err)
		}
		l.next(c, retry)
		switch {
		case !retry && err == nil:
			wait, refusals = minLateRetry, 0
			continue
		case !retry:
			l.dropped(c, err)
			continue
		}
		if refusals++; c.denied && refusals < left {
			continue
		}
		timer.Reset(wait)
		select {
		case <-timer.C:
		case <-l.wake.C():
		}
		wait, refusals = min(2*wait, maxLateRetry), 0
	}
}

// first returns the first charge and how many there are. Without any, run must end.
func (l *lateCharges) first() (c lateCharge, left int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if left = len(l.mu.queue); left > 0 {
		return l.mu.queue[0], left
	}
	l.mu.queue, l.mu.perRoot, l.mu.running = nil, nil, false
	if l.mu.idle != nil {
		close(l.mu.idle)
		l.mu.idle = nil
	}
	return c, 0
}

// next takes out the first charge, and puts c at the end if it is to be tried again.
func (l *lateCharges) next(c lateCharge, retry bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.queue[0] = lateCharge{}
	l.mu.queue = l.mu.queue[1:]
	if retry {
		l.mu.queue = append(l.mu.queue, c)
		return
	}
	root := keypath.Root(c.key)
	if l.mu.perRoot[root]--; l.mu.perRoot[root] == 0 {
		delete(l.mu.perRoot, root)
	}
}

// deliver charges a call. retry is true if it was not charged and may be later.
func (l *lateCharges) deliver(c *lateCharge) (retry bool, err error) {
	ctx := context.Background() // the limiter bounds how long a reservation takes
	c.denied = false
	for _, requests := range [...]int64{c.requests, 0} { // without its request if that would exceed a limit
		e := client.Estimate{Key: c.key, Tier: c.tier, Model: c.model, Requests: &requests, EstimatedInput: true, MaxOutputTokens: new(int64), Costs: c.costs, RequestID: fmt.Sprintf("%s-%d", c.id, requests)}
		r, err := l.limiter.Reserve(ctx, e)
		switch {
		case err != nil:
			_, invalid := errors.AsType[*client.InvalidError](err)
			return !invalid && !errors.Is(err, client.ErrClosed) && !errors.Is(err, context.Canceled), err
		case r.Denied():
			c.denied = true
			continue
		}
		s := settleAny(ctx, r, c.usage, c.reserved)
		if s.deferred || s.settled {
			l.charged(*c, r.Tier, s)
			return false, nil
		}
		return errors.Is(s.err, client.ErrQueueFull), s.err
	}
	return true, errors.New("the key has no room for a reservation")
}

// flush waits until no charge waits, and retries at once.
func (l *lateCharges) flush(ctx context.Context) error {
	l.mu.Lock()
	if !l.mu.running {
		l.mu.Unlock()
		return nil
	}
	if l.mu.idle == nil {
		l.mu.idle = make(chan struct{})
	}
	idle := l.mu.idle
	l.mu.Unlock()
	l.wake.Set()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("charges of %d calls without a decision are not reported: %w", l.pending(), ctx.Err())
	}
}

// chargeLater enqueues the charge of a call that ran without a decision, and what takes its
// place if nodes refuse it. It returns false if the call is charged nothing.
func (c *Call) chargeLater(ch charge, reserved ChargedUsage) (deferred bool, err error) {
	if ch.source == SourceCancelled {
		return false, nil
	}
	requests := int64(1)
	if n := c.estimate.Requests; n != nil {
		requests = *n
	}
	err = c.metering.late.put(lateCharge{
		key: c.estimate.Key, tier: c.estimate.Tier, model: c.estimate.Model, id: rand.Text(),
		requests: requests, costs: c.noCosts(), usage: ch.usage, reserved: reserved, ended: time.Now(),
	})
	return err == nil, err
}
