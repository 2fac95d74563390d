// SPDX-License-Identifier: Apache-2.0

package audit

import (
	"fmt"
	"math"
)

// compareCharges compares the final usage of a state with the log.
func (e *examiner) compareCharges(ra *rootAudit, n int32, report *Report) {
	st, used, reported := ra.states[n], ra.after[n].used, ra.after[n].when
	if reported == nil {
		return
	}
	l := st.limit
	timed := reported.Sent != 0 || reported.Done != 0
	refills := !l.neverRefills() && l.Dimension != Concurrent
	if refills && !timed {
		return
	}
	finding := ChargeMismatch{LimitRef: ra.limitRef(st), Used: used}
	if refills {
		var ok bool
		if finding.Low, finding.High, ok = e.refillBounds(ra, n, reported); !ok {
			return
		}
	} else {
		finding.Low, finding.High = ra.before[n].used, ra.before[n].used
		for _, i := range e.calls(ra, st) {
			c := &ra.calls[i]
			if timed && c.sent > int64(reported.Done) {
				continue
			}
			ch := ra.charges(e.options, st.limitFor(c.request.caller), ra.callers[c.request.caller].model, c)
			finding.High += ch.high
			if (!timed || c.done <= int64(reported.Sent)) && !e.mayBeLost(l, c, ch.low) {
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
	suspect := func(id, why string, cost int64) {
		if finding.Suspected++; finding.Suspected <= maxSuspects {
			finding.Suspects = append(finding.Suspects, Suspect{ID: id, Why: why, Cost: cost})
		}
	}
	if finding.Excess > 0 {
		for _, r := range ra.deniedInFallback {
			if l := st.limitFor(r.caller); l != nil {
				suspect(r.id, "denied without its owner", e.deniedCost(l, ra.callers[r.caller].model, r))
			}
		}
	}
	for _, i := range e.calls(ra, st) {
		c := &ra.calls[i]
		if why := ra.suspectReason(c); why != "" {
			ch := ra.charges(e.options, st.limitFor(c.request.caller), ra.callers[c.request.caller].model, c)
			suspect(c.request.id, why, ch.estimate)
		}
	}
	report.Charges = append(report.Charges, finding)
}

// A charge of less than 1/smallCharges of a limit is small.
const smallCharges = 100

// mayBeLost reports whether a charge to a limit may be lost: see [Auditor.AllowLoss].
func (e *examiner) mayBeLost(l *Limit, c *call, charge int64) bool {
	if charge >= (l.Amount+smallCharges-1)/smallCharges {
		return false
	}
	for _, w := range e.losses {
		if w.from <= c.done && c.done <= w.to {
			return true
		}
	}
	return false
}

// SettlePending is the reason of a suspect whose usage was accepted in fallback and may
// not have reached the owner.
const SettlePending = "its usage had not reached the owner"

// suspectReason returns why a call may not have been charged exactly once, or "".
func (h *history) suspectReason(c *call) string {
	if c.attempts > 1 {
		return fmt.Sprintf("sent %d times", c.attempts)
	}
	if !c.admitted {
		return "no answer"
	}
	if c.reservation == 0 {
		return ""
	}
	switch r := &h.reservations[c.reservation-1]; {
	case r.settles == 0:
		return "never settled"
	case r.failures > 0:
		return fmt.Sprintf("%d of %d settles failed", r.failures, r.settles)
	case !r.settledAtOwner():
		return SettlePending
	case r.settles > 1:
		return fmt.Sprintf("settled %d times", r.settles)
	}
	return ""
}

// refillBounds returns the bounds of the usage of a refilling limit at the time of a report.
func (e *examiner) refillBounds(ra *rootAudit, n int32, reported *KeyUsage) (low, high int64, ok bool) {
	st := ra.states[n]
	l := st.limit
	for _, p := range st.callers {
		if p.limit.Amount != l.Amount || p.limit.capacity() != l.capacity() {
			return 0, 0, false // it is unknown which one applies
		}
	}
	list := e.suspects[:0]
	if used := ra.before[n].used; used > 0 {
		list = append(list, suspect{cost: used, settled: used, release: never, sent: ra.first, done: ra.first})
	}
	least := e.admissions[:0]
	for _, i := range e.calls(ra, st) {
		c := &ra.calls[i]
		if c.sent > int64(reported.Done) {
			continue
		}
		ch := ra.charges(e.options, st.limitFor(c.request.caller), ra.callers[c.request.caller].model, c)
		list = ra.suspect(list, c, ch)
		if c.admitted && c.decider == 0 && c.done <= int64(reported.Sent) && !e.mayBeLost(l, c, ch.least) {
			least = append(least, admission{sent: c.sent, done: c.done, least: ch.least})
		}
	}
	list = e.suspectDenied(list, ra, st)
	e.suspects, e.admissions = list, least
	sortSuspects(list)
	if !e.roomChecker.reset(l, list, nil, max(ra.last, int64(reported.Done)), e.options.lateness()) {
		return 0, 0, false
	}
	high = l.capacity() - e.roomChecker.room(int64(reported.Sent), int64(reported.Done))
	return e.minUsed(l, least, reported), high, true
}

// minUsed returns the least usage at the time of a report: every charge as early as
// possible. The list is ordered by sent.
func (e *examiner) minUsed(l *Limit, list []admission, reported *KeyUsage) int64 {
	if len(list) == 0 {
		return 0
	}
	end, clock := int64(reported.Done), int64(e.options.ClockSkew)
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
	from := int64(math.MaxInt64) // a new fixed window may just have begun
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
