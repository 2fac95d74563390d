// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"cmp"
	"maps"
	"runtime"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// Run audits a log that is at hand as a whole.
func Run(o Options, events []bench.Event, ended ...State) (*Report, error) {
	a, err := New(o)
	if err != nil {
		return nil, err
	}
	for i := range events {
		a.Add(&events[i])
	}
	for _, st := range ended {
		a.Ended(st)
	}
	return a.Report(), nil
}

// Report judges the log. It may be called again when the log has grown.
func (a *Auditor) Report() *Report {
	total := &Report{Clock: a.options.Clock}
	var merge sync.Mutex
	roots := make(chan *root) // unbuffered: a root that is taken is worked on
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			e := examiner{options: &a.options}
			part := &Report{}
			for r := range roots {
				e.examine(r, part)
			}
			merge.Lock()
			defer merge.Unlock()
			total.merge(part, a.options.Worst)
		})
	}
	var all []*root
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		defer s.mu.Unlock() // until the report is done
		total.Events += s.mu.events
		total.Ignored += s.mu.ignored
		all = slices.AppendSeq(all, maps.Values(s.mu.roots))
	}
	slices.SortFunc(all, func(a, b *root) int { return cmp.Compare(b.n, a.n) }) // the largest first
	for _, r := range all {
		roots <- r
	}
	close(roots)
	workers.Wait()
	total.finish(a.options.Worst)
	return total
}

// examiner works through roots, one at a time. It keeps its memory.
type examiner struct {
	options    *Options
	judge      judge
	defence    defence
	admissions []admission
	decided    []admission // by one member in fallback
	suspects   []suspect
	chosen     []int32
	order      sorter
	places     places
}

// which tells states apart.
type which struct {
	scope, dimension, name, model string
	algorithm                     Algorithm
	window                        time.Duration
}

// state is a limit of a key and the calls that it concerns.
type state struct {
	limit *Limit // the most generous of those that share the state
	model string
	parts []part // by ident
}

// part says that calls of an ident are under a limit.
type part struct {
	ident uint32
	limit *Limit
}

func (s *state) of(ident uint32) *Limit {
	if len(s.parts) == 1 && s.parts[0].ident == ident {
		return s.parts[0].limit
	}
	i, ok := slices.BinarySearchFunc(s.parts, ident, func(p part, i uint32) int { return cmp.Compare(p.ident, i) })
	if !ok {
		return nil
	}
	return s.parts[i].limit
}

// scene is one root under examination.
type scene struct {
	*root
	*history
	states []*state
	limits [][]int32 // the states of each ident
	// What was told of each state before the run, and after it.
	before, after []telling
	// Of each ident, the indexes of its calls and denials.
	byIdent, deniedBy [][]int32
	first, last       int64 // of all times, 0 included
}

func (e *examiner) examine(r *root, report *Report) {
	sc := &scene{root: r, history: r.history(e.options, &e.order)}
	sc.index(e.options)
	report.Calls += sc.ids
	report.add(sc.answers)
	keys := map[string]struct{}{}
	for _, who := range r.idents {
		keys[who.key] = struct{}{}
	}
	report.Keys += int64(len(keys))
	for reason, n := range r.reasons {
		if report.DeniedElse == nil {
			report.DeniedElse = map[string]int64{}
		}
		report.DeniedElse[reason] += n
	}
	for i := range sc.calls {
		if c := &sc.calls[i]; c.sure {
			report.Slowest = max(report.Slowest, time.Duration(c.done-c.sent))
		}
	}
	for i := range int32(len(sc.states)) {
		e.over(sc, i, report)
		e.under(sc, i)
		e.compare(sc, i, report)
	}
	e.blame(sc, report)
	report.trim(e.options.Worst, 4*e.options.Worst+64)
}

// index finds the states of a root and who is under them.
func (sc *scene) index(o *Options) {
	found := map[which]int32{}
	sc.limits = make([][]int32, len(sc.idents))
	for i, who := range sc.idents {
		limits := o.of(who.key, who.tier, who.model)
		for k := range limits {
			l := &limits[k]
			w := which{l.Scope, l.Dimension, l.name(), "", l.algorithm(), l.Window}
			if l.Model != "" {
				w.model = who.model
			}
			n, ok := found[w]
			if !ok {
				n = int32(len(sc.states))
				found[w] = n
				sc.states = append(sc.states, &state{limit: l, model: w.model})
			}
			st := sc.states[n]
			if len(st.parts) > 0 && st.parts[len(st.parts)-1].ident == uint32(i) {
				continue // said twice
			}
			if l.Amount > st.limit.Amount || l.capacity() > st.limit.capacity() || l.Fallback.lax() > st.limit.Fallback.lax() {
				generous := *l
				generous.Burst = max(l.capacity(), st.limit.capacity())
				generous.Amount = max(l.Amount, st.limit.Amount)
				if generous.Fallback.lax() < st.limit.Fallback.lax() {
					generous.Fallback = st.limit.Fallback
				}
				st.limit = &generous
			}
			st.parts = append(st.parts, part{uint32(i), l})
			sc.limits[i] = append(sc.limits[i], n)
		}
	}
	sc.before, sc.after = sc.tellings(sc.began), sc.tellings(sc.end)
	sc.byIdent, sc.deniedBy = make([][]int32, len(sc.idents)), make([][]int32, len(sc.idents))
	sizes := make([]int32, 2*len(sc.idents))
	for i := range sc.calls {
		sizes[sc.calls[i].asked.ident]++
	}
	for i := range sc.denials {
		sizes[len(sc.idents)+int(sc.denials[i].asked.ident)]++
	}
	for i := range sc.idents {
		sc.byIdent[i], sc.deniedBy[i] = make([]int32, 0, sizes[i]), make([]int32, 0, sizes[len(sc.idents)+i])
	}
	for i := range sc.calls {
		n := sc.calls[i].asked.ident
		sc.byIdent[n] = append(sc.byIdent[n], int32(i))
	}
	for i := range sc.denials {
		n := sc.denials[i].asked.ident
		sc.deniedBy[n] = append(sc.deniedBy[n], int32(i))
		sc.denials[i].limits = uint8(min(255, len(sc.limits[n])))
	}
	for _, chunk := range sc.log {
		for i := range chunk {
			sc.first, sc.last = min(sc.first, chunk[i].sent), max(sc.last, chunk[i].done)
		}
	}
}

// choose lists, in order, which of all n calls or denials are under a state.
func (e *examiner) choose(st *state, by [][]int32, n int, ident func(i int32) uint32) []int32 {
	if len(st.parts) == 1 {
		return by[st.parts[0].ident]
	}
	covered := 0
	for _, p := range st.parts {
		covered += len(by[p.ident])
	}
	e.chosen = e.chosen[:0]
	if covered > n/8 {
		for i := range int32(n) {
			if st.of(ident(i)) != nil {
				e.chosen = append(e.chosen, i)
			}
		}
		return e.chosen
	}
	for _, p := range st.parts {
		e.chosen = append(e.chosen, by[p.ident]...)
	}
	slices.Sort(e.chosen)
	return e.chosen
}

func (e *examiner) calls(sc *scene, st *state) []int32 {
	return e.choose(st, sc.byIdent, len(sc.calls), func(i int32) uint32 { return sc.calls[i].asked.ident })
}

func (sc *scene) which(st *state) Which {
	l := st.limit
	return Which{
		Scope: l.Scope, Dimension: l.Dimension, Name: l.name(), Model: st.model,
		Algorithm: l.algorithm(), Limit: l.Amount, Burst: l.Burst, Window: l.Window,
	}
}

// telling is what a target said about a state.
type telling struct {
	used int64
	when *State // nil: nothing
}

// tellings sorts by state what was told; what was told last counts.
func (sc *scene) tellings(list []stated) []telling {
	all := make([]telling, len(sc.states))
	for i := range list {
		said := &list[i]
		for _, n := range sc.limits[said.ident] {
			l := sc.states[n].limit
			for _, u := range said.Used {
				if u.Scope == l.Scope && u.Dimension == l.Dimension && (u.Name == l.name() || u.Name == "") {
					all[n] = telling{u.Used, &said.State}
				}
			}
		}
	}
	return all
}

// over judges the admissions of a state.
func (e *examiner) over(sc *scene, n int32, report *Report) {
	st := sc.states[n]
	d := report.dimension(st.limit.Dimension)
	d.Limits++
	chosen := e.calls(sc, st)
	list := slices.Grow(e.admissions[:0], len(chosen)+1)
	e.places.begin(sc.history, len(chosen))
	var calls, admitted, fallback int64
	if st.limit.Dimension != Concurrent && st.limit.algorithm() != SlidingWindow {
		if used := sc.before[n].used; used > 0 {
			list = append(list, admission{cost: used, least: used, drop: never, sent: sc.first, done: sc.first})
		}
	}
	for _, i := range chosen {
		c := &sc.calls[i]
		if !c.sure {
			continue
		}
		l := st.of(c.asked.ident)
		ch := sc.charges(e.options, l, sc.idents[c.asked.ident].model, c)
		if ch.estimate == 0 {
			continue
		}
		calls++
		admitted += ch.least
		if c.decider != 0 {
			fallback += ch.least
		}
		e.places.put(i, len(list))
		list = append(list, admission{sent: c.sent, done: c.done, cost: ch.estimate, drop: ch.drop, least: ch.least, decider: c.decider})
	}
	if len(list) > 0 && len(list) != int(calls) {
		slices.SortStableFunc(list, func(a, b admission) int { return cmp.Compare(a.sent, b.sent) })
	}
	e.admissions = list
	load := &busy{Course{Which: sc.which(st), Calls: calls, Admitted: admitted}, relative(admitted, st.limit.capacity())}
	if st.limit.Dimension == Concurrent {
		load.load = relative(calls, st.limit.Amount)
	}
	var usedAll, usedOwn *tracer
	if report.busiestOf(st.limit.Dimension).takes(load) {
		usedAll, usedOwn = &tracer{}, &tracer{}
	}
	all := e.judge.over(st.limit, list, e.places.dones(len(list)), usedAll)
	own := all
	var beyond int64
	if slices.ContainsFunc(list, func(a admission) bool { return a.decider != 0 }) {
		by := slices.Clone(list)
		beyond = e.beyond(st.limit, slices.DeleteFunc(by, func(a admission) bool { return a.decider == 0 }))
		own = e.judge.over(st.limit, slices.DeleteFunc(list, func(a admission) bool { return a.decider != 0 }), nil, usedOwn)
		load.withFallback(usedAll, usedOwn)
	} else if usedAll != nil {
		load.Step, load.Used = time.Duration(usedAll.step), usedAll.course()
	}
	if usedAll != nil && len(usedAll.points) > 0 {
		report.busiestOf(st.limit.Dimension).add(load)
	}
	finding := Over{
		Which: sc.which(st), Calls: calls, Admitted: admitted,
		Amount: own.sure, WithFallback: all.sure, Possible: own.possible, Fallback: fallback, Declared: st.limit.Fallback, BeyondBound: beyond, At: time.Duration(own.at),
	}
	if own.sure == 0 {
		finding.At = time.Duration(all.at)
	}
	if st.limit.Dimension == Concurrent && all.sure > 0 {
		finding.Admitted = st.limit.Amount + all.sure
	}
	d.Admitted += admitted
	d.Over += own.sure
	d.WithFallback += all.sure
	d.Possible += own.possible
	d.Fallback += fallback
	d.BeyondBound += finding.BeyondBound
	if own.sure > 0 {
		d.OverLimits++
	}
	if all.sure > 0 || finding.BeyondBound > 0 {
		report.Over = append(report.Over, finding)
	}
}

// under counts for each denial the limits that had room for it.
func (e *examiner) under(sc *scene, n int32) {
	st := sc.states[n]
	denied := slices.Clone(e.choose(st, sc.deniedBy, len(sc.denials), func(i int32) uint32 { return sc.denials[i].asked.ident }))
	if len(denied) == 0 {
		return
	}
	chosen := e.calls(sc, st)
	list := slices.Grow(e.suspects[:0], len(chosen)+min(len(chosen), len(sc.reservations))+1)
	e.places.begin(sc.history, len(chosen))
	if used := sc.before[n].used; used > 0 {
		list = append(list, suspect{cost: used, settled: used, release: never, sent: sc.first, done: sc.first})
	}
	for _, i := range chosen {
		c := &sc.calls[i]
		ch := sc.charges(e.options, st.of(c.asked.ident), sc.idents[c.asked.ident].model, c)
		e.places.put(i, len(list))
		list = sc.suspect(list, c, ch)
	}
	var dones []int32
	if !sortSuspects(list) {
		dones = e.places.dones(len(list)) // nil if calls are not all that is in it
	}
	e.suspects = list
	strict := *st.limit // the least generous
	for _, p := range st.parts {
		strict.Amount = min(strict.Amount, p.limit.Amount)
	}
	strict.Burst = st.limit.capacity()
	if !e.defence.reset(&strict, list, dones, sc.last, int64(e.options.Clock)) {
		return // it refills faster than it can be judged
	}
	for _, i := range denied {
		d := &sc.denials[i]
		l := st.of(d.asked.ident)
		cost := e.denied(l, sc.idents[d.asked.ident].model, d.asked)
		room := e.defence.room(d.asked.sent, d.asked.done) - (e.defence.limit.capacity() - l.capacity())
		if cost == 0 && l.Amount > 0 || l.Dimension == Concurrent && d.asked.op == bench.OpCheck {
			d.fits++
			continue
		}
		if cost > room {
			continue
		}
		d.fits++
		if share := float64(room-cost) / float64(max(1, l.capacity())); d.nearest < 0 || share < d.share {
			d.nearest, d.share, d.room = n, share, room
		}
	}
}

// denied is what a call would have cost that was denied.
func (e *examiner) denied(l *Limit, model string, r *record) int64 {
	if l.Dimension == Concurrent {
		return 1
	}
	u := Units{Model: model, Requests: r.requests, Input: r.in, Output: r.out}
	if r.op == bench.OpReserve {
		switch l.Estimate {
		case EstimateFixed:
			u.Output = min(u.Output, l.EstimatedOutput)
		case EstimateInput:
			u.Output = 0
		}
	}
	return e.options.cost(l, u)
}

// blame lists the denials that had room under every limit.
func (e *examiner) blame(sc *scene, report *Report) {
	found := map[int32]*Under{}
	for i := range sc.denials {
		d := &sc.denials[i]
		if d.limits == 0 {
			report.Unjudged++
			continue
		}
		if d.fits < d.limits {
			continue
		}
		n := d.nearest
		if n < 0 {
			n = sc.limits[d.asked.ident][0] // it cost nothing anywhere
		}
		st := sc.states[n]
		report.dimension(st.limit.Dimension).Under++
		u := found[n]
		if u == nil {
			u = &Under{Which: sc.which(st), First: time.Duration(d.asked.sent), Room: d.room}
			found[n] = u
		}
		u.Calls++
		u.Cost += e.denied(st.of(d.asked.ident), sc.idents[d.asked.ident].model, d.asked)
	}
	for _, u := range found {
		report.Under = append(report.Under, *u)
	}
}
