// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"time"
)

// Verdict is what the auditor found.
type Verdict string

// The verdicts.
const (
	// Exact: nothing was admitted beyond the limits, and nothing charged twice.
	Exact Verdict = "exact"
	// WithinMargin: nothing that the auditor's clock margin does not explain.
	WithinMargin Verdict = "within_margin"
	// Violated: limits were exceeded, or calls charged twice.
	Violated Verdict = "violated"
	// NotAudited: nobody looked, or the target's limits are not known.
	NotAudited Verdict = "not_audited"
)

// Audit is what an auditor found in the log of a run.
type Audit struct {
	Verdict Verdict `json:"verdict"`
	// Text says more, in words; empty is fine.
	Text     string        `json:"text,omitempty"`
	Calls    int64         `json:"calls"`     // that were looked at
	Accounts int64         `json:"accounts"`  // limits of keys that were looked at
	Margin   time.Duration `json:"margin_ns"` // of the clocks, where limits refill

	OverAdmitted  int64 `json:"over_admitted"`  // accounts beyond their limit
	UnderAdmitted int64 `json:"under_admitted"` // accounts that denied what fitted
	DoubleCharges int64 `json:"double_charges"` // request ids
	LostSettles   int64 `json:"lost_settles"`   // request ids

	// Worst are the accounts to look at first, the worst first.
	Worst []Account `json:"worst,omitempty"`
	// Courses show the busiest limits over time, also of a run that was right.
	Courses []Course `json:"courses,omitempty"`
}

// Course is how much of one limit of one key was used over time, by what the
// auditor is sure of.
type Course struct {
	Key       string        `json:"key"`
	Dimension string        `json:"dimension"`
	Limit     string        `json:"limit,omitempty"` // its name
	Allowed   int64         `json:"allowed"`         // at once: the capacity of a bucket, else the amount
	Calls     int64         `json:"calls"`           // admitted, in the whole run
	Admitted  int64         `json:"admitted"`        // likewise, in units
	Step      time.Duration `json:"step_ns"`         // how long a point stands for
	Points    []CoursePoint `json:"points"`          // in the order of time; none where nothing was admitted
}

// CoursePoint is the most that was used at once during a step.
type CoursePoint struct {
	At           time.Duration `json:"at_ns"` // since the end of the warm-up
	Used         int64         `json:"used"`
	WithFallback int64         `json:"with_fallback"` // at least Used
}

// Account is one limit of one key: what it allowed, and what came through.
type Account struct {
	Key       string `json:"key"`
	Dimension string `json:"dimension"`
	Limit     string `json:"limit,omitempty"` // its name
	Allowed   int64  `json:"allowed"`         // by burst and refill, at most
	Margin    int64  `json:"margin"`          // of Allowed, that clocks cannot tell
	Admitted  int64  `json:"admitted"`
	Over      int64  `json:"over"`  // admitted beyond Allowed and Margin
	Under     int64  `json:"under"` // denied although it fitted
}

// Words says in one sentence what was found; it is never empty. A run without
// an audit has a nil one.
func (a *Audit) Words() string {
	if a == nil || a.Verdict == NotAudited {
		if a != nil && a.Text != "" {
			return "not audited: " + a.Text
		}
		return "not audited"
	}
	looked := fmt.Sprintf("%s and %s", plural(a.Calls, "call"), plural(a.Accounts, "limit"))
	var s string
	switch a.Verdict {
	case Exact:
		s = "exact: " + looked + " audited, nothing admitted beyond a limit, nothing charged twice"
	case WithinMargin:
		s = fmt.Sprintf("within the clock margin of %s: %s audited, no violation shown", duration(a.Margin), looked)
	default:
		s = fmt.Sprintf("VIOLATED: %s over-admitted, %s, %s; %s audited",
			plural(a.OverAdmitted, "limit"), plural(a.DoubleCharges, "double charge"), plural(a.LostSettles, "lost settle"), looked)
	}
	if a.Verdict != Violated && a.LostSettles > 0 {
		s += "; " + plural(a.LostSettles, "lost settle")
	}
	if a.UnderAdmitted > 0 {
		s += "; " + plural(a.UnderAdmitted, "limit") + " denied what fitted"
	}
	if a.Text != "" {
		s += ". " + a.Text
	}
	return s
}
