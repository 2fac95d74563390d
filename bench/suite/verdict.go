// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/internal/amount"
)

// auditResult returns the findings of the auditor for the document.
func (s *measuredTarget) auditResult(r *runner) *report.Audit {
	if s.auditor == nil {
		reason := "the limits of this target are unknown"
		if CallsModels(s.kind + ":") {
			reason = "the answers of a model do not say what was charged"
		} else if s.kind == "null" {
			reason = "the target has no limits"
		} else if r.policy == nil && s.kind != rateLimit {
			reason = "the policy of the servers is unknown; set it with --policy"
		}
		return &report.Audit{Verdict: report.NotAudited, Text: reason}
	}
	v := NewAudit(s.auditor.Report())
	shiftUsage(v, r.o.Warmup)
	return v
}

// shiftUsage moves usage series, which begin with the warm-up, to the times of the
// document, which begin after it. Points of the warm-up are dropped.
func shiftUsage(a *report.Audit, warmup time.Duration) {
	for i := range a.UsageSeries {
		k := &a.UsageSeries[i]
		kept := k.Points[:0]
		for _, p := range k.Points {
			if p.At -= warmup; p.At >= 0 {
				kept = append(kept, p)
			}
		}
		k.Points = kept
	}
	a.UsageSeries = slices.DeleteFunc(a.UsageSeries, func(k report.UsageSeries) bool { return len(k.Points) == 0 })
}

// usageSeries returns the usage of the busiest limits over time.
func usageSeries(found *audit.Report) (list []report.UsageSeries) {
	for i := range found.UsageSeries {
		c := &found.UsageSeries[i]
		k := report.UsageSeries{
			Key: c.Scope, Dimension: c.Dimension, Limit: c.Name, Allowed: c.Capacity(),
			Calls: c.Calls, Admitted: c.Admitted, Step: c.Step,
		}
		used := make(map[time.Duration]int64, len(c.Used))
		for _, p := range c.Used {
			used[p.At] = p.Used
		}
		all := c.WithFallback
		if all == nil {
			all = c.Used
		}
		for _, p := range all {
			own := used[p.At]
			k.Points = append(k.Points, report.UsagePoint{At: p.At, Used: own, WithFallback: max(own, p.Used)})
		}
		list = append(list, k)
	}
	return list
}

// NewAudit converts a report of the auditor for a document. Lost charges are a violation,
// like duplicate ones.
func NewAudit(found *audit.Report) *report.Audit {
	a := &report.Audit{Verdict: report.Exact, Calls: found.Calls, Margin: found.SlowestCall + found.ClockSkew}
	var doubt, bad int64
	var missing, excess, undeclared []string
	for _, d := range found.Dimensions {
		a.Limits += d.Limits
		a.OverAdmitted += d.OverLimits
		doubt += d.Possible - d.Over
		bad += d.Over + d.BeyondBound + d.Excess + d.Missing
		if d.Missing > 0 {
			missing = append(missing, formatUnits(d.Missing, d.Name))
		}
		if d.BeyondBound > 0 {
			undeclared = append(undeclared, formatUnits(d.BeyondBound, d.Name))
		}
		if d.Excess > 0 {
			excess = append(excess, formatUnits(d.Excess, d.Name))
		}
	}
	switch {
	case bad > 0:
		a.Verdict = report.Violated
	case doubt > 0:
		a.Verdict = report.WithinMargin
	}
	a.UnderAdmitted = int64(len(found.Under)) // the auditor lists the worst 1,000
	a.DoubleCharges, a.LostSettles = countSuspects(found)

	var text []string
	if len(missing) > 0 {
		text = append(text, "Charges were lost: "+strings.Join(missing, ", ")+".")
	}
	if len(excess) > 0 {
		text = append(text, "Charged twice or not given back: "+strings.Join(excess, ", ")+".")
	}
	if found.Fallback > 0 {
		sentence := "Without the owner, fallback admitted " + amount.Plural(found.Fallback, "call")
		if len(undeclared) > 0 {
			sentence += ", more than the limits declare: " + strings.Join(undeclared, ", ")
		}
		text = append(text, sentence+".")
	}
	if found.Failed > 0 {
		text = append(text, amount.Plural(found.Failed, "request")+" got no answer and may have been charged or not.")
	}
	if found.Refused > 0 {
		text = append(text, amount.Plural(found.Refused, "request was", "requests were")+" refused because of overload, which must charge nothing.")
	}
	if found.Unjudged > 0 {
		text = append(text, amount.Plural(found.Unjudged, "denial was of a call", "denials were of calls")+" without a known limit.")
	}
	a.Text = strings.Join(text, " ")
	a.Worst, a.UsageSeries = worstLimits(found), usageSeries(found)
	return a
}

// formatUnits formats an amount with its dimension.
func formatUnits(n int64, dimension string) string {
	if dimension == audit.Spend {
		return fmt.Sprintf("$%d.%06d of spend", n/1e6, n%1e6)
	}
	return amount.Group(n) + " " + strings.ReplaceAll(dimension, "_", " ")
}

// countSuspects counts the ids that may explain surplus charges.
func countSuspects(found *audit.Report) (double, lost int64) {
	ids := map[string]bool{}
	for _, c := range found.Charges {
		if c.Excess == 0 {
			continue
		}
		for _, s := range c.Suspects {
			if ids[s.ID] {
				continue
			}
			ids[s.ID] = true
			switch {
			case s.Why == audit.SettlePending:
			case strings.Contains(s.Why, "settle"):
				lost++
			default:
				double++
			}
		}
	}
	return double, lost
}

// worstLimits returns the limits with findings, worst first, at most 100.
func worstLimits(found *audit.Report) []report.LimitResult {
	var list []report.LimitResult
	at := map[audit.LimitRef]int{}
	account := func(w audit.LimitRef) *report.LimitResult {
		i, ok := at[w]
		if !ok {
			i = len(list)
			at[w] = i
			list = append(list, report.LimitResult{Key: w.Scope, Dimension: w.Dimension, Limit: w.Name})
		}
		return &list[i]
	}
	for _, o := range found.Over {
		a := account(o.LimitRef)
		a.Over, a.Admitted = o.Amount, o.Admitted
		a.Allowed = max(0, o.Admitted-o.Amount)
		if o.WithFallback > o.Amount {
			a.Margin = o.WithFallback - o.Amount
			a.Allowed = max(0, o.Admitted-o.WithFallback)
		}
		if o.BeyondBound > 0 { // beyond the declared bound is not margin
			a.Over += o.BeyondBound
			a.Margin = max(0, a.Margin-o.BeyondBound)
		}
	}
	for _, u := range found.Under {
		a := account(u.LimitRef)
		a.Under = u.Cost
	}
	slices.SortStableFunc(list, func(a, b report.LimitResult) int {
		return cmp.Or(cmp.Compare(b.Over, a.Over), cmp.Compare(b.Under, a.Under))
	})
	return list[:min(len(list), 100)]
}
