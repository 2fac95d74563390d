// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	_ "embed" // the page and its style
	"fmt"
	"html/template"
	"io"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
)

var (
	//go:embed page.html
	pageHTML string
	//go:embed page.css
	pageCSS string
	//go:embed style.css
	chartCSS string
)

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// page is the data of the template, which escapes everything that is not of a template
// type.
type page struct {
	Title, Subtitle string
	Style           template.CSS
	Tiles           []tile
	Summary         *tableView
	Verdicts        []verdict
	Sections        []section
	Errors          *tableView
	Command         string
	Facts, Flags    []Flag
}

type tile struct{ Name, Value, Note, Class string }

type verdict struct{ Title, Text, Class, Sign string }

type section struct {
	Title   string
	Figures []figure
}

type figure struct {
	ID, Title, Note string
	SVG             template.HTML // by canvas, which escapes every text
	Table           tableView
}

type tableView struct {
	Head []string
	Rows [][]string
}

// WriteHTML validates the run and writes it as one HTML page without scripts or external
// resources. It supports dark mode and printing.
func WriteHTML(w io.Writer, r *Run) error {
	if err := r.Validate(); err != nil {
		return fmt.Errorf("run: %w", err)
	}
	p := page{
		Title: title(r), Subtitle: subtitle(r), Style: template.CSS(chartCSS + pageCSS),
		Command: clean(r.Command, 8000), Facts: facts(r),
	}
	for _, f := range r.Flags {
		p.Flags = append(p.Flags, Flag{clean(f.Name, 100), clean(f.Value, 2000)})
	}
	switch only := &r.Targets[0]; {
	case len(r.Targets) == 1 && only.Overload != nil:
		p.Tiles = overloadTiles(only.Overload)
	case len(r.Targets) == 1:
		p.Tiles = tiles(only)
	case r.overloaded():
		t := overloadSummaryTable(r)
		p.Summary = &tableView{t.head, t.rows}
	default:
		t := summaryTable(r)
		p.Summary = &tableView{t.head, t.rows}
	}
	for i := range r.Targets {
		t := &r.Targets[i]
		if t.Overload != nil {
			p.Verdicts = append(p.Verdicts, overloadVerdict(t))
		} else if w := t.warning(); w != "" {
			p.Verdicts = append(p.Verdicts, verdict{Title: "Load on " + clean(t.Name, 60), Text: strings.ToUpper(w[:1]) + w[1:] + ".", Class: "bad", Sign: "!"})
		}
		if text := t.refusals(); text != "" && t.Overload == nil {
			p.Verdicts = append(p.Verdicts, verdict{Title: "Overload of " + clean(t.Name, 60), Text: text + ".", Sign: "?"})
		}
		if t.Audit == nil && len(r.Targets) > 1 {
			continue
		}
		p.Verdicts = append(p.Verdicts, verdictOf(r, t))
	}
	sections, err := sections(r)
	if err != nil {
		return err
	}
	p.Sections = sections
	p.Errors = errorsTable(r)
	var out bytes.Buffer
	if err := pageTemplate.Execute(&out, p); err != nil {
		return fmt.Errorf("report page: %w", err)
	}
	_, err = w.Write(out.Bytes())
	return err
}

// overloadVerdict says whether goodput holds, and where the harness did not keep up.
func overloadVerdict(t *Target) verdict {
	_, notes := t.overloadSummary(false)
	var text strings.Builder
	for _, sentence := range append([]string{strings.Replace(t.Overload.Summary(), "COLLAPSED", "collapsed", 1)}, notes...) {
		text.WriteString(strings.ToUpper(sentence[:1]) + sentence[1:] + ". ")
	}
	v := verdict{Title: "Overload of " + clean(t.Name, 60), Text: strings.TrimSpace(text.String()), Class: t.Overload.class(), Sign: "✓"}
	if v.Class == "bad" {
		v.Sign = "✗"
	}
	return v
}

// overloadSummaryTable has the steps of all targets.
func overloadSummaryTable(r *Run) table {
	var all table
	for i := range r.Targets {
		if r.Targets[i].Overload == nil {
			continue
		}
		t := r.Targets[i].Overload.table()
		all.head = append([]string{"target"}, t.head...)
		for _, row := range t.rows {
			all.rows = append(all.rows, append([]string{clean(r.Targets[i].Name, 40)}, row...))
		}
	}
	return all
}

func title(r *Run) string {
	targets := make([]string, 0, len(r.Targets))
	for i := range r.Targets {
		targets = append(targets, clean(r.Targets[i].Name, 40))
	}
	if len(targets) > 4 {
		targets = append(targets[:3], fmt.Sprintf("%d more", len(targets)-3))
	}
	return "Bench of " + list(targets)
}

func subtitle(r *Run) string {
	var parts []string
	l := &r.Load
	switch l.Loop {
	case "closed":
		parts = append(parts, "closed loop, "+amount.Plural(l.Callers, "caller"))
	default:
		s := "open loop"
		if l.RatePerSecond > 0 {
			s += ", " + formatRate(l.RatePerSecond) + " calls per second"
		}
		if r.overloaded() {
			s = "overload"
		}
		if l.Arrivals != "" {
			s += " (" + clean(l.Arrivals, 40) + ")"
		}
		parts = append(parts, s)
	}
	if l.Duration > 0 {
		parts = append(parts, "for "+formatElapsed(l.Duration))
	}
	if l.Workload != "" {
		parts = append(parts, clean(l.Workload, 200))
	}
	if !r.Started.IsZero() {
		parts = append(parts, r.Started.UTC().Format("2 January 2006, 15:04 UTC"))
	}
	return strings.Join(parts, " · ")
}

func tiles(t *Target) []tile {
	l := t.Overall()
	failed := tile{Name: "failed", Value: formatPercent(share(t.Failed+t.Dropped, t.Offered)), Note: amount.Group(t.Failed) + " failed, " + amount.Group(t.Dropped) + " dropped"}
	if t.Failed+t.Dropped > 0 {
		failed.Class = "bad"
	}
	list := []tile{
		{Name: "decisions/s", Value: formatRate(t.Rate()), Note: "offered " + formatRate(perSecond(t.Offered, t.Duration))},
		{Name: "p50", Value: formatDuration(l.at(50))},
		{Name: "p99", Value: formatDuration(l.at(99)), Note: "p99.9 " + formatDuration(l.at(99.9))},
		{Name: "slowest", Value: formatDuration(maxOf(l)), Note: "of " + amount.Group(t.Achieved)},
		{Name: "denied", Value: formatPercent(share(t.Denied, t.Achieved)), Note: amount.Group(t.Denied) + " denied, " + amount.Group(t.Degraded) + " degraded"},
		failed,
	}
	if t.Refused > 0 {
		list = append(list, tile{Name: "refused", Value: formatPercent(share(t.Refused, t.Offered)), Note: amount.Group(t.Refused) + " calls"})
	}
	return list
}

func maxOf(l *Latency) time.Duration {
	if l == nil {
		return 0
	}
	return l.Max
}

func verdictOf(r *Run, t *Target) verdict {
	v := verdict{Title: "Audit", Text: clean(t.Audit.Summary(), 2000), Class: t.Audit.class()}
	if len(r.Targets) > 1 {
		v.Title += " of " + clean(t.Name, 60)
	}
	v.Text = strings.ToUpper(v.Text[:1]) + v.Text[1:] + "."
	v.Text = strings.Replace(v.Text, "VIOLATED", "Violated", 1)
	v.Text = strings.ReplaceAll(v.Text, "..", ".")
	switch v.Class {
	case "good":
		v.Sign = "✓"
	case "bad":
		v.Sign = "✗"
	default:
		v.Sign = "?"
	}
	return v
}

// sections returns the charts, in the order in which readers ask: is it right, how fast,
// for how long, at what cost.
func sections(r *Run) ([]section, error) {
	var out []section
	add := func(title string, charts ...*chart) {
		s := section{Title: title}
		for _, c := range charts {
			if c != nil {
				s.Figures = append(s.Figures, figure{
					ID: c.id, Title: c.title, Note: c.note,
					SVG:   template.HTML(c.svg()),
					Table: tableView{c.table.head, c.table.rows},
				})
			}
		}
		if len(s.Figures) > 0 {
			out = append(out, s)
		}
	}
	ratios, err := PairedRatios(r, CompareOptions{Seed: r.Seed})
	if err != nil {
		return nil, err
	}
	if len(ratios) > 0 {
		add("Side by side", pairsChart(ratios))
	}
	add("Overload", overloadChart(r))
	latency := []*chart{latencyChart("latency", "Latency by percentile", overallCurves(r))}
	for i := range r.Targets {
		title := "By operation and route"
		if len(r.Targets) > 1 {
			title += ": " + clean(r.Targets[i].Name, 60)
		}
		latency = append(latency, partsChart(fmt.Sprintf("latency-%d", i+1), title, &r.Targets[i]))
	}
	add("Latency", latency...)
	var throughput, resources []*chart
	for i := range r.Targets {
		throughput = append(throughput, throughputChart(fmt.Sprintf("throughput-%d", i+1), &r.Targets[i], highestRate(r)))
		resources = append(
			resources, coresChart(fmt.Sprintf("cores-%d", i+1), &r.Targets[i]),
			memoryChart(fmt.Sprintf("memory-%d", i+1), &r.Targets[i]),
		)
	}
	add("Over time", append(throughput, tailChart(r))...)
	admitted := []*chart{auditChart("admitted", "Admitted, as a share of what the limits allow", auditGroups(r), maxLimits)}
	for i := range r.Targets {
		admitted = append(admitted, coursesChart(fmt.Sprintf("courses-%d", i+1), &r.Targets[i], coursesEach(len(r.Targets))))
	}
	add("Admitted and allowed", admitted...)
	add("Resources", append([]*chart{cpuChart(r)}, resources...)...)
	return out, nil
}

func errorsTable(r *Run) *tableView {
	t := &tableView{Head: []string{"target", "failure", "times"}}
	for i := range r.Targets {
		for _, e := range r.Targets[i].Errors {
			t.Rows = append(t.Rows, []string{clean(r.Targets[i].Name, 60), clean(e.Message, 300), amount.Group(e.Count)})
		}
	}
	if len(t.Rows) == 0 {
		return nil
	}
	return t
}

// facts are what a reader needs to repeat the run and to judge its numbers.
func facts(r *Run) []Flag {
	e := &r.Environment
	var out []Flag
	add := func(name, value string) {
		if value != "" {
			out = append(out, Flag{clean(name, 100), clean(value, 2000)})
		}
	}
	for i := range r.Targets {
		if d := r.Targets[i].Description; d != "" {
			add("Target", r.Targets[i].Name+": "+d)
		}
	}
	if r.Harness != nil {
		add("Harness", r.Harness.Summary())
	}
	add("Seed", fmt.Sprint(r.Seed))
	add("Warm-up", formatElapsed(r.Load.Warmup)+", not measured")
	machine := fmt.Sprintf("%s, %s", amount.Plural(int64(e.Cores), "core"), formatBytes(float64(e.MemoryBytes)))
	if e.CPU != "" {
		machine = e.CPU + ", " + machine
	}
	add("Machine", machine)
	add("System", strings.TrimPrefix(e.System+", "+e.OS, ", "))
	add("Go", e.Go)
	commit := e.Commit
	if e.Modified {
		commit += ", with uncommitted changes"
	}
	add("Version", e.Version)
	add("Commit", commit)
	for _, v := range e.Versions {
		add(v.Name, v.Value)
	}
	return out
}
