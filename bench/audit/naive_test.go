// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// naive is a simple and slow limiter that keeps the whole log. Every call is under all
// of its limits, separately for each key.
type naive struct {
	limits []audit.Limit
	lease  int64

	mu     sync.Mutex
	states map[string][]account // by key and limit
	calls  map[string]*held
	order  []*held
}

type account struct{ charges []*charge }

type charge struct {
	at     int64
	amount int64
}

// held is an admitted call.
type held struct {
	answer   bench.Answer
	call     *bench.Call
	charges  []*charge // by limit
	until    int64
	live     bool
	progress int64
}

func newNaive(limits ...audit.Limit) *naive {
	return &naive{limits: limits, lease: int64(30 * time.Second), states: map[string][]account{}, calls: map[string]*held{}}
}

func amountOf(l *audit.Limit, in, out int64, reserve bool) int64 {
	switch l.Dimension {
	case audit.Requests:
		return 1
	case audit.Tokens:
		return in + out
	case audit.InputTokens:
		return in
	case audit.OutputTokens:
		return out
	case audit.Concurrent:
		if reserve {
			return 1
		}
	}
	return 0
}

// used returns the usage at now, multiplied by the window if the limit is a bucket.
func (a *account) used(l *audit.Limit, now int64) int64 {
	var sum, before int64
	drain := func(to int64) {
		sum = max(0, sum-l.Amount*(to-before))
		before = to
	}
	for _, c := range a.charges {
		switch l.Algorithm {
		case audit.TokenBucket:
			drain(c.at)
			sum += c.amount * int64(l.Window)
			continue
		case audit.SlidingWindow:
			if now-c.at >= int64(l.Window) {
				continue
			}
		case audit.FixedWindow:
			if now/int64(l.Window) != c.at/int64(l.Window) {
				continue
			}
		}
		sum += c.amount
	}
	if l.Algorithm == audit.TokenBucket {
		drain(now)
	}
	return sum
}

func (n *naive) fits(a *account, l *audit.Limit, now, cost int64) bool {
	if cost == 0 {
		return true
	}
	most := l.Amount
	if l.Algorithm == audit.TokenBucket {
		if l.Burst > 0 {
			most = l.Burst
		}
		most, cost = most*int64(l.Window), cost*int64(l.Window)
	}
	return a.used(l, now)+cost <= most
}

func (n *naive) expire(now int64) {
	for _, h := range n.order {
		if !h.live || h.until > now {
			continue
		}
		h.live = false
		for i := range n.limits {
			l := &n.limits[i]
			if l.Dimension == audit.Concurrent {
				h.charges[i].amount = 0
				continue
			}
			h.charges[i].amount = amountOf(l, h.call.InputTokens, h.progress, true)
		}
	}
	n.order = slices.DeleteFunc(n.order, func(h *held) bool { return !h.live })
}

// ask decides a check or a reserve.
func (n *naive) ask(c *bench.Call, now int64) bench.Answer {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expire(now)
	if h := n.calls[c.ID]; h != nil {
		a := h.answer
		a.Replayed = true
		return a
	}
	accounts := n.states[c.Key]
	if accounts == nil {
		accounts = make([]account, len(n.limits))
		n.states[c.Key] = accounts
	}
	out := c.OutputTokens
	if c.LLM {
		out = c.MaxOutputTokens
	}
	for i := range n.limits {
		if !n.fits(&accounts[i], &n.limits[i], now, amountOf(&n.limits[i], c.InputTokens, out, c.LLM)) {
			return bench.Answer{Outcome: bench.Denied, Reason: "limit_exceeded"}
		}
	}
	h := &held{answer: bench.Answer{Outcome: bench.Allowed, GrantedOutputTokens: out}, call: c, until: now + n.lease, live: c.LLM}
	for i := range n.limits {
		ch := &charge{now, amountOf(&n.limits[i], c.InputTokens, out, c.LLM)}
		accounts[i].charges = append(accounts[i].charges, ch)
		h.charges = append(h.charges, ch)
	}
	n.calls[c.ID] = h
	if c.LLM {
		n.order = append(n.order, h)
	}
	return h.answer
}

// use applies a settle or progress.
func (n *naive) use(id string, u bench.Usage, now int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.expire(now)
	h := n.calls[id]
	if h == nil {
		return
	}
	if !u.Final {
		if h.live {
			h.until = now + n.lease
			h.progress = max(h.progress, u.OutputTokens)
		}
		return
	}
	h.live = false
	for i := range n.limits {
		l := &n.limits[i]
		h.charges[i].amount = amountOf(l, u.InputTokens, u.OutputTokens, false)
	}
}

// left returns the usage of every limit of key, as a target reports it.
func (n *naive) left(key string, now int64) audit.KeyUsage {
	n.mu.Lock()
	defer n.mu.Unlock()
	st := audit.KeyUsage{Key: key, Sent: time.Duration(now), Done: time.Duration(now)}
	for i, a := range n.states[key] {
		l := &n.limits[i]
		used := a.used(l, now)
		if l.Algorithm == audit.TokenBucket {
			used = (used + int64(l.Window) - 1) / int64(l.Window)
		}
		st.Used = append(st.Used, bench.LimitUsage{Scope: key, Dimension: l.Dimension, Name: l.Dimension, Used: used, Limit: l.Amount})
	}
	return st
}
