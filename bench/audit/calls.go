// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"math"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/bench"
)

// never is later than every time in a log.
const never = math.MaxInt64

// call is everything that was asked with one id and may have been charged.
type call struct {
	// It was charged not before sent, and before done if it surely was; never if
	// the only answers were errors, or if a fallback tells the owner later.
	sent, done int64
	asked      *record // whose cost counts
	held       int32   // 1 + index of its reservation; 0: a check
	sure       bool    // it was admitted
	decider    member  // of the first that admitted it in fallback
	attempts   uint8
}

// reservation is what is known of an LLM call besides.
type reservation struct {
	useIn, useOut           int64 // by its final settle
	progressIn, progressOut int64 // highest
	sureIn, sureOut         int64 // highest that was surely counted
	used                    int64 // when usage was first told, or never
	settleSent              int64 // first final settle, or never
	settleDone              int64 // surely applied, or never
	lease                   int64 // it surely lived until then
	settles, failures       int32
	settled                 bool // some final settle was acknowledged, if only by a fallback
	progressed              bool
}

// denial is a question that a limit answered with no.
type denial struct {
	asked        *record
	limits, fits uint8
	// The limit with the least room left, by share of its capacity.
	nearest int32
	share   float64
	room    int64
}

// history is the log of a root, put in order.
type history struct {
	calls        []call  // by sent
	byDone       []int32 // the calls by done
	reservations []reservation
	denials      []denial // by sent
	answers      Answers
	ids          int64
}

// history groups the log by id.
func (r *root) history(o *Options, by *sorter) *history {
	h := &history{}
	by.begin(r.n)
	var questions, denials int
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
			case rec.answer != refused:
				questions++
			}
		}
	}
	h.calls, h.denials = make([]call, 0, questions), make([]denial, 0, denials)
	same := by.groups(make([]int32, r.n))
	var group []*record
	n := 0
	for _, chunk := range r.log { // in its own order, which memory likes
		for i := range chunk {
			first := same[n]
			n++
			switch {
			case first == alone:
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
	by.begin(len(h.calls))
	for i := range h.calls {
		by.add(h.calls[i].sent, int32(i))
	}
	h.calls = reordered(by, h.calls)
	by.begin(len(h.calls))
	for i := range h.calls {
		by.add(h.calls[i].done, int32(i))
	}
	h.byDone = by.order(nil)
	by.begin(len(h.denials))
	for i := range h.denials {
		by.add(h.denials[i].asked.sent, int32(i))
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

// split takes apart what has the same hash.
func (r *root) split(h *history, group []*record, o *Options) {
	key := func(x *record) string { return r.idents[x.ident].key }
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

// add takes all events of one id, by sent.
func (h *history) add(group []*record, o *Options) {
	c := call{sent: never, done: never}
	fresh, questions := 0, 0
	var uncertain *record
	llm := false
	for _, rec := range group {
		if rec.op != bench.OpCheck && rec.op != bench.OpReserve {
			llm = true
			continue
		}
		questions++
		llm = llm || rec.op == bench.OpReserve
		h.answers.count(rec)
		switch rec.answer {
		case admitted, degraded:
			c.sent = min(c.sent, rec.sent)
			if !c.sure || rec.done < c.done {
				c.asked, c.done = rec, rec.done
			}
			c.sure = true
			if c.decider == 0 {
				c.decider = rec.decider
			}
			if !rec.replayed {
				fresh++
			}
		case denied:
			h.denials = append(h.denials, denial{asked: rec, nearest: -1})
		case unknown:
			c.sent = min(c.sent, rec.sent)
			if uncertain == nil {
				uncertain = rec
			}
		}
	}
	if questions > 0 {
		h.ids++
	}
	if questions > 1 {
		h.answers.Retried++
	}
	if fresh > 1 {
		h.answers.Again++
	}
	c.attempts = uint8(min(questions, 255))
	switch {
	case c.sure:
	case uncertain != nil:
		c.asked = uncertain
	default:
		return
	}
	if llm && c.asked.op == bench.OpReserve {
		h.reservations = append(h.reservations, reservationOf(group, &c, o))
		c.held = int32(len(h.reservations))
	}
	h.calls = append(h.calls, c)
}

func reservationOf(group []*record, c *call, o *Options) reservation {
	r := reservation{used: never, settleSent: never, settleDone: never, lease: c.sent + int64(o.Lease)}
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
		r.used = min(r.used, rec.sent)
	}
	return r
}

// arrived says that the owner surely has a final settle. One that a fallback took is
// on its way, and may be for longer than the log.
func (r *reservation) arrived() bool { return r.settleDone != never }

// charges is what a call costs under one limit, at its several stages.
type charges struct {
	estimate int64
	least    int64 // what it surely costs from drop on
	drop     int64
	settled  int64 // what it costs at most, its overrun aside, from release on
	release  int64
	overrun  int64 // usage beyond the estimate, at most, from used on
	low      int64 // what it costs in the end
	high     int64
}

// charges weighs a call. It must be given a limit that applies to it.
func (h *history) charges(o *Options, l *Limit, model string, c *call) charges {
	units := Units{Model: model, Requests: c.asked.requests, Input: c.asked.in, Output: c.asked.out}
	if c.held == 0 {
		n := o.cost(l, units)
		ch := charges{estimate: n, least: n, drop: never, settled: n, release: never, low: n, high: n}
		if l.Dimension == Concurrent {
			ch = charges{drop: never, release: never}
		}
		if !c.sure {
			ch.low = 0
		}
		return ch
	}
	r := &h.reservations[c.held-1]
	if l.Dimension == Concurrent {
		ch := charges{estimate: 1, drop: min(r.settleSent, r.lease), release: r.settleDone, high: 1}
		if r.arrived() {
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
	// What stays charged if the lease runs out.
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
		if r.arrived() {
			ch.low = use
		}
	}
	ch.overrun = ch.high - e
	if !r.arrived() || r.settleSent > r.lease {
		ch.least = min(ch.least, expired)
	}
	if r.arrived() {
		ch.high = ch.low
	} else {
		ch.low = ch.least
	}
	if ch.least < e {
		ch.drop = min(r.settleSent, r.lease)
	}
	if !c.sure {
		ch.low = 0
	}
	return ch
}
