// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// Auditor collects the log of one run. It is safe for concurrent use.
type Auditor struct {
	options Options
	members members
	shards  [64]shard
}

// New returns an auditor of the limits that o describes.
func New(o Options) (*Auditor, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &Auditor{options: o.withDefaults()}, nil
}

// State is what a target says about the limits of a key.
type State struct {
	Key, Tier, Model string
	Used             []bench.LimitUsage
	// Sent and Done: when it was asked and when the answer was there. Both zero:
	// before or after all calls; what refills is not compared then.
	Sent, Done time.Duration
}

// shard holds the logs of some roots.
type shard struct {
	mu struct {
		sync.Mutex
		callers map[ident]caller
		roots   map[string]*root
		events  int64
		ignored int64
	}
}

// ident is who calls: what the limits of a call depend on.
type ident struct{ key, tier, model string }

type caller struct {
	root *root
	i    uint32 // in root.idents
}

// root is the log of all the keys below one first segment.
type root struct {
	name       string
	idents     []ident
	log        [][]record
	n          int
	began, end []stated
	reasons    map[string]int64 // denials that no limit is judged by
}

type stated struct {
	ident uint32
	State
}

// record is an event, as far as it matters here. It has 64 bytes. Requests of 0
// are one, as at every front door.
type record struct {
	sent, done int64
	id         string
	in, out    int64 // out: of a reserve what was granted
	requests   int64
	ident      uint32
	op         bench.Op
	answer     answer
	decider    member // in fallback
	replayed   bool
}

// answer is what became of a question or, of a settle, whether it got there.
type answer uint8

const (
	unknown  answer = iota // it may have been done or not
	admitted               // of a settle: acknowledged
	degraded
	denied // by a limit
	refused
)

const firstChunk, lastChunk = 4, 4096

func (r *root) add(rec record) {
	last := len(r.log) - 1
	if last < 0 || len(r.log[last]) == cap(r.log[last]) {
		size := firstChunk
		if last >= 0 {
			size = min(2*cap(r.log[last]), lastChunk)
		}
		r.log = append(r.log, make([]record, 0, size))
		last++
	}
	r.log[last] = append(r.log[last], rec)
	r.n++
}

// Add puts an event into the log. It does not keep e. Events may come in any
// order; one without a call is counted and ignored.
func (a *Auditor) Add(e *bench.Event) {
	if e.Call == nil || e.Call.Key == "" {
		s := &a.shards[0]
		s.mu.Lock()
		s.mu.ignored++
		s.mu.Unlock()
		return
	}
	rec, reason := a.recordOf(e)
	s := a.shard(e.Call.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.events++
	c := s.callerLocked(ident{e.Call.Key, e.Call.Tier, e.Call.Model})
	rec.ident = c.i
	c.root.add(rec)
	if reason != "" {
		if c.root.reasons == nil {
			c.root.reasons = map[string]int64{}
		}
		c.root.reasons[reason]++
	}
}

// recordOf also returns the reason of a denial for which no limit is judged.
func (a *Auditor) recordOf(e *bench.Event) (record, string) {
	c := e.Call
	r := record{
		sent: int64(e.Sent), done: max(int64(e.Sent), int64(e.Done)),
		id: c.ID, op: e.Op, in: c.InputTokens, out: c.OutputTokens, requests: 1,
		replayed: e.Answer.Replayed,
	}
	if e.Answer.Route == "fallback" {
		r.decider = a.members.of(e.Answer.Owner)
	}
	if c.Requests > 0 {
		r.requests = c.Requests
	}
	if e.Op == bench.OpProgress || e.Op == bench.OpSettle {
		r.in, r.out = e.Usage.InputTokens, e.Usage.OutputTokens
		if r.id == "" {
			r.id = e.Usage.ID
		}
		if e.Usage.Final {
			r.op = bench.OpSettle
		}
		if e.Err == nil && e.Answer.Outcome != bench.Failed {
			r.answer = admitted
		}
		return r, ""
	}
	if e.Op == bench.OpReserve {
		r.out = c.MaxOutputTokens
	}
	if r.id == "" {
		r.id = e.Answer.ID
	}
	if e.Err != nil {
		return r, ""
	}
	switch e.Answer.Outcome {
	case bench.Allowed:
		r.answer = admitted
	case bench.Degraded:
		r.answer, r.out = degraded, e.Answer.GrantedOutputTokens
	case bench.Denied:
		reason := e.Answer.Reason
		switch {
		case reason != "" && reason != "limit_exceeded":
		case r.decider != 0:
			reason = "limit_exceeded in fallback"
		default:
			r.answer = denied
			return r, ""
		}
		r.answer = refused
		return r, reason
	}
	return r, ""
}

// Began tells what was used before the run.
func (a *Auditor) Began(st State) { a.state(st, func(r *root) *[]stated { return &r.began }) }

// Ended tells what is used after the run, when all that is on its way has
// arrived. Without it nothing is said about charges.
func (a *Auditor) Ended(st State) { a.state(st, func(r *root) *[]stated { return &r.end }) }

func (a *Auditor) state(st State, list func(*root) *[]stated) {
	s := a.shard(st.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.callerLocked(ident{st.Key, st.Tier, st.Model})
	l := list(c.root)
	*l = append(*l, stated{c.i, st})
}

func rootOf(key string) string {
	name, _, _ := strings.Cut(key, "/")
	return name
}

func (a *Auditor) shard(key string) *shard {
	return &a.shards[hash(rootOf(key))%uint64(len(a.shards))]
}

func (s *shard) callerLocked(who ident) caller {
	if c, ok := s.mu.callers[who]; ok {
		return c
	}
	if s.mu.callers == nil {
		s.mu.callers = map[ident]caller{}
		s.mu.roots = map[string]*root{}
	}
	name := rootOf(who.key)
	r := s.mu.roots[name]
	if r == nil {
		r = &root{name: name}
		s.mu.roots[name] = r
	}
	c := caller{r, uint32(len(r.idents))}
	r.idents = append(r.idents, who)
	s.mu.callers[who] = c
	return c
}

// hash is FNV-1a with a finish that mixes its high bits.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}
