// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// waiterClasses are the keys of an iteration with [Options.Waiters]. Their calls are two to three
// times what the limits let through, so that many wait all the time. The keys of teams share the
// limits of their team.
var waiterClasses = []class{
	{tier: "turns", keys: 16, weight: 48},
	{tier: "slots", keys: 12, weight: 30, llm: 100},
	{tier: "member", keys: 24, weight: 22, llm: 80, perTeam: 4},
}

// waiterPolicy is the policy of a cluster with [Options.Waiters]. The limits per day deny nothing:
// they show to the unit whether a call was charged once.
const waiterPolicy = `
tiers:
  turns:
    limits:
      - { dimension: requests, limit: 5, window: 1s, unreachable: share, queue: { max_wait: 2s, max_depth: 200 } }
      - { name: daily, dimension: requests, limit: 100_000, window: day, unreachable: share }
  slots:
    limits:
      - { dimension: concurrent, limit: 4, unreachable: closed, queue: { max_wait: 3s, max_depth: 200 } }
      - { name: daily, dimension: tokens, limit: 100_000_000, window: day, unreachable: closed }
  team:
    limits:
      - { dimension: tokens, limit: 3_000, window: 1s, unreachable: closed, queue: { max_wait: 3s, max_depth: 200 } }
      - { name: daily, dimension: requests, limit: 100_000, window: day, unreachable: closed }
  member:
    limits:
      - { dimension: concurrent, limit: 3, unreachable: closed, queue: { max_wait: 2s, max_depth: 100 } }
default_tier: team
assign:
  - { key: "*-team-*", tier: team }
`

const (
	// longestWait is the longest max_wait of waiterPolicy.
	longestWait = 3 * time.Second
	// waiterTimeout is the time for a request that may wait.
	waiterTimeout = 10 * time.Second
	// answerMargin is how long after its longest wait a call is answered at the latest. It is
	// more than a member needs to take over.
	answerMargin = 4 * time.Second
	// soonWaited is what counts as a wait, of an answer to a call that waited.
	soonWaited = 10 * time.Millisecond
)

// Waiting is what calls that wait for limits found. It is empty without [Options.Waiters].
type Waiting struct {
	// Admitted and Denied are the calls that waited for at least 10 ms.
	Admitted int64 `json:"admitted"`
	Denied   int64 `json:"denied"`
	// Longest is the time to the latest answer. Late are calls without an answer within 4 s
	// after the longest wait that the policy lets them.
	Longest time.Duration `json:"longest_ns"`
	Late    int64         `json:"late"`
	// SlotsHeld are slots of concurrency limits that were still held after all settles.
	SlotsHeld int64 `json:"slots_held"`
}

func (w *Waiting) plus(v *Waiting) {
	w.Admitted += v.Admitted
	w.Denied += v.Denied
	w.Longest = max(w.Longest, v.Longest)
	w.Late += v.Late
	w.SlotsHeld += v.SlotsHeld
}

// count counts a check or a reserve.
func (w *Waiting) count(s *sample) {
	took := s.done - s.sent
	w.Longest = max(w.Longest, took)
	if took > longestWait+answerMargin {
		w.Late++
	}
	switch {
	case s.waited < soonWaited:
	case s.result == admitted:
		w.Admitted++
	case s.result == denied:
		w.Denied++
	}
}

// heldSlots returns how many slots are in use.
func heldSlots(used []bench.LimitUsage) (n int64) {
	for _, u := range used {
		if u.Dimension == audit.Concurrent {
			n += u.Used
		}
	}
	return n
}
