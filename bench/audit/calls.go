// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/bench"
)

// never is later than all times in a log.
const never = math.MaxInt64

// call is all requests with one id that may have been charged.
type call struct {
	// It was charged between sent and done. done is never if no answer says that it was
	// charged, or if a fallback reports it to the owner later.
	sent, done  int64
	request     *record // the request whose cost counts
	reservation int32   // 1 + index of its reservation; 0 for a check
	admitted    bool    // it was certainly admitted
	decider     member  // the first that admitted it in fallback
	attempts    uint8
}

// reservation is the additional state of an LLM call.
type reservation struct {
	useIn, useOut           int64 // of its final settle
	progressIn, progressOut int64 // highest reported
	sureIn, sureOut         int64 // highest reported that was certainly counted
	firstUsage              int64 // when usage was first sent, or never
	settleSent              int64 // first final settle, or never
	settleDone              int64 // when the owner had certainly applied it, or never
	lease                   int64 // it certainly lived until then
	settles, failures       int32
	settled                 bool // a final settle succeeded, possibly in fallback
	progressed              bool
}

// denial is a request that a limit denied.
type denial struct {
	request      *record
	limits, fits uint8
	// nearest is the state with the least room left, relative to its capacity.
	nearest int32
	share   float64
	room    int64
}

// history is the log of a root, grouped by id and ordered.
type history struct {
	calls        []call  // by sent
	byDone       []int32 // the calls by done
	reservations []reservation
	denials      []denial // by sent
	// deniedInFallback are requests that must not be charged, although their owner may
	// have decided them.
	deniedInFallback []*record
	answers          Answers
	ids              int64
}

// history groups the log of a root by id.
func (r *root) history(o *Options, by *sorter) *history {
	h := &history{}
	by.reset(r.n)
	var requests, denials int
	for _, chunk := range r.log {
		for i := range chunk {
			rec := &chunk[i]
			key := uint64(len(by.items))
			if rec.id != "" {
				key = hash(rec.id)
			}
			by.items = append(by.items, item{key, int32(len(by.items))})
			switch {
			case rec.op != bench.OpCheck && rec.op != bench.OpReserve:
			case rec.answer == denied:
				denials++
			case rec.answer != otherDenial:
				requests++
			}
		}
	}
	h.calls, h.denials = make([]call, 0, requests), make([]denial, 0, denials)
	same := by.groups(make([]int32, r.n))
	var group []*record
	n := 0
	for _, chunk := range r.log { // in log order, which is cache-friendly
		for i := range chunk {
			first := same[n]
			n++
			switch {
			case first == single:
				group = append(group[:0], &chunk[i])
				h.add(group, o)
			case first >= 0:
				group = group[:0]
				for k := first; ; k++ {
					group = append(group, r.at(int(by.items[k].i)))
					if int(k)+1 == len(by.items) || by.items[k+1].key != by.items[k].key {
						break
					}
				}
				r.split(h, group, o)
			}
		}
	}
	by.reset(len(h.calls))
	for i := range h.calls {
		by.add(h.calls[i].sent, int32(i))
	}
	h.calls = reordered(by, h.calls)
	by.reset(len(h.calls))
	for i := range h.calls {
		by.add(h.calls[i].done, int32(i))
	}
	h.byDone = by.order(nil)
	by.reset(len(h.denials))
	for i := range h.denials {
		by.add(h.denials[i].request.sent, int32(i))
	}
	h.denials = reordered(by, h.denials)
	return h
}

// at returns the i-th record of the log.
func (r *root) at(i int) *record {
	for size, chunk := firstChunk, 0; ; size, chunk = 2*size, chunk+1 {
		if size == lastChunk {
			return &r.log[chunk+i/lastChunk][i%lastChunk]
		}
		if i < size {
			return &r.log[chunk][i]
		}
		i -= size
	}
}

// split separates records whose ids have the same hash.
func (r *root) split(h *history, group []*record, o *Options) {
	key := func(x *record) string { return r.callers[x.caller].key }
	same := func(x, y *record) bool { return x.id != "" && x.id == y.id && key(x) == key(y) }
	slices.SortFunc(group, func(x, y *record) int {
		return cmp.Or(strings.Compare(x.id, y.id), strings.Compare(key(x), key(y)), cmp.Compare(x.sent, y.sent))
	})
	for len(group) > 0 {
		n := 1
		for n < len(group) && same(group[0], group[n]) {
			n++
		}
		h.add(group[:n], o)
		group = group[n:]
	}
}

// add adds the call of a group: all records of one id, by sent.
func (h *history) add(group []*record, o *Options) {
	c := call{sent: never, done: never}
	fresh, requests := 0, 0
	var uncertain *record
	llm := false
	for _, rec := range group {
		if rec.op != bench.OpCheck && rec.op != bench.OpReserve {
			llm = true
			continue
		}
		requests++
		llm = llm || rec.op == bench.OpReserve
		h.answers.count(rec)
		switch rec.answer {
		case admitted, degraded:
			c.sent = min(c.sent, rec.sent)
			if !c.admitted || rec.done < c.done {
				c.request, c.done = rec, rec.done
			}
			c.admitted = true
			if c.decider == 0 {
				c.decider = rec.decider
			}
			if !rec.replayed {
				fresh++
			}
		case otherDenial:
			if rec.decider != 0 {
				h.deniedInFallback = append(h.deniedInFallback, rec)
			}
		case denied:
			h.denials = append(h.denials, denial{request: rec, nearest: -1})
		case unknown:
			c.sent = min(c.sent, rec.sent)
			if uncertain == nil {
				uncertain = rec
			}
		}
	}
	if requests > 0 {
		h.ids++
	}
	if requests > 1 {
		h.answers.Retried++
	}
	if fresh > 1 {
		h.answers.DuplicateAdmissions++
	}
	c.attempts = uint8(min(requests, 255))
	switch {
	case c.admitted:
	case uncertain != nil:
		c.request = uncertain
	default:
		return
	}
	if llm && c.request.op == bench.OpReserve {
		h.reservations = append(h.reservations, reservationOf(group, &c, o))
		c.reservation = int32(len(h.reservations))
	}
	h.calls = append(h.calls, c)
}

func reservationOf(group []*record, c *call, o *Options) reservation {
	r := reservation{firstUsage: never, settleSent: never, settleDone: never, lease: c.sent + int64(o.Lease)}
	for _, rec := range group {
		switch rec.op {
		case bench.OpProgress:
			r.progressed = true
			r.progressIn, r.progressOut = max(r.progressIn, rec.in), max(r.progressOut, rec.out)
			if rec.answer == admitted && rec.done <= r.lease {
				r.sureIn, r.sureOut = max(r.sureIn, rec.in), max(r.sureOut, rec.out)
				r.lease = max(r.lease, rec.sent+int64(o.Lease))
			}
		case bench.OpSettle:
			r.settles++
			r.settleSent = min(r.settleSent, rec.sent)
			if !r.settled {
				r.useIn, r.useOut = rec.in, rec.out
			}
			if rec.answer != admitted {
				r.failures++
				break
			}
			r.settled = true
			if rec.decider == 0 {
				r.settleDone = min(r.settleDone, rec.done)
			}
		default:
			continue
		}
		r.firstUsage = min(r.firstUsage, rec.sent)
	}
	return r
}

// settledAtOwner reports whether the owner has certainly applied a final settle. A
// settle that was accepted in fallback may reach the owner after the end of the log.
func (r *reservation) settledAtOwner() bool { return r.settleDone != never }

// charges is the cost of a call under one limit over time.
type charges struct {
	estimate int64
	least    int64 // the least that it costs from drop on
	drop     int64
	settled  int64 // the most that it costs from release on, without overrun
	release  int64
	overrun  int64 // the most usage beyond the estimate, from the first usage on
	low      int64 // final cost, at least
	high     int64 // final cost, at most
}

// charges returns the cost of a call under a limit that applies to it.
func (h *history) charges(o *Options, l *Limit, model string, c *call) charges {
	units := Units{Model: model, Requests: c.request.requests, Input: c.request.in, Output: c.request.out}
	if c.reservation == 0 {
		n := o.cost(l, units)
		ch := charges{estimate: n, least: n, drop: never, settled: n, release: never, low: n, high: n}
		if l.Dimension == Concurrent {
			ch = charges{drop: never, release: never}
		}
		if !c.admitted {
			ch.low = 0
		}
		return ch
	}
	r := &h.reservations[c.reservation-1]
	if l.Dimension == Concurrent {
		ch := charges{estimate: 1, drop: min(r.settleSent, r.lease), release: r.settleDone, high: 1}
		if r.settledAtOwner() {
			ch.high = 0
		}
		return ch
	}
	switch l.Estimate {
	case EstimateFixed:
		units.Output = min(units.Output, l.EstimatedOutput)
	case EstimateInput:
		units.Output = 0
	}
	e := o.cost(l, units)
	ch := charges{estimate: e, least: e, drop: never, settled: e, release: never, low: e, high: e}
	with := func(in, out int64) int64 {
		return o.cost(l, Units{Model: model, Requests: units.Requests, Input: in, Output: out})
	}
	// The charge that remains if the lease expires.
	expired := max(with(units.Input, 0), with(r.sureIn, r.sureOut))
	if r.progressed {
		ch.high = max(ch.high, with(max(units.Input, r.progressIn), r.progressOut))
	}
	if r.settles > 0 {
		use := with(r.useIn, r.useOut)
		ch.least = min(ch.least, use)
		ch.high = max(ch.high, use)
		if r.settled {
			ch.settled = min(e, use)
			ch.release = r.settleDone
		}
		if r.settledAtOwner() {
			ch.low = use
		}
	}
	ch.overrun = ch.high - e
	if !r.settledAtOwner() || r.settleSent > r.lease {
		ch.least = min(ch.least, expired)
	}
	if r.settledAtOwner() {
		ch.high = ch.low
	} else {
		ch.low = ch.least
	}
	if ch.least < e {
		ch.drop = min(r.settleSent, r.lease)
	}
	if !c.admitted {
		ch.low = 0
	}
	return ch
}
