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
	Running  Outcome = "running"
	Finished Outcome = "finished" // the whole answer was written
	Left     Outcome = "left"     // the caller went away before
	Broken   Outcome = "broken"   // this server broke it off
	Refused  Outcome = "refused"  // a failure that was asked for; nothing was generated
	Invalid  Outcome = "invalid"  // the request was wrong; nothing was generated
)

// Entry is one call as it really was. All amounts are tokens.
type Entry struct {
	Number   int64  `json:"number"` // from 1, in order of arrival
	ID       string `json:"id"`     // of the answer
	Caller   string `json:"caller"`
	Label    string `json:"label,omitempty"`
	Endpoint string `json:"endpoint"`
	Model    string `json:"model"`
	Stream   bool   `json:"stream"`
	Choices  int64  `json:"choices"`    // generated, those that best_of hides, too
	MaxEach  int64  `json:"max_tokens"` // bound of each choice, as it arrived here; -1: none
	Wanted   int64  `json:"wanted"`     // output of all choices without any bound

	Input      int64 `json:"input"`       // all of it; 0 if nothing was run
	Cached     int64 `json:"cached"`      // of it, read from a cache
	CacheWrite int64 `json:"cache_write"` // of it, written to a cache
	Generated  int64 `json:"generated"`   // output until the end, reasoning included
	Reasoning  int64 `json:"reasoning"`   // of it
	Written    int64 `json:"written"`     // output that the connection took, shown tokens only

	Status  int       `json:"status"` // 0: no answer was begun
	Outcome Outcome   `json:"outcome"`
	Usage   string    `json:"usage"` // what was reported: true, none, or the lie
	Begun   time.Time `json:"begun"`
	Ended   time.Time `json:"ended"` // zero while it runs
}

// Totals are the sums of the calls of one caller.
type Totals struct {
	Calls     int64 `json:"calls"`
	Running   int64 `json:"running"`
	Finished  int64 `json:"finished"`
	Left      int64 `json:"left"`
	Broken    int64 `json:"broken"`
	Refused   int64 `json:"refused"`
	Invalid   int64 `json:"invalid"`
	Input     int64 `json:"input"`
	Cached    int64 `json:"cached"`
	Generated int64 `json:"generated"`
	Reasoning int64 `json:"reasoning"`
	Written   int64 `json:"written"`
}

// Ledger is what a server really did. A call ends in it a moment after its caller
// has the end of the answer: see [Ledger.Idle]. It is safe for concurrent use.
type Ledger struct {
	size int // entries kept of calls that ended

	mu struct {
		sync.Mutex
		last    int64
		running map[int64]*record
		ended   []Entry // a ring once it is full: next is the oldest
		next    int
		totals  map[string]*Totals
		idle    chan struct{} // closed when running becomes empty; nil: nobody waits
	}
}

// record is a call under way. Its entry is written by the handler alone, and by
// finish under the lock; the counters are read meanwhile.
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

// begin gives a call its number.
func (l *Ledger) begin(caller, label string, e endpoint, now time.Time) *record {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.last++
	r := &record{entry: Entry{
		Number: l.mu.last, Caller: caller, Label: label, Endpoint: e.String(), MaxEach: -1,
		Outcome: Running, Begun: now,
	}}
	l.mu.running[r.entry.Number] = r
	return r
}

// describe changes the entry of a call under way.
func (l *Ledger) describe(r *record, change func(*Entry)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	change(&r.entry)
}

// finish notes how a call ended. Only the first time counts.
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
	case Left:
		t.Left++
	case Broken:
		t.Broken++
	case Refused:
		t.Refused++
	case Invalid:
		t.Invalid++
	}
}

// Entries returns the calls that are kept in the order in which they ended, and
// then those under way, in no order.
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

// Totals returns the sums by caller over all calls since the start or
// [Ledger.Reset], those that are no longer kept and those under way included.
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

// Reset forgets all calls that ended.
func (l *Ledger) Reset() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.mu.ended, l.mu.next = nil, 0
	clear(l.mu.totals)
}

// Idle waits until no call is under way, or ctx is done.
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
