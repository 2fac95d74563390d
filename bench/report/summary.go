// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
)

// TextOptions configure text output. The zero value is plain text.
type TextOptions struct {
	Colour bool // for terminals, see [Colour]
	// Report is the path of the report or document, shown at the end unless empty.
	Report string
}

// WriteSummary writes a summary for people: a row per target, the verdicts, and the path
// of the report.
func WriteSummary(w io.Writer, r *Run, o TextOptions) error {
	var b strings.Builder
	style := newStyle(o.Colour)
	fmt.Fprintf(&b, "%s\n%s\n\n", style.bold(title(r)), subtitle(r))
	if r.overloaded() {
		writeOverload(&b, r, style)
	} else {
		summaryTable(r).text(&b, style)
		b.WriteString("\n")
	}
	if ratios, err := PairedRatios(r, CompareOptions{Seed: r.Seed}); err == nil && len(ratios) > 0 {
		ratiosTable(ratios).text(&b, style)
		b.WriteString("\n")
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		name := "audit"
		if len(r.Targets) > 1 {
			name += " of " + clean(t.Name, 40)
		}
		fmt.Fprintf(&b, "%s: %s\n", name, style.verdict(t.Audit, clean(t.Audit.Summary(), 600)))
		if t.Overload != nil {
			fmt.Fprintf(&b, "  overload: %s\n", style.coloured(t.Overload.class(), t.Overload.Summary()))
		} else if w := t.warning(); w != "" {
			fmt.Fprintf(&b, "  %s\n", style.red("warning: "+w))
		}
		if text := t.refusals(); text != "" && t.Overload == nil {
			fmt.Fprintf(&b, "  %s\n", text)
		}
		if t.CallsModel {
			l := t.settles()
			fmt.Fprintf(&b, "  streams: %s complete, %s (p50) and %s (p99) after the first byte; %s failed\n",
				amount.Group(t.LLM.Settled), formatDuration(l.at(50)), formatDuration(l.at(99)), amount.Group(t.LLM.SettlesFailed))
		}
		for _, e := range t.Errors[:min(5, len(t.Errors))] {
			fmt.Fprintf(&b, "  %s times: %s\n", amount.Group(e.Count), clean(e.Message, 160))
		}
		if t.Resources != nil && t.Resources.ServerCPUPerMillion > 0 {
			fmt.Fprintf(&b, "  servers: %s of CPU per decision\n", formatDuration(t.Resources.ServerCPUPerMillion/1e6))
		}
	}
	if r.Harness != nil {
		for i, line := range r.Harness.lines() {
			if i == 0 {
				fmt.Fprintf(&b, "harness: %s\n", line)
			} else {
				fmt.Fprintf(&b, "  %s\n", line)
			}
		}
	}
	if o.Report != "" {
		fmt.Fprintf(&b, "report: %s\n", clean(o.Report, 500))
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// writeOverload writes the steps of each target.
func writeOverload(b *strings.Builder, r *Run, style style) {
	notes, bare := overloadNote, false
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Overload == nil {
			continue
		}
		head, warnings := t.overloadSummary(len(r.Targets) > 1)
		b.WriteString(head + "\n\n")
		t.Overload.table().text(b, style)
		for _, text := range warnings {
			b.WriteString(style.red("warning: "+text) + "\n")
		}
		b.WriteString("\n")
		if c := t.Overload.controls(); len(c.rows) > 0 {
			c.text(b, style)
			b.WriteString("\n")
			notes = overloadNote + "\n" + controlsNote
			bare = bare || slices.Contains(c.head, "bare")
		}
	}
	if bare {
		notes += "\n" + bareNote
	}
	for line := range strings.Lines(notes + "\n") {
		b.WriteString(style.dim(strings.TrimSuffix(line, "\n")) + "\n")
	}
	b.WriteString("\n")
}

func summaryTable(r *Run) table {
	t := table{head: []string{"target", "offered/s", "achieved/s", "p50", "p99", "p99.9", "max", "denied", "failed"}}
	refused := slices.ContainsFunc(r.Targets, func(x Target) bool { return x.Refused > 0 })
	if refused {
		t.head = append(t.head, "refused")
	}
	for i := range r.Targets {
		x := &r.Targets[i]
		l := x.Overall()
		row := []string{
			clean(x.Name, 40), formatRate(perSecond(x.Offered, x.Duration)), formatRate(x.Rate()),
			formatDuration(l.at(50)), formatDuration(l.at(99)), formatDuration(l.at(99.9)), formatDuration(maxOf(l)),
			formatPercent(share(x.Denied, x.Achieved)), formatPercent(share(x.Failed+x.Dropped, x.Offered)),
		}
		if refused {
			row = append(row, formatPercent(share(x.Refused, x.Offered)))
		}
		t.rows = append(t.rows, row)
	}
	return t
}

func ratiosTable(ratios []Ratio) table {
	t := table{head: []string{"against " + clean(ratios[0].Baseline, 30), "mean", "95 % of the mean", "rounds"}}
	times := func(v float64) string { return threeDigits(v) + "x" }
	for i := range ratios {
		x := &ratios[i]
		between := "-"
		if x.Low > 0 {
			between = times(x.Low) + " to " + times(x.High)
		}
		t.rows = append(t.rows, []string{
			clean(x.Target, 30) + ", " + x.Metric, times(x.Mean), between,
			fmt.Sprintf("%d, %s to %s", len(x.Rounds), times(x.Min), times(x.Max)),
		})
	}
	return t
}

// text writes the table in columns. The first column is left-aligned.
func (t table) text(b *strings.Builder, style style) {
	widths := make([]int, len(t.head))
	for _, row := range append([][]string{t.head}, t.rows...) {
		for i, cell := range row {
			widths[i] = max(widths[i], utf8.RuneCountInString(cell))
		}
	}
	for i, row := range append([][]string{t.head}, t.rows...) {
		var line strings.Builder
		for j, cell := range row {
			pad := strings.Repeat(" ", widths[j]-utf8.RuneCountInString(cell))
			switch {
			case j == 0 && len(row) > 1:
				line.WriteString(cell + pad)
			case j == 0:
				line.WriteString(cell)
			default:
				line.WriteString("  " + pad + cell)
			}
		}
		s := strings.TrimRight(line.String(), " ")
		if i == 0 {
			s = style.dim(s)
		}
		b.WriteString(s + "\n")
	}
}

// style colours text if on.
type style struct{ on bool }

func newStyle(on bool) style { return style{on} }

func (s style) wrap(code, text string) string {
	if !s.on {
		return text
	}
	return "\x1b[" + code + "m" + text + "\x1b[0m"
}

func (s style) bold(text string) string   { return s.wrap("1", text) }
func (s style) dim(text string) string    { return s.wrap("2", text) }
func (s style) green(text string) string  { return s.wrap("32", text) }
func (s style) red(text string) string    { return s.wrap("31;1", text) }
func (s style) yellow(text string) string { return s.wrap("33", text) }

func (s style) verdict(a *Audit, text string) string {
	return s.coloured(a.class(), text)
}

// coloured colours a verdict by its class.
func (s style) coloured(class, text string) string {
	switch class {
	case "good":
		return s.green(text)
	case "bad":
		return s.red(text)
	}
	return text
}
