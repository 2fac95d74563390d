// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"runtime"
	"time"
)

// print writes the medians as a Markdown table.
func (b *bench) print(w io.Writer) {
	fmt.Fprintf(w, "%d cores, %s, medians of %d rounds of %s, order shuffled.\n\n", runtime.NumCPU(), runtime.Version(), b.rounds, b.length)
	fmt.Fprintln(w, "| what | callers | checks/s | of the echo | p50 | p99 | servers' CPU per million |")
	fmt.Fprintln(w, "|---|---:|---:|---:|---:|---:|---:|")
	for _, r := range b.rows {
		m := median(r.samples)
		cpu := "-"
		if r.servers != nil {
			cpu = fmt.Sprintf("%.1f s", m.serverCPU.Seconds())
		}
		fmt.Fprintf(w, "| %s | %d | %.0f | %s | %s | %s | %s |\n",
			r.name, r.callers, m.perSecond, b.ofEcho(r), micro(m.p50), micro(m.p99), cpu)
	}
}

// ofEcho returns the median of the ratios to the echo with as many callers, by round.
func (b *bench) ofEcho(r *row) string {
	for _, e := range b.rows {
		if e.name != "echo of a check" || e.callers != r.callers {
			continue
		}
		ratios := make([]float64, len(r.samples))
		for i, s := range r.samples {
			ratios[i] = s.perSecond / e.samples[i].perSecond
		}
		return fmt.Sprintf("%.2f", middle(ratios, func(f float64) float64 { return f }))
	}
	return "-"
}

func micro(d time.Duration) string {
	if d < 10*time.Millisecond {
		return fmt.Sprintf("%d us", d.Microseconds())
	}
	return fmt.Sprintf("%.1f ms", float64(d.Microseconds())/1000)
}
