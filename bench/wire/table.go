// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench/report"
)

// Result is what a run has measured.
type Result struct {
	Environment report.Environment
	Command     string
	Rounds      int
	Length      time.Duration // of a row in a round
	Rows        []Row
	Edges       []Edge
}

// Row is the median of the rounds of a kind of call with a number of callers.
type Row struct {
	Name          string
	Callers       int
	ChecksPerSec  float64
	OfEcho        float64       // of the checks per second of the echo with as many callers; 0: it was not measured
	P50, P99      time.Duration // of a call
	CPUPerMillion time.Duration // of the servers, per million checks
	KnownCPU      bool
}

// Edge is how much of a limit was admitted to many callers of one key.
type Edge struct {
	Name     string
	Admitted int64
}

func (b *run) result() *Result {
	r := &Result{Environment: report.CaptureEnvironment(), Command: b.o.Command, Rounds: b.o.Rounds, Length: b.o.Length}
	r.Environment.Versions = b.versions
	for _, row := range b.rows {
		m := median(row.samples)
		r.Rows = append(r.Rows, Row{
			Name: row.name, Callers: row.callers, ChecksPerSec: m.perSecond, OfEcho: b.ofEcho(row), P50: m.p50, P99: m.p99,
			CPUPerMillion: m.serverCPU, KnownCPU: row.server != nil,
		})
	}
	for _, e := range b.edges {
		r.Edges = append(r.Edges, Edge{e.name, e.taken})
	}
	return r
}

// ofEcho returns the median of the ratios to the echo with as many callers, by round.
func (b *run) ofEcho(r *row) float64 {
	for _, e := range b.rows {
		if e.name != echoRow || e.callers != r.callers {
			continue
		}
		ratios := make([]float64, len(r.samples))
		for i, s := range r.samples {
			ratios[i] = s.perSecond / e.samples[i].perSecond
		}
		return middle(ratios, func(f float64) float64 { return f })
	}
	return 0
}

// WriteMarkdown writes the machine, the commit, the command and the tables.
func (r *Result) WriteMarkdown(w io.Writer) error {
	_, err := io.WriteString(w, r.Markdown())
	return err
}

// Markdown returns the machine, the commit, the command and the tables.
func (r *Result) Markdown() string {
	var b strings.Builder
	e := &r.Environment
	commit := text(e.Commit, e.Version)
	if e.Modified {
		commit += " with changes"
	}
	fmt.Fprintf(&b, "%s, %d cores, %d GiB, %s; %s; commit %s. Medians of %d rounds of %s, order shuffled:\n\n", text(e.CPU, "an unknown processor"), e.Cores, (e.MemoryBytes+1<<29)>>30, text(e.System, e.OS), e.Go, commit, r.Rounds, r.Length)
	for _, v := range e.Versions {
		fmt.Fprintf(&b, "`%s` is %s.\n", v.Name, v.Value)
	}
	if len(e.Versions) > 0 {
		b.WriteString("\n")
	}
	fmt.Fprintf(&b, "```sh\n%s\n```\n\n", r.Command)
	b.WriteString("| what | callers | checks/s | of the echo | p50 | p99 | servers' CPU per million |\n|---|---:|---:|---:|---:|---:|---:|\n")
	for _, row := range r.Rows {
		ratio, cpu := "-", "-"
		if row.OfEcho > 0 {
			ratio = fmt.Sprintf("%.2f", row.OfEcho)
		}
		if row.KnownCPU {
			cpu = fmt.Sprintf("%.1f s", row.CPUPerMillion.Seconds())
		}
		fmt.Fprintf(&b, "| %s | %d | %.0f | %s | %s | %s | %s |\n", row.Name, row.Callers, row.ChecksPerSec, ratio, micro(row.P50), micro(row.P99), cpu)
	}
	if len(r.Edges) > 0 {
		fmt.Fprintf(&b, "\n%d callers ask for one key with a limit of %d for %s:\n\n| what | admitted | beyond the limit |\n|---|---:|---:|\n", edgeCallers, edgeLimit, edgeTime)
		for _, e := range r.Edges {
			fmt.Fprintf(&b, "| %s | %d | %d |\n", e.Name, e.Admitted, max(0, e.Admitted-edgeLimit))
		}
	}
	return b.String()
}

func text(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

func micro(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%d us", d.Microseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}

// marks are around the tables in a document.
const begin, end = "<!-- wire -->\n", "<!-- end of wire -->\n"

// Replace returns a document with other text between the marks.
func Replace(document, tables string) (string, error) {
	head, rest, ok := strings.Cut(document, begin)
	_, tail, ended := strings.Cut(rest, end)
	if !ok || !ended {
		return "", fmt.Errorf("the document must have the lines %q and %q, which the tables are written between", strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return head + begin + tables + end + tail, nil
}
