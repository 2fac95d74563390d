// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

// Verdict is the result of an audit.
type Verdict string

// The verdicts.
const (
	// Exact: nothing was admitted beyond the limits or charged twice.
	Exact Verdict = "exact"
	// WithinMargin: what exceeds the limits may be explained by the auditor's margin.
	WithinMargin Verdict = "within_margin"
	// Violated: limits were exceeded, or calls charged twice.
	Violated Verdict = "violated"
	// NotAudited: there was no audit, or the limits are unknown.
	NotAudited Verdict = "not_audited"
)

// Audit is the result of the audit of a target.
type Audit struct {
	Verdict Verdict `json:"verdict"`
	// Text adds details for people; it may be empty.
	Text   string        `json:"text,omitempty"`
	Calls  int64         `json:"calls"`     // audited calls
	Limits int64         `json:"accounts"`  // audited limits of keys
	Margin time.Duration `json:"margin_ns"` // uncertainty of the time of charges

	OverAdmitted  int64 `json:"over_admitted"`  // limits that were exceeded
	UnderAdmitted int64 `json:"under_admitted"` // limits that denied calls with room
	DoubleCharges int64 `json:"double_charges"` // request ids
	LostSettles   int64 `json:"lost_settles"`   // request ids

	// Worst are limits with findings, worst first.
	Worst []LimitResult `json:"worst,omitempty"`
	// UsageSeries are the usage of the busiest limits, with or without findings.
	UsageSeries []UsageSeries `json:"courses,omitempty"`
}

// UsageSeries is the usage of one limit of one key over time, as far as it is certain.
type UsageSeries struct {
	Key       string        `json:"key"`
	Dimension string        `json:"dimension"`
	Limit     string        `json:"limit,omitempty"` // its name
	Allowed   int64         `json:"allowed"`         // capacity of a bucket, otherwise the amount
	Calls     int64         `json:"calls"`           // admitted in the whole run
	Admitted  int64         `json:"admitted"`        // admitted in the whole run, in units
	Step      time.Duration `json:"step_ns"`         // length of time of a point
	Points    []UsagePoint  `json:"points"`          // by time; steps without admissions have none
}

// UsagePoint is the highest usage during a step.
type UsagePoint struct {
	At           time.Duration `json:"at_ns"` // since the end of the warm-up
	Used         int64         `json:"used"`
	WithFallback int64         `json:"with_fallback"` // at least Used
}

// LimitResult is the result of one limit of one key.
type LimitResult struct {
	Key       string `json:"key"`
	Dimension string `json:"dimension"`
	Limit     string `json:"limit,omitempty"` // its name
	Allowed   int64  `json:"allowed"`         // at most, including burst and refill
	Margin    int64  `json:"margin"`          // uncertain part of Allowed
	Admitted  int64  `json:"admitted"`
	Over      int64  `json:"over"`  // admitted beyond Allowed and Margin
	Under     int64  `json:"under"` // denied although there was room
}

// Summary returns the result as one sentence, which is never empty. A nil Audit means
// that there was none.
func (a *Audit) Summary() string {
	if a == nil || a.Verdict == NotAudited {
		if a != nil && a.Text != "" {
			return "not audited: " + a.Text
		}
		return "not audited"
	}
	audited := fmt.Sprintf("%s and %s", amount.Plural(a.Calls, "call"), amount.Plural(a.Limits, "limit"))
	var s string
	switch a.Verdict {
	case Exact:
		s = "exact: " + audited + " audited, nothing admitted beyond a limit, nothing charged twice"
	case WithinMargin:
		s = fmt.Sprintf("within the clock margin of %s: %s audited, no violation shown", formatDuration(a.Margin), audited)
	default:
		s = fmt.Sprintf("VIOLATED: %s over-admitted, %s, %s; %s audited",
			amount.Plural(a.OverAdmitted, "limit"), amount.Plural(a.DoubleCharges, "double charge"), amount.Plural(a.LostSettles, "lost settle"), audited)
	}
	if a.Verdict != Violated && a.LostSettles > 0 {
		s += "; " + amount.Plural(a.LostSettles, "lost settle")
	}
	if a.UnderAdmitted > 0 {
		s += "; " + amount.Plural(a.UnderAdmitted, "limit") + " denied calls that had room"
	}
	if a.Text != "" {
		s += ". " + a.Text
	}
	return s
}
