// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/keypath"
)

// Auditor collects the log of one run. It is safe for concurrent use.
type Auditor struct {
	options Options
	members members
	refused atomic.Int64 // events of calls that were refused because of overload
	shards  [64]shard

	losses struct {
		sync.Mutex
		windows []lossWindow
	}
}

// lossWindow is from when until when small charges may be lost.
type lossWindow struct{ from, to int64 }

// New returns an auditor. The error joins all problems of the options.
func New(o Options) (*Auditor, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("audit: %w", err)
	}
	return &Auditor{options: o.withDefaults()}, nil
}

// KeyUsage is the usage of the limits of a key, as the target reported it.
type KeyUsage struct {
	Key, Tier, Model string
	Used             []bench.LimitUsage
	// Sent and Done are when the report was requested and when it arrived. If both are
	// zero it is from before or after all calls, and refilling limits are not compared.
	Sent, Done time.Duration
}

// shard has the logs of some roots.
type shard struct {
	mu struct {
		sync.Mutex
		callers map[caller]callerRef
		roots   map[string]*root
		events  int64
		ignored int64
	}
}

// caller is what the limits of a call depend on.
type caller struct{ key, tier, model string }

type callerRef struct {
	root  *root
	index uint32 // in root.callers
}

// root is the log of all keys with the same first segment.
type root struct {
	name           string
	callers        []caller
	log            [][]record
	n              int
	initial, final []callerUsage
	reasons        map[string]int64 // denials that limits did not cause
}

type callerUsage struct {
	caller uint32
	KeyUsage
}

// record is the part of an event that the audit needs, in 64 bytes. 0 requests count
// as one, as in the API.
type record struct {
	sent, done int64
	id         string
	in, out    int64 // out is the granted output of a reserve
	requests   int64
	caller     uint32
	op         bench.Op
	answer     answer
	decider    member // in fallback; otherwise 0
	replayed   bool
}

// answer is the outcome of a request, or whether a settle was acknowledged.
type answer uint8

const (
	unknown  answer = iota // no answer: it may have been charged
	admitted               // or, of a settle, acknowledged
	degraded
	denied      // by a limit
	otherDenial // for another reason
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

// Add adds an event to the log. It does not keep e. Events may be added in any order.
// An event without a call or key is counted as ignored.
func (a *Auditor) Add(e *bench.Event) {
	if e.Call == nil || e.Call.Key == "" {
		s := &a.shards[0]
		s.mu.Lock()
		s.mu.ignored++
		s.mu.Unlock()
		return
	}
	if refused(e) {
		// It charges nothing, so the log is complete without it. If it was charged, final
		// usage is more than the log explains.
		a.refused.Add(1)
		return
	}
	s := a.shard(e.Call.Key)
	rec, reason := a.recordOf(e)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.events++
	c := s.refLocked(caller{e.Call.Key, e.Call.Tier, e.Call.Model})
	rec.caller = c.index
	c.root.add(rec)
	if reason != "" {
		if c.root.reasons == nil {
			c.root.reasons = map[string]int64{}
		}
		c.root.reasons[reason]++
	}
}

// refused reports whether a check or reserve was refused because of overload. Settles must
// not be refused: such a settle has failed.
func refused(e *bench.Event) bool {
	if e.Op != bench.OpCheck && e.Op != bench.OpReserve {
		return false
	}
	return e.Answer.Outcome == bench.Refused || e.Err != nil && errors.Is(e.Err, bench.ErrOverloaded)
}

// recordOf converts an event. For a denial that no limit caused it returns the reason.
func (a *Auditor) recordOf(e *bench.Event) (record, string) {
	c := e.Call
	r := record{
		sent: int64(e.Sent), done: max(int64(e.Sent), int64(e.Done)),
		id: c.ID, op: e.Op, in: c.InputTokens, out: c.OutputTokens, requests: 1,
		replayed: e.Answer.Replayed,
	}
	if e.Answer.Route == "fallback" {
		r.decider = a.members.number(e.Answer.Owner)
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
		r.answer = otherDenial
		return r, reason
	}
	if !r.replayed { // else the time is that of the repeat
		r.sent = min(r.sent+int64(max(e.Answer.Waited, 0)), r.done)
	}
	return r, ""
}

// AllowLoss says that a node failed: charges below 1 % of a limit that were answered from one
// time of the log to the other may be lost. It is safe for concurrent use.
func (a *Auditor) AllowLoss(from, to time.Duration) {
	a.losses.Lock()
	defer a.losses.Unlock()
	a.losses.windows = append(a.losses.windows, lossWindow{int64(from), int64(to)})
}

// AddInitialUsage adds usage from before the run.
func (a *Auditor) AddInitialUsage(u KeyUsage) {
	a.addUsage(u, func(r *root) *[]callerUsage { return &r.initial })
}

// AddFinalUsage adds usage from after the run, when all settles have reached their
// owners. Charges are only compared if there is final usage.
func (a *Auditor) AddFinalUsage(u KeyUsage) {
	a.addUsage(u, func(r *root) *[]callerUsage { return &r.final })
}

func (a *Auditor) addUsage(st KeyUsage, list func(*root) *[]callerUsage) {
	s := a.shard(st.Key)
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.refLocked(caller{st.Key, st.Tier, st.Model})
	l := list(c.root)
	*l = append(*l, callerUsage{c.index, st})
}

func (a *Auditor) shard(key string) *shard {
	return &a.shards[hash(keypath.Root(key))%uint64(len(a.shards))]
}

func (s *shard) refLocked(who caller) callerRef {
	if c, ok := s.mu.callers[who]; ok {
		return c
	}
	if s.mu.callers == nil {
		s.mu.callers = map[caller]callerRef{}
		s.mu.roots = map[string]*root{}
	}
	name := keypath.Root(who.key)
	r := s.mu.roots[name]
	if r == nil {
		r = &root{name: name}
		s.mu.roots[name] = r
	}
	c := callerRef{r, uint32(len(r.callers))}
	r.callers = append(r.callers, who)
	s.mu.callers[who] = c
	return c
}

// hash is FNV-1a with a finalizer that mixes the high bits.
func hash(s string) uint64 {
	h := uint64(14695981039346656037)
	for i := range len(s) {
		h = (h ^ uint64(s[i])) * 1099511628211
	}
	h ^= h >> 32
	h *= 0xd6e8feb86659fd93
	return h ^ h>>32
}
