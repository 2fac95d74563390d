// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/trace"
)

// Describe returns a description for people: lines of a name and a text.
func (w *Workload) Describe() string {
	var b strings.Builder
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-8s %s\n", name, text)
		}
	}
	s := &w.spec
	if w.replay != nil {
		line("replay", w.describeReplay())
		line("tokens", describeTrace(w.replay.calls)+", as in the trace")
	} else {
		for i := range s.Keys.parts {
			line("keys", w.describeKeys(i))
		}
		line("tokens", w.describeTokens())
	}
	switch {
	case len(s.Tiers.names) == 1:
		line("tiers", s.Tiers.String()+", all keys")
	case len(s.Tiers.names) > 0:
		line("tiers", s.Tiers.percent()+" of the keys, by a hash of the key")
	case w.replay != nil:
		line("tiers", "free 60%, standard 30%, enterprise 10% of the users")
	default:
		line("tiers", "none: the policy decides")
	}
	if len(s.Models.names) == 1 {
		line("models", s.Models.String()+", all calls")
	} else if len(s.Models.names) > 0 {
		line("models", s.Models.percent()+" of the calls")
	}
	line("llm", s.LLM.describe())
	line("retries", s.Retries.describe())
	line("ids", s.IDPrefix+"000000, …")
	line("seed", strconv.FormatUint(s.Seed, 10))
	return b.String()
}

func (w *Workload) describeReplay() string {
	r := w.spec.Replay
	last := w.replay.due(w.replay.calls[len(w.replay.calls)-1].Offset)
	return fmt.Sprintf("the Azure LLM inference trace 2023 at %sx: %s calls in %s, by %s users of %s organisations (such as %s)",
		formatDecimal(r.speed, 3), amount.Group(int64(len(w.replay.calls))), last.Round(time.Millisecond),
		amount.Group(r.users), amount.Group(min(r.orgs, r.users)), w.replay.users[0].Key)
}

func (w *Workload) describeKeys(i int) string {
	p, names := &w.spec.Keys.parts[i], &w.keys.parts[i].names
	of := ""
	if len(w.spec.Keys.parts) > 1 {
		of = p.share.String() + " of the calls: "
	}
	n := p.count()
	switch p.kind {
	case hotKey:
		return of + "one key, " + names.text
	case zipfKeys:
		s := float64(p.exponent) / 1000
		total := harmonic(n, s)
		return of + fmt.Sprintf("Zipf with exponent %s over %s; %s has %s of these calls, the first hundred have %s",
			formatDecimal(p.exponent, 3), describeCount(n, names), names.at(0),
			formatPercent(1/total), formatPercent(harmonic(min(n, 100), s)/total))
	case treeKeys:
		return of + fmt.Sprintf("a tree of %s organisations, uniform: %s", amount.Group(p.sizes[0]), describeCount(n, names))
	default:
		return of + "uniform: " + describeCount(n, names)
	}
}

func describeCount(n int64, names *keyNames) string {
	if n == 1 {
		return "one key, " + names.text
	}
	return fmt.Sprintf("%s keys, %s to %s", amount.Group(n), names.at(0), names.at(n-1))
}

func (w *Workload) describeTokens() string {
	t := w.spec.Tokens
	switch t.kind {
	case chatTokens:
		return describeTrace(w.tokens.rows) + ", drawn as rows of the Azure LLM inference trace 2023"
	case fixedTokens:
		return fmt.Sprintf("input %s, output %s", amount.Group(t.input.from), amount.Group(t.output.from))
	default:
		return fmt.Sprintf("input %s to %s (mean %.0f), output %s to %s (mean %.0f), uniform",
			amount.Group(t.input.from), amount.Group(t.input.to), t.input.mean(),
			amount.Group(t.output.from), amount.Group(t.output.to), t.output.mean())
	}
}

func describeTrace(calls []trace.Call) string {
	input, output := make([]int64, len(calls)), make([]int64, len(calls))
	for i, c := range calls {
		input[i], output[i] = c.ContextTokens, c.GeneratedTokens
	}
	return "input " + describeValues(input) + ", output " + describeValues(output)
}

// describeValues sorts and summarizes values.
func describeValues(values []int64) string {
	slices.Sort(values)
	sum := int64(0)
	for _, v := range values {
		sum += v
	}
	n := len(values)
	return fmt.Sprintf("mean %s, p50 %s, p99 %s, max %s",
		amount.Group((sum+int64(n)/2)/int64(n)), amount.Group(values[n/2]), amount.Group(values[n*99/100]), amount.Group(values[n-1]))
}

func (l *LLM) describe() string {
	if l.share == 0 {
		return "none: all calls are checks"
	}
	of := l.share.String() + " of the calls are LLM calls, the others checks"
	if l.share == fullShare {
		of = "all calls are LLM calls"
	}
	reports := "no progress reports"
	if l.reports > 0 {
		reports = amount.Group(l.reports) + " progress reports per second"
		if l.reports == 1 {
			reports = "a progress report per second"
		}
	}
	return fmt.Sprintf("%s: first token after %s, then %s tokens/s; %s; %s", of, l.ttft, l.speed, reports, l.maxOutput.describe())
}

func (m maxOutput) describe() string {
	switch m {
	case nextPowerOf2:
		return "reserves the next power of two of its output"
	case exactOutput:
		return "reserves exactly its output"
	default:
		return fmt.Sprintf("reserves %s, and cuts longer output", amount.Group(int64(m)))
	}
}

func (r *Retries) describe() string {
	switch {
	case r.share == 0:
		return ""
	case r.after == 0:
		return r.share.String() + " of the calls are retried with the same id, at once"
	default:
		return fmt.Sprintf("%s of the calls are retried with the same id, %s calls later", r.share, amount.Group(r.after))
	}
}

// formatPercent formats a fraction for people: 13.6%, or 0.0012%.
func formatPercent(f float64) string {
	text := strconv.FormatFloat(100*f, 'g', 3, 64)
	if f >= 0.999 || f > 0 && f < 1e-6 {
		text = strconv.FormatFloat(100*f, 'g', 4, 64)
	}
	return text + "%"
}
