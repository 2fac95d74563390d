// SPDX-License-Identifier: Apache-2.0

package report

import (
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// JSONSummary is what [WriteSummary] shows of a run, for programs. Shares are from 0 to 1.
type JSONSummary struct {
	FormatVersion int                 `json:"format_version"`
	Started       time.Time           `json:"started"`
	Command       string              `json:"command"`
	Targets       []JSONTargetSummary `json:"targets"`
}

// JSONTargetSummary is the part of a [JSONSummary] about one target.
type JSONTargetSummary struct {
	Name              string         `json:"name"`
	OfferedPerSecond  float64        `json:"offered_per_second"`
	AchievedPerSecond float64        `json:"achieved_per_second"`
	Latency           *JSONLatencies `json:"latency_ns,omitempty"` // absent: nothing was answered
	Denied            float64        `json:"denied"`               // of what was answered
	Failed            float64        `json:"failed"`               // of what was offered, as refused
	Refused           float64        `json:"refused"`
	// ServerCPU is for each decision; 0 if it is unknown.
	ServerCPU time.Duration `json:"server_cpu_ns"`
	Verdict   Verdict       `json:"verdict,omitempty"` // of the audit; absent: there was none
	Audit     string        `json:"audit,omitempty"`
	Overload  string        `json:"overload,omitempty"`
	Warning   string        `json:"warning,omitempty"`
}

// JSONLatencies are percentiles, in nanoseconds.
type JSONLatencies struct {
	P50  time.Duration `json:"p50"`
	P99  time.Duration `json:"p99"`
	P999 time.Duration `json:"p99_9"`
	Max  time.Duration `json:"max"`
}

// WriteJSONSummary writes a [JSONSummary].
func WriteJSONSummary(w io.Writer, r *Run) error {
	out := JSONSummary{FormatVersion: FormatVersion, Started: r.Started, Command: r.Command}
	for i := range r.Targets {
		t := &r.Targets[i]
		s := JSONTargetSummary{
			Name: t.Name, OfferedPerSecond: perSecond(t.Offered, t.Duration), AchievedPerSecond: t.Rate(),
			Denied: share(t.Denied, t.Achieved), Failed: share(t.Failed+t.Dropped, t.Offered), Refused: share(t.Refused, t.Offered),
			Warning: t.warning(),
		}
		if l := t.Overall(); l != nil {
			s.Latency = &JSONLatencies{P50: l.at(50), P99: l.at(99), P999: l.at(99.9), Max: maxOf(l)}
		}
		if t.Resources != nil {
			s.ServerCPU = t.Resources.ServerCPUPerMillion / 1e6
		}
		if t.Audit != nil {
			s.Verdict, s.Audit = t.Audit.Verdict, t.Audit.Summary()
		}
		if t.Overload != nil {
			s.Overload = t.Overload.Summary()
		}
		out.Targets = append(out.Targets, s)
	}
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(out); err != nil {
		return fmt.Errorf("write the summary of a run: %w", err)
	}
	return nil
}
