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

// Run audits a complete log. Final is the usage that the target reported after the run.
func Run(o Options, events []bench.Event, final ...KeyUsage) (*Report, error) {
	a, err := New(o)
	if err != nil {
		return nil, err
	}
	for i := range events {
		a.Add(&events[i])
	}
	for _, st := range final {
		a.AddFinalUsage(st)
	}
	return a.Report(), nil
}

// Report audits the log so far. It may be called again when the log has grown.
func (a *Auditor) Report() *Report {
	total := &Report{ClockSkew: a.options.ClockSkew}
	var merge sync.Mutex
	a.losses.Lock()
	losses := a.losses.windows
	a.losses.Unlock()
	roots := make(chan *root) // unbuffered: a root is sent when a worker takes it
	var workers sync.WaitGroup
	for range runtime.GOMAXPROCS(0) {
		workers.Go(func() {
			e := examiner{options: &a.options, losses: losses}
			part := &Report{}
			for r := range roots {
				e.examine(r, part)
			}
			merge.Lock()
			defer merge.Unlock()
			total.merge(part, a.options.MaxFindings)
		})
	}
	var all []*root
	total.Refused = a.refused.Load()
	total.Events += total.Refused
	for i := range a.shards {
		s := &a.shards[i]
		s.mu.Lock()
		defer s.mu.Unlock() // held until the report is done
		total.Events += s.mu.events
		total.Ignored += s.mu.ignored
		all = slices.AppendSeq(all, maps.Values(s.mu.roots))
	}
	slices.SortFunc(all, func(a, b *root) int { return cmp.Compare(b.n, a.n) }) // largest first
	for _, r := range all {
		roots <- r
	}
	close(roots)
	workers.Wait()
	total.finish(a.options.MaxFindings)
	return total
}

// examiner audits roots, one at a time. It reuses its memory.
type examiner struct {
	options     *Options
	losses      []lossWindow
	overChecker overChecker
	roomChecker roomChecker
	admissions  []admission
	decided     []admission // by one member in fallback
	suspects    []suspect
	selected    []int32
	order       sorter
	positions   positions
}

// stateKey identifies a state.
type stateKey struct {
	scope, dimension, name, model string
	algorithm                     Algorithm
	window                        time.Duration
}

// limitState is the state of a limit of a key, and the callers that share it.
type limitState struct {
	limit   *Limit // the most generous limit that shares the state
	model   string
	callers []callerLimit // ordered by caller
}

// callerLimit is the limit that applies to a caller.
type callerLimit struct {
	caller uint32
	limit  *Limit
}

func (s *limitState) limitFor(ident uint32) *Limit {
	if len(s.callers) == 1 && s.callers[0].caller == ident {
		return s.callers[0].limit
	}
	i, ok := slices.BinarySearchFunc(s.callers, ident, func(p callerLimit, i uint32) int { return cmp.Compare(p.caller, i) })
	if !ok {
		return nil
	}
	return s.callers[i].limit
}

// rootAudit is the audit of one root.
type rootAudit struct {
	*root
	*history
	states []*limitState
	limits [][]int32 // by caller: indexes of its states
	// What the target reported for each state before and after the run.
	before, after []reportedUsage
	// By caller: indexes of its calls and of its denials.
	callsOf, denialsOf [][]int32
	first, last        int64 // of all times in the log, and 0
}

func (e *examiner) examine(r *root, report *Report) {
	ra := &rootAudit{root: r, history: r.history(e.options, &e.order)}
	ra.resolveLimits(e.options)
	report.Calls += ra.ids
	report.add(ra.answers)
	keys := map[string]struct{}{}
	for _, who := range r.callers {
		keys[who.key] = struct{}{}
	}
	report.Keys += int64(len(keys))
	for reason, n := range r.reasons {
		if report.OtherDenials == nil {
			report.OtherDenials = map[string]int64{}
		}
		report.OtherDenials[reason] += n
	}
	for i := range ra.calls {
		if c := &ra.calls[i]; c.admitted {
			report.SlowestCall = max(report.SlowestCall, time.Duration(c.done-c.sent))
		}
	}
	for i := range int32(len(ra.states)) {
		e.checkOver(ra, i, report)
		e.checkUnder(ra, i)
		e.compareCharges(ra, i, report)
	}
	e.collectUnder(ra, report)
	report.trim(e.options.MaxFindings, 4*e.options.MaxFindings+64)
}

// resolveLimits finds the states of a root and the callers of each.
func (ra *rootAudit) resolveLimits(o *Options) {
	found := map[stateKey]int32{}
	ra.limits = make([][]int32, len(ra.callers))
	for i, who := range ra.callers {
		limits := o.limitsOf(who.key, who.tier, who.model)
		for k := range limits {
			l := &limits[k]
			w := stateKey{l.Scope, l.Dimension, l.name(), "", l.algorithm(), l.Window}
			if l.Model != "" {
				w.model = who.model
			}
			n, ok := found[w]
			if !ok {
				n = int32(len(ra.states))
				found[w] = n
				ra.states = append(ra.states, &limitState{limit: l, model: w.model})
			}
			st := ra.states[n]
			if len(st.callers) > 0 && st.callers[len(st.callers)-1].caller == uint32(i) {
				continue // the limit is a duplicate
			}
			if l.Amount > st.limit.Amount || l.capacity() > st.limit.capacity() || l.Fallback.permissiveness() > st.limit.Fallback.permissiveness() {
				generous := *l
				generous.Burst = max(l.capacity(), st.limit.capacity())
				generous.Amount = max(l.Amount, st.limit.Amount)
				if generous.Fallback.permissiveness() < st.limit.Fallback.permissiveness() {
					generous.Fallback = st.limit.Fallback
				}
				st.limit = &generous
			}
			st.callers = append(st.callers, callerLimit{uint32(i), l})
			ra.limits[i] = append(ra.limits[i], n)
		}
	}
	ra.before, ra.after = ra.reportedUsages(ra.initial), ra.reportedUsages(ra.final)
	ra.callsOf, ra.denialsOf = make([][]int32, len(ra.callers)), make([][]int32, len(ra.callers))
	sizes := make([]int32, 2*len(ra.callers))
	for i := range ra.calls {
		sizes[ra.calls[i].request.caller]++
	}
	for i := range ra.denials {
		sizes[len(ra.callers)+int(ra.denials[i].request.caller)]++
	}
	for i := range ra.callers {
		ra.callsOf[i], ra.denialsOf[i] = make([]int32, 0, sizes[i]), make([]int32, 0, sizes[len(ra.callers)+i])
	}
	for i := range ra.calls {
		n := ra.calls[i].request.caller
		ra.callsOf[n] = append(ra.callsOf[n], int32(i))
	}
	for i := range ra.denials {
		n := ra.denials[i].request.caller
		ra.denialsOf[n] = append(ra.denialsOf[n], int32(i))
		ra.denials[i].limits = uint8(min(255, len(ra.limits[n])))
	}
	for _, chunk := range ra.log {
		for i := range chunk {
			ra.first, ra.last = min(ra.first, chunk[i].sent), max(ra.last, chunk[i].done)
		}
	}
}

// selectCalls returns, in order, the indexes of the calls or denials that a state applies to.
func (e *examiner) selectCalls(st *limitState, by [][]int32, n int, ident func(i int32) uint32) []int32 {
	if len(st.callers) == 1 {
		return by[st.callers[0].caller]
	}
	covered := 0
	for _, p := range st.callers {
		covered += len(by[p.caller])
	}
	e.selected = e.selected[:0]
	if covered > n/8 {
		for i := range int32(n) {
			if st.limitFor(ident(i)) != nil {
				e.selected = append(e.selected, i)
			}
		}
		return e.selected
	}
	for _, p := range st.callers {
		e.selected = append(e.selected, by[p.caller]...)
	}
	slices.Sort(e.selected)
	return e.selected
}

func (e *examiner) calls(ra *rootAudit, st *limitState) []int32 {
	return e.selectCalls(st, ra.callsOf, len(ra.calls), func(i int32) uint32 { return ra.calls[i].request.caller })
}

func (ra *rootAudit) limitRef(st *limitState) LimitRef {
	l := st.limit
	return LimitRef{
		Scope: l.Scope, Dimension: l.Dimension, Name: l.name(), Model: st.model,
		Algorithm: l.algorithm(), Limit: l.Amount, Burst: l.Burst, Window: l.Window,
	}
}

// reportedUsage is the usage of a state as the target reported it.
type reportedUsage struct {
	used int64
	when *KeyUsage // nil if the target reported nothing
}

// reportedUsages orders reports by state. The last report of a state counts.
func (ra *rootAudit) reportedUsages(list []callerUsage) []reportedUsage {
	all := make([]reportedUsage, len(ra.states))
	for i := range list {
		said := &list[i]
		for _, n := range ra.limits[said.caller] {
			l := ra.states[n].limit
			for _, u := range said.Used {
				if u.Scope == l.Scope && u.Dimension == l.Dimension && (u.Name == l.name() || u.Name == "") {
					all[n] = reportedUsage{u.Used, &said.KeyUsage}
				}
			}
		}
	}
	return all
}

// checkOver looks for over-admission in a state.
func (e *examiner) checkOver(ra *rootAudit, n int32, report *Report) {
	st := ra.states[n]
	d := report.dimension(st.limit.Dimension)
	d.Limits++
	chosen := e.calls(ra, st)
	list := slices.Grow(e.admissions[:0], len(chosen)+1)
	e.positions.begin(ra.history, len(chosen))
	var calls, admitted, fallback int64
	if st.limit.Dimension != Concurrent && st.limit.algorithm() != SlidingWindow {
		if used := ra.before[n].used; used > 0 {
			list = append(list, admission{cost: used, least: used, drop: never, sent: ra.first, done: ra.first})
		}
	}
	for _, i := range chosen {
		c := &ra.calls[i]
		if !c.admitted {
			continue
		}
		l := st.limitFor(c.request.caller)
		ch := ra.charges(e.options, l, ra.callers[c.request.caller].model, c)
		if ch.estimate == 0 {
			continue
		}
		calls++
		admitted += ch.least
		if c.decider != 0 {
			fallback += ch.least
		}
		e.positions.put(i, len(list))
		list = append(list, admission{sent: c.sent, done: c.done, cost: ch.estimate, drop: ch.drop, least: ch.least, decider: c.decider})
	}
	if len(list) > 0 && len(list) != int(calls) {
		slices.SortStableFunc(list, func(a, b admission) int { return cmp.Compare(a.sent, b.sent) })
	}
	e.admissions = list
	load := &rankedSeries{UsageSeries{LimitRef: ra.limitRef(st), Calls: calls, Admitted: admitted}, relative(admitted, st.limit.capacity())}
	if st.limit.Dimension == Concurrent {
		load.load = relative(calls, st.limit.Amount)
	}
	var usedAll, usedOwn *usageTracer
	if report.busiestOf(st.limit.Dimension).takes(load) {
		usedAll, usedOwn = &usageTracer{}, &usageTracer{}
	}
	all := e.overChecker.check(st.limit, list, e.positions.dones(len(list)), usedAll)
	own := all
	var beyond int64
	if slices.ContainsFunc(list, func(a admission) bool { return a.decider != 0 }) {
		by := slices.Clone(list)
		beyond = e.beyondBound(st.limit, slices.DeleteFunc(by, func(a admission) bool { return a.decider == 0 }))
		own = e.overChecker.check(st.limit, slices.DeleteFunc(list, func(a admission) bool { return a.decider != 0 }), nil, usedOwn)
		load.setTraces(usedAll, usedOwn)
	} else if usedAll != nil {
		load.Step, load.Used = time.Duration(usedAll.step), usedAll.series()
	}
	if usedAll != nil && len(usedAll.points) > 0 {
		report.busiestOf(st.limit.Dimension).add(load)
	}
	finding := OverAdmission{
		LimitRef: ra.limitRef(st), Calls: calls, Admitted: admitted,
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

// checkUnder counts, for each denial, the limits that had room for it.
func (e *examiner) checkUnder(ra *rootAudit, n int32) {
	st := ra.states[n]
	denied := slices.Clone(e.selectCalls(st, ra.denialsOf, len(ra.denials), func(i int32) uint32 { return ra.denials[i].request.caller }))
	if len(denied) == 0 {
		return
	}
	chosen := e.calls(ra, st)
	list := slices.Grow(e.suspects[:0], len(chosen)+min(len(chosen), len(ra.reservations))+1)
	e.positions.begin(ra.history, len(chosen))
	if used := ra.before[n].used; used > 0 {
		list = append(list, suspect{cost: used, settled: used, release: never, sent: ra.first, done: ra.first})
	}
	for _, i := range chosen {
		c := &ra.calls[i]
		ch := ra.charges(e.options, st.limitFor(c.request.caller), ra.callers[c.request.caller].model, c)
		e.positions.put(i, len(list))
		list = ra.suspect(list, c, ch)
	}
	list = e.suspectDenied(list, ra, st)
	var dones []int32
	if !sortSuspects(list) {
		dones = e.positions.dones(len(list)) // nil if the list has more than calls
	}
	e.suspects = list
	strict := *st.limit // the least generous of the limits
	for _, p := range st.callers {
		strict.Amount = min(strict.Amount, p.limit.Amount)
	}
	strict.Burst = st.limit.capacity()
	if !e.roomChecker.reset(&strict, list, dones, ra.last, e.options.lateness()) {
		return // it refills too fast to be judged
	}
	for _, i := range denied {
		d := &ra.denials[i]
		l := st.limitFor(d.request.caller)
		cost := e.deniedCost(l, ra.callers[d.request.caller].model, d.request)
		room := e.roomChecker.room(d.request.sent, d.request.done) - (e.roomChecker.limit.capacity() - l.capacity())
		if cost == 0 && l.Amount > 0 || l.Dimension == Concurrent && d.request.op == bench.OpCheck {
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

// deniedCost returns what a denied call would have cost.
func (e *examiner) deniedCost(l *Limit, model string, r *record) int64 {
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

// collectUnder reports the denials that had room under every limit.
func (e *examiner) collectUnder(ra *rootAudit, report *Report) {
	found := map[int32]*WrongDenial{}
	for i := range ra.denials {
		d := &ra.denials[i]
		if d.limits == 0 {
			report.Unjudged++
			continue
		}
		if d.fits < d.limits {
			continue
		}
		n := d.nearest
		if n < 0 {
			n = ra.limits[d.request.caller][0] // it cost nothing under any limit
		}
		st := ra.states[n]
		report.dimension(st.limit.Dimension).Under++
		u := found[n]
		if u == nil {
			u = &WrongDenial{LimitRef: ra.limitRef(st), First: time.Duration(d.request.sent), Room: d.room}
			found[n] = u
		}
		u.Calls++
		u.Cost += e.deniedCost(st.limitFor(d.request.caller), ra.callers[d.request.caller].model, d.request)
	}
	for _, u := range found {
		report.Under = append(report.Under, *u)
	}
}
