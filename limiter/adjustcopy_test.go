// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"time"

	"pgregory.net/rapid"
)

// drawAdjustment draws a change by an operator. Its result is in the tier of the decision.
func drawAdjustment(t *rapid.T, key, id string) copyCall {
	set := rapid.IntRange(0, 4).Draw(t, "limits")
	name := rapid.SampledFrom([]string{"", "tokens", "spend", "requests", "input_tokens", "concurrent"}).Draw(t, "limit")
	change := rapid.StringMatching(`[a-f]`).Draw(t, "change")
	units := rapid.Int64Range(1, 60).Draw(t, "units")
	lasts := time.Duration(rapid.IntRange(0, 90).Draw(t, "lasts")) * time.Second
	verb := rapid.IntRange(0, 2).Draw(t, "verb")
	charge := EndCharge(rapid.IntRange(0, 2).Draw(t, "charge"))
	return func(s *side, now Time) (d Decision, _ CountResult, err error) {
		plan := &Plan{Tier: "t", Rates: Rates{Weights: DefaultWeights}, Count: 1}
		plan.Levels[0] = Level{End: len(key), Limits: s.sets[set]}
		r := Request{Key: key, ID: change, Plan: plan}
		var a Adjustment
		switch verb {
		case 0:
			err = s.Reset(now, &r, name, &a)
		case 1:
			err = s.Grant(now, &r, name, units, lasts, &a)
		default:
			r.Plan = nil
			err = s.End(now, &r, id, charge, &a)
		}
		d.Change, d.Large, d.Status = a.Change, a.Large, a.Status
		if err == nil {
			d.Tier = fmt.Sprint(a.Limits, a.Replayed)
		}
		return d, CountResult{}, err
	}
}
