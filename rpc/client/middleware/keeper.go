// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// maxRenewals bounds how many leases are renewed at once. The client sends
// what is on its way at once together.
const maxRenewals = 256

// A keeper renews the leases of the calls under way and reports their progress,
// whether or not anything comes of them. One timer serves all of them, and runs
// only while there are any.
type keeper struct {
	every time.Duration
	renew func(*Call) error
	timer *time.Timer
	slots chan struct{} // one for each renewal under way; its capacity bounds them; never closed

	mu struct {
		sync.Mutex
		due   map[*Call]time.Time // zero: a renewal is under way
		armed bool                // the timer will fire, or its function runs
	}
}

func newKeeper(every time.Duration, renew func(*Call) error) *keeper {
	k := &keeper{every: every, renew: renew, slots: make(chan struct{}, maxRenewals)}
	k.mu.due = map[*Call]time.Time{}
	k.timer = time.AfterFunc(time.Hour, k.tick)
	k.timer.Stop()
	return k
}

// pause is how often it is looked what is due: a renewal is late by that at most.
func (k *keeper) pause() time.Duration { return max(k.every/4, time.Millisecond) }

func (k *keeper) add(c *Call) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.mu.due[c] = time.Now().Add(k.every)
	if !k.mu.armed {
		k.mu.armed = true
		k.timer.Reset(k.pause())
	}
}

func (k *keeper) remove(c *Call) {
	k.mu.Lock()
	defer k.mu.Unlock()
	delete(k.mu.due, c)
}

// tick is the timer's.
func (k *keeper) tick() {
	for _, c := range k.take(time.Now()) {
		k.slots <- struct{}{}
		go func() {
			defer func() { <-k.slots }()
			k.put(c, k.renew(c))
		}()
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.mu.armed = len(k.mu.due) > 0; k.mu.armed {
		k.timer.Reset(k.pause())
	}
}

// take returns the calls that are due.
func (k *keeper) take(now time.Time) (due []*Call) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for c, at := range k.mu.due {
		if !at.IsZero() && !now.Before(at) {
			k.mu.due[c] = time.Time{}
			due = append(due, c)
		}
	}
	return due
}

// put takes a call back whose renewal has ended. One that did not reach a node
// is tried again soon.
func (k *keeper) put(c *Call, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if _, kept := k.mu.due[c]; !kept {
		return // it has ended meanwhile
	}
	at := time.Now()
	if !errors.Is(err, client.ErrUnreachable) {
		at = at.Add(k.every)
	}
	k.mu.due[c] = at
}
