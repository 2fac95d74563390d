// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
)

// Judged reports whether any metric had enough samples to be judged. A comparison without
// any has not passed.
func (c *Comparison) Judged() bool {
	return slices.ContainsFunc(c.Deltas, func(d Delta) bool { return d.Finding != FindingNotJudged })
}

// WriteText writes the comparison as text for people.
func (c *Comparison) WriteText(w io.Writer, o TextOptions) error {
	var b strings.Builder
	style := newStyle(o.Colour)
	for _, s := range c.Warnings {
		fmt.Fprintf(&b, "note: %s\n", s)
	}
	if len(c.Warnings) > 0 {
		b.WriteString("\n")
	}
	t := table{head: []string{"target", "metric", "a", "b", "change", "between", ""}}
	for i := range c.Deltas {
		d := &c.Deltas[i]
		change, between := "-", "-"
		if d.Change != nil {
			change = d.signed(*d.Change)
		}
		if d.Low != nil && d.High != nil {
			between = d.signed(*d.Low) + " and " + d.signed(*d.High)
		}
		finding := strings.ReplaceAll(string(d.Finding), "_", " ")
		if d.Verdict != "" && d.Finding != FindingBetter {
			finding = strings.ReplaceAll(string(d.Verdict), "_", " ")
		}
		t.rows = append(t.rows, []string{clean(d.Target, 40), d.Metric, d.value(d.A), d.value(d.B), change, between, finding})
	}
	t.text(&b, style)
	b.WriteString("\n")
	for _, s := range c.Regressions {
		fmt.Fprintf(&b, "%s %s\n", style.red("regression:"), s)
	}
	bound := " by more than " + trimZeros(formatFloat(c.FailOver)) + " %"
	switch c.Verdict {
	case Worse:
		fmt.Fprintf(&b, "verdict: %s\n", style.red("worse"+bound))
	case NotWorse:
		fmt.Fprintf(&b, "verdict: %s\n", style.green("not worse"+bound))
	case CannotTell:
		of := strings.Join(c.undecided(), ", ")
		if of == "" {
			of = "there are no samples"
		}
		fmt.Fprintf(&b, "verdict: %s\n", style.yellow("cannot tell whether worse"+bound+": "+of))
	}
	fmt.Fprintf(&b, "method: %s\n", c.Method)
	_, err := io.WriteString(w, b.String())
	return err
}

// WriteJSON writes the comparison as JSON.
func (c *Comparison) WriteJSON(w io.Writer) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(c)
}
