// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"math"
)

// compare holds what is used of a state in the end against the log.
func (e *examiner) compare(sc *scene, n int32, report *Report) {
	st, used, told := sc.states[n], sc.after[n].used, sc.after[n].when
	if told == nil {
		return
	}
	l := st.limit
	timed := told.Sent != 0 || told.Done != 0
	refills := !l.forever() && l.Dimension != Concurrent
	if refills && !timed {
		return
	}
	finding := Charge{Which: sc.which(st), Used: used}
	if refills {
		var ok bool
		if finding.Low, finding.High, ok = e.refilled(sc, n, told); !ok {
			return
		}
	} else {
		finding.Low, finding.High = sc.before[n].used, sc.before[n].used
		for _, i := range e.calls(sc, st) {
			c := &sc.calls[i]
			if timed && c.sent > int64(told.Done) {
				continue
			}
			ch := sc.charges(e.options, st.of(c.asked.ident), sc.idents[c.asked.ident].model, c)
			finding.High += ch.high
			if !timed || c.done <= int64(told.Sent) {
				finding.Low += ch.low
			}
		}
	}
	finding.Excess = max(0, finding.Used-finding.High)
	finding.Missing = max(0, finding.Low-finding.Used)
	d := report.dimension(l.Dimension)
	d.Compared++
	d.Excess += finding.Excess
	d.Missing += finding.Missing
	if finding.Excess == 0 && finding.Missing == 0 {
		return
	}
	for _, i := range e.calls(sc, st) {
		c := &sc.calls[i]
		why := sc.suspicion(c)
		if why == "" {
			continue
		}
		if finding.Suspected++; finding.Suspected <= mostSuspects {
			ch := sc.charges(e.options, st.of(c.asked.ident), sc.idents[c.asked.ident].model, c)
			finding.Suspects = append(finding.Suspects, Suspect{ID: c.asked.id, Why: why, Cost: ch.estimate})
		}
	}
	report.Charges = append(report.Charges, finding)
}

// onItsWay is why the charge of a call is not known yet: a fallback took its usage,
// and the owner was still to be told.
const onItsWay = "its usage was on its way to the owner"

// suspicion says why a call may not have been charged once.
func (h *history) suspicion(c *call) string {
	if c.attempts > 1 {
		return fmt.Sprintf("sent %d times", c.attempts)
	}
	if !c.sure {
		return "no answer"
	}
	if c.held == 0 {
		return ""
	}
	switch r := &h.reservations[c.held-1]; {
	case r.settles == 0:
		return "never settled"
	case r.failures > 0:
		return fmt.Sprintf("%d of %d settles failed", r.failures, r.settles)
	case !r.arrived():
		return onItsWay
	case r.settles > 1:
		return fmt.Sprintf("settled %d times", r.settles)
	}
	return ""
}

// refilled is what may be used of a limit with refill when its state was told.
func (e *examiner) refilled(sc *scene, n int32, told *State) (low, high int64, ok bool) {
	st := sc.states[n]
	l := st.limit
	for _, p := range st.parts {
		if p.limit.Amount != l.Amount || p.limit.capacity() != l.capacity() {
			return 0, 0, false // which of them counts now?
		}
	}
	list := e.suspects[:0]
	if used := sc.before[n].used; used > 0 {
		list = append(list, suspect{cost: used, settled: used, release: never, sent: sc.first, done: sc.first})
	}
	least := e.admissions[:0]
	for _, i := range e.calls(sc, st) {
		c := &sc.calls[i]
		if c.sent > int64(told.Done) {
			continue
		}
		ch := sc.charges(e.options, st.of(c.asked.ident), sc.idents[c.asked.ident].model, c)
		list = sc.suspect(list, c, ch)
		if c.sure && c.decider == 0 && c.done <= int64(told.Sent) {
			least = append(least, admission{sent: c.sent, done: c.done, least: ch.least})
		}
	}
	e.suspects, e.admissions = list, least
	sortSuspects(list)
	if !e.defence.reset(l, list, nil, max(sc.last, int64(told.Done)), int64(e.options.Clock)) {
		return 0, 0, false
	}
	high = l.capacity() - e.defence.room(int64(told.Sent), int64(told.Done))
	return e.least(l, least, told), high, true
}

// least is what is surely used when the state was told: every charge as early as
// it can have been. The list is by sent.
func (e *examiner) least(l *Limit, list []admission, told *State) int64 {
	if len(list) == 0 {
		return 0
	}
	end, clock := int64(told.Done), int64(e.options.Clock)
	if l.algorithm() == TokenBucket {
		var total int64
		for i := range list {
			total += list[i].least
		}
		r, ok := newRefill(l.Amount, int64(l.Window), list[0].sent, end, total)
		if !ok {
			return 0
		}
		var level, before int64
		for i := range list {
			at := r.at(list[i].sent)
			level = max(0, level-(at-before)) + list[i].least<<r.shift
			before = at
		}
		level -= r.at(end) - before + 2
		if clock > 0 {
			level -= r.during(clock) + 1
		}
		return max(0, level) >> r.shift
	}
	from := int64(math.MaxInt64) // a fixed window may have begun anew just now
	switch {
	case l.algorithm() == SlidingWindow:
		from = end - int64(l.Window) + clock
	case l.Resets != nil:
		from = math.MinInt64
		for _, r := range l.Resets {
			if int64(r)-clock <= end {
				from = int64(r) + clock
			}
		}
	}
	var sum int64
	for i := range list {
		if list[i].sent > from {
			sum += list[i].least
		}
	}
	return sum
}
