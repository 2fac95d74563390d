// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"container/heap"
	"math/bits"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
)

// llmCall is an LLM call that has a reservation. One goroutine uses it at a time:
// the one that sends its requests, or the scheduler's.
type llmCall struct {
	call       *Call
	due        time.Duration // of the reserve
	reservedAt time.Duration
	reported   int64         // progress reports sent so far
	output     int64         // output tokens at the end of the call
	nextDue    time.Duration // when the next request is due
	usage      Usage         // of the next request
	cutShort   bool          // ended early, with the run
	resume     chan *llmCall // receives the call when its next request is due; nil in an open loop
}

func newLLMCall(c *Call, due, from time.Duration, a *Answer) *llmCall {
	h := &llmCall{call: c, due: due, reservedAt: from, output: c.OutputTokens}
	if a.Outcome == Degraded {
		h.output = max(0, min(h.output, a.GrantedOutputTokens))
	}
	h.usage = Usage{ID: a.ID, Key: c.Key, InputTokens: c.InputTokens}
	if h.usage.ID == "" {
		h.usage.ID = c.ID
	}
	h.plan()
	return h
}

func (h *llmCall) advance() {
	h.reported++
	h.plan()
}

// plan sets the next request and the time at which it is due.
func (h *llmCall) plan() {
	steps := int64(max(h.call.ProgressReports, 0)) + 1
	done := h.reported + 1
	h.nextDue = h.reservedAt + time.Duration(mulDiv(int64(h.call.Duration), done, steps))
	h.usage.OutputTokens = mulDiv(h.output, done, steps)
	h.usage.Final = done == steps
}

// endNow makes the next request the final settle, due at now, with the tokens
// generated until then.
func (h *llmCall) endNow(now time.Duration) {
	if h.nextDue <= now && h.usage.Final {
		return // the call has ended anyway
	}
	h.cutShort = true
	if now < h.reservedAt+h.call.Duration {
		h.usage.OutputTokens = mulDiv(h.output, int64(max(0, now-h.reservedAt)), int64(h.call.Duration))
	} else {
		h.usage.OutputTokens = h.output
	}
	h.nextDue, h.usage.Final = now, true
}

// mulDiv returns whole * part / parts without overflow, for 0 <= part <= parts.
func mulDiv(whole, part, parts int64) int64 {
	if whole <= 0 || parts <= 0 {
		return max(whole, 0)
	}
	hi, lo := bits.Mul64(uint64(whole), uint64(part))
	q, _ := bits.Div64(hi, lo, uint64(parts)) // does not overflow, since part <= parts
	return int64(q)
}

// scheduler keeps LLM calls until their next request is due. One goroutine and one
// timer serve all calls.
type scheduler struct {
	sleeper sleeper
	submit  func(*llmCall) // called when the next request of a call is due
	wake    notify.Signal
	stop    chan struct{}

	mu struct {
		sync.Mutex
		calls    dueHeap
		settling bool // every call is due at once
	}
}

func newScheduler(base time.Time, submit func(*llmCall)) *scheduler {
	stop := make(chan struct{})
	return &scheduler{sleeper: newSleeper(base, stop), submit: submit, wake: notify.New(), stop: stop}
}

// add keeps a call until its next request is due.
func (s *scheduler) add(c *llmCall) {
	s.mu.Lock()
	heap.Push(&s.mu.calls, c)
	first := s.mu.calls[0] == c
	s.mu.Unlock()
	if first {
		s.wake.Set()
	}
}

// settleAll ends all calls now, and every call that is added later at once.
func (s *scheduler) settleAll() {
	s.mu.Lock()
	s.mu.settling = true
	s.mu.Unlock()
	s.wake.Set()
}

// len returns the number of waiting calls.
func (s *scheduler) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.mu.calls)
}

// run submits calls when they are due. It returns when stop is closed.
func (s *scheduler) run() {
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		c, wait := s.popDue()
		if c != nil {
			s.submit(c)
			continue
		}
		if wait < 2*time.Millisecond {
			// The last 2 ms are slept precisely. A call that is added meanwhile and due
			// earlier is up to that much late.
			if _, ok := s.sleeper.until(time.Since(s.sleeper.start) + wait); !ok {
				return
			}
			continue
		}
		timer.Reset(wait - time.Millisecond)
		select {
		case <-timer.C:
		case <-s.wake.C():
		case <-s.stop:
			return
		}
	}
}

// popDue removes and returns the first call if it is due. Otherwise it returns
// nil and how long to wait.
func (s *scheduler) popDue() (*llmCall, time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.calls) == 0 {
		return nil, time.Hour
	}
	now := time.Since(s.sleeper.start)
	first := s.mu.calls[0]
	switch {
	case s.mu.settling:
		heap.Pop(&s.mu.calls)
		first.endNow(now)
	case first.nextDue <= now:
		heap.Pop(&s.mu.calls)
	default:
		return nil, first.nextDue - now
	}
	return first, 0
}

// dueHeap is a heap of calls, the earliest due first.
type dueHeap []*llmCall

func (b dueHeap) Len() int           { return len(b) }
func (b dueHeap) Less(i, j int) bool { return b[i].nextDue < b[j].nextDue }
func (b dueHeap) Swap(i, j int)      { b[i], b[j] = b[j], b[i] }
func (b *dueHeap) Push(x any)        { *b = append(*b, x.(*llmCall)) }

func (b *dueHeap) Pop() any {
	old := *b
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*b = old[:len(old)-1]
	return last
}
