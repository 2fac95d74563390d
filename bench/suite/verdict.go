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
)

// verdict is what the auditor has found, for the document.
func (s *side) verdict(r *runner) *report.Audit {
	if s.auditor == nil {
		why := "the limits of this target are not known"
		if CallsModels(s.kind + ":") {
			why = "the answers of a model do not say what was charged"
		} else if s.kind == "null" {
			why = "it has no limits"
		} else if r.policy == nil && s.kind != rateLimit {
			why = "the policy of the servers is not known here; tell it with --policy"
		}
		return &report.Audit{Verdict: report.NotAudited, Text: why}
	}
	v := Verdict(s.auditor.Report())
	sinceWarmup(v, r.o.Warmup)
	return v
}

// sinceWarmup moves the courses, which begin with the warm-up, to the times of the
// document, which begin after it. What came before is not drawn.
func sinceWarmup(a *report.Audit, warmup time.Duration) {
	for i := range a.Courses {
		k := &a.Courses[i]
		kept := k.Points[:0]
		for _, p := range k.Points {
			if p.At -= warmup; p.At >= 0 {
				kept = append(kept, p)
			}
		}
		k.Points = kept
	}
	a.Courses = slices.DeleteFunc(a.Courses, func(k report.Course) bool { return len(k.Points) == 0 })
}

// courses are the busiest limits over time.
func courses(found *audit.Report) (list []report.Course) {
	for i := range found.UsageSeries {
		c := &found.UsageSeries[i]
		k := report.Course{
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
			k.Points = append(k.Points, report.CoursePoint{At: p.At, Used: own, WithFallback: max(own, p.Used)})
		}
		list = append(list, k)
	}
	return list
}

// Verdict puts the findings of an auditor into the form of a document. Charges
// that were lost are a violation like those that were made twice.
func Verdict(found *audit.Report) *report.Audit {
	a := &report.Audit{Verdict: report.Exact, Calls: found.Calls, Margin: found.SlowestCall + found.ClockSkew}
	var doubt, bad int64
	var missing, excess, undeclared []string
	for _, d := range found.Dimensions {
		a.Accounts += d.Limits
		a.OverAdmitted += d.OverLimits
		doubt += d.Possible - d.Over
		bad += d.Over + d.BeyondBound + d.Excess + d.Missing
		if d.Missing > 0 {
			missing = append(missing, units(d.Missing, d.Name))
		}
		if d.BeyondBound > 0 {
			undeclared = append(undeclared, units(d.BeyondBound, d.Name))
		}
		if d.Excess > 0 {
			excess = append(excess, units(d.Excess, d.Name))
		}
	}
	switch {
	case bad > 0:
		a.Verdict = report.Violated
	case doubt > 0:
		a.Verdict = report.WithinMargin
	}
	a.UnderAdmitted = int64(len(found.Under)) // the auditor lists the worst 1,000
	a.DoubleCharges, a.LostSettles = suspects(found)

	var text []string
	if len(missing) > 0 {
		text = append(text, "Charges were lost: "+strings.Join(missing, ", ")+".")
	}
	if len(excess) > 0 {
		text = append(text, "Charged twice or not given back: "+strings.Join(excess, ", ")+".")
	}
	if found.Fallback > 0 {
		said := fmt.Sprintf("Without the owner, fallback admitted %d calls", found.Fallback)
		if len(undeclared) > 0 {
			said += ", more than the limits declare: " + strings.Join(undeclared, ", ")
		}
		text = append(text, said+".")
	}
	if found.Failed > 0 {
		text = append(text, fmt.Sprintf("%d questions got no answer and may have been charged or not.", found.Failed))
	}
	if found.Unjudged > 0 {
		text = append(text, fmt.Sprintf("%d denials were of calls without a known limit.", found.Unjudged))
	}
	a.Text = strings.Join(text, " ")
	a.Worst, a.Courses = accounts(found), courses(found)
	return a
}

// units are an amount for people.
func units(n int64, dimension string) string {
	if dimension == audit.Spend {
		return fmt.Sprintf("$%d.%06d of spend", n/1e6, n%1e6)
	}
	return fmt.Sprintf("%d %s", n, strings.ReplaceAll(dimension, "_", " "))
}

// suspects counts the ids that may explain charges that are too high.
func suspects(found *audit.Report) (double, lost int64) {
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
			case strings.Contains(s.Why, "on its way"):
			case strings.Contains(s.Why, "settle"):
				lost++
			default:
				double++
			}
		}
	}
	return double, lost
}

// accounts are the limits to look at first.
func accounts(found *audit.Report) []report.Account {
	var list []report.Account
	at := map[audit.LimitRef]int{}
	account := func(w audit.LimitRef) *report.Account {
		i, ok := at[w]
		if !ok {
			i = len(list)
			at[w] = i
			list = append(list, report.Account{Key: w.Scope, Dimension: w.Dimension, Limit: w.Name})
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
		if o.BeyondBound > 0 { // that was no margin: it had no right to it
			a.Over += o.BeyondBound
			a.Margin = max(0, a.Margin-o.BeyondBound)
		}
	}
	for _, u := range found.Under {
		a := account(u.LimitRef)
		a.Under = u.Cost
	}
	slices.SortStableFunc(list, func(a, b report.Account) int {
		return cmp.Or(cmp.Compare(b.Over, a.Over), cmp.Compare(b.Under, a.Under))
	})
	return list[:min(len(list), 100)]
}
