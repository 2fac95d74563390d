// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
)

// Outcome is how a call ended.
type Outcome string

// The outcomes.
const (
	Running      Outcome = "running"
	Finished     Outcome = "finished"     // the whole response was written
	Disconnected Outcome = "disconnected" // the caller disconnected before the end
	Aborted      Outcome = "aborted"      // the mock interrupted the response, as configured
	Rejected     Outcome = "rejected"     // a configured error status; nothing was generated
	Invalid      Outcome = "invalid"      // the request was invalid; nothing was generated
)

// Entry is the true usage of one call. All amounts are tokens.
type Entry struct {
	Number          int64  `json:"number"` // from 1, in order of arrival
	ID              string `json:"id"`     // of the response
	Caller          string `json:"caller"` // of a key the beginning of its hash
	Label           string `json:"label,omitempty"`
	Endpoint        string `json:"endpoint"`
	Model           string `json:"model"`
	Stream          bool   `json:"stream"`
	Choices         int64  `json:"choices"`          // generated choices, including those that best_of drops
	MaxTokens       int64  `json:"max_tokens"`       // bound of each choice in the request; -1: none
	UnboundedOutput int64  `json:"unbounded_output"` // output of all choices if there were no bound

	Input      int64 `json:"input"`       // all input; 0: the call did not run
	Cached     int64 `json:"cached"`      // part of the input that was read from a cache
	CacheWrite int64 `json:"cache_write"` // part of the input that was written to a cache
	Generated  int64 `json:"generated"`   // output, including reasoning
	Reasoning  int64 `json:"reasoning"`   // part of the output
	Written    int64 `json:"written"`     // output written to the connection, without hidden reasoning

	Status  int       `json:"status"` // 0: no response was started
	Outcome Outcome   `json:"outcome"`
	Usage   string    `json:"usage"` // X-Mock-Usage of the call: true, none, or the kind of wrong usage
	Started time.Time `json:"started"`
	Ended   time.Time `json:"ended"` // zero while the call runs
}

// Totals are the sums of the calls of one caller.
type Totals struct {
	Calls        int64 `json:"calls"`
	Running      int64 `json:"running"`
	Finished     int64 `json:"finished"`
	Disconnected int64 `json:"disconnected"`
	Aborted      int64 `json:"aborted"`
	Rejected     int64 `json:"rejected"`
	Invalid      int64 `json:"invalid"`
	Input        int64 `json:"input"`
	Cached       int64 `json:"cached"`
	Generated    int64 `json:"generated"`
	Reasoning    int64 `json:"reasoning"`
	Written      int64 `json:"written"`
}

// A Ledger records the calls of a server. A call ends in it shortly after its caller
// has received the end of the response: see [Ledger.Idle]. A Ledger is safe for
// concurrent use.
type Ledger struct {
	size int // capacity of mu.ended

	mu struct {
		sync.Mutex
		last    int64
		running map[int64]*record
		ended   []Entry // a ring buffer when it is full; next is the oldest entry
		next    int
		totals  map[string]*Totals
		idle    chan struct{} // closed when running becomes empty; nil: no waiter
	}
}

// record is a call in progress. Its entry is guarded by the lock of the ledger; its
// counters are written by the handler.
type record struct {
	entry                         Entry
	generated, reasoning, written atomic.Int64
}

func newLedger(size int) *Ledger {
	l := &Ledger{size: size}
	l.mu.running = make(map[int64]*record)
	l.mu.totals = make(map[string]*Totals)
	return l
}

// begin adds a call and assigns its number.
func (l *Ledger) begin(caller, label string, e endpoint, now time.Time) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.last++
	r := &record{entry: Entry{
		Number: l.mu.last, Caller: caller, Label: label, Endpoint: e.String(), MaxTokens: -1,
		Outcome: Running, Started: now,
	}}
	l.mu.running[r.entry.Number] = r
	return r
}

// update changes the entry of a call in progress.
func (l *Ledger) update(r *record, change func(*Entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&r.entry)
}

// finish records the end of a call. Repeated calls have no effect.
func (l *Ledger) finish(r *record, o Outcome, now time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if r.entry.Outcome != Running {
		return
	}
	r.entry.Outcome, r.entry.Ended = o, now
	e := r.snapshot()
	delete(l.mu.running, e.Number)
	if len(l.mu.ended) < l.size {
		l.mu.ended = append(l.mu.ended, e)
	} else {
		l.mu.ended[l.mu.next] = e
		l.mu.next = (l.mu.next + 1) % l.size
	}
	t := l.mu.totals[e.Caller]
	if t == nil {
		t = &Totals{}
		l.mu.totals[e.Caller] = t
	}
	t.add(e)
	if len(l.mu.running) == 0 && l.mu.idle != nil {
		close(l.mu.idle)
		l.mu.idle = nil
	}
}

func (r *record) snapshot() Entry {
	e := r.entry
	e.Generated, e.Reasoning, e.Written = r.generated.Load(), r.reasoning.Load(), r.written.Load()
	return e
}

func (t *Totals) add(e Entry) {
	t.Calls++
	t.Input += e.Input
	t.Cached += e.Cached
	t.Generated += e.Generated
	t.Reasoning += e.Reasoning
	t.Written += e.Written
	switch e.Outcome {
	case Running:
		t.Running++
	case Finished:
		t.Finished++
	case Disconnected:
		t.Disconnected++
	case Aborted:
		t.Aborted++
	case Rejected:
		t.Rejected++
	case Invalid:
		t.Invalid++
	}
}

// Entries returns the latest ended calls in the order of their ends, followed by the
// calls in progress in no particular order.
func (l *Ledger) Entries() []Entry {
	l.mu.Lock()
	defer l.mu.Unlock()
	entries := make([]Entry, 0, len(l.mu.ended)+len(l.mu.running))
	entries = append(entries, l.mu.ended[l.mu.next:]...)
	entries = append(entries, l.mu.ended[:l.mu.next]...)
	for _, r := range l.mu.running {
		entries = append(entries, r.snapshot())
	}
	return entries
}

// Totals returns the sums by caller of all calls since the start or the last
// [Ledger.Reset]. They include calls in progress and calls that Entries has dropped.
func (l *Ledger) Totals() map[string]Totals {
	l.mu.Lock()
	defer l.mu.Unlock()
	sums := make(map[string]Totals, len(l.mu.totals))
	for caller, t := range l.mu.totals {
		sums[caller] = *t
	}
	for _, r := range l.mu.running {
		t := sums[r.entry.Caller]
		t.add(r.snapshot())
		sums[r.entry.Caller] = t
	}
	return sums
}

// Reset removes all ended calls.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.ended, l.mu.next = nil, 0
	clear(l.mu.totals)
}

// Idle waits until no call is in progress. It returns the error of ctx if ctx is done
// first.
func (l *Ledger) Idle(ctx context.Context) error {
	l.mu.Lock()
	if len(l.mu.running) == 0 {
		l.mu.Unlock()
		return nil
	}
	if l.mu.idle == nil {
		l.mu.idle = make(chan struct{})
	}
	idle := l.mu.idle
	l.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
