// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/trace"
)

// Describe tells people what the workload is, in lines of a name and a text.
func (w *Workload) Describe() string {
	var b strings.Builder
	line := func(name, text string) {
		if text != "" {
			fmt.Fprintf(&b, "%-8s %s\n", name, text)
		}
	}
	s := &w.spec
	if w.rows != nil {
		line("replay", w.describeReplay())
		line("tokens", describeTrace(w.rows.calls)+", as in the trace")
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
		line("tiers", s.Tiers.percent()+" of the keys, by a hash of the name")
	case w.rows != nil:
		line("tiers", "free 60%, standard 30%, enterprise 10% of the users")
	default:
		line("tiers", "none named: the policy decides")
	}
	if len(s.Models.names) == 1 {
		line("models", s.Models.String()+", all calls")
	} else if len(s.Models.names) > 0 {
		line("models", s.Models.percent()+" of the calls")
	}
	line("llm", s.LLM.describe())
	line("retries", s.Retries.describe())
	line("ids", s.IDs+"000000 and so on")
	line("seed", strconv.FormatUint(s.Seed, 10))
	return b.String()
}

func (w *Workload) describeReplay() string {
	r := w.spec.Replay
	last := w.rows.due(w.rows.calls[len(w.rows.calls)-1].Offset)
	return fmt.Sprintf("the Azure LLM inference trace 2023 at %sx: %s calls in %s, by %s users of %s organisations (such as %s)",
		decimal(r.speed, 3), grouped(int64(len(w.rows.calls))), last.Round(time.Millisecond),
		grouped(r.users), grouped(min(r.orgs, r.users)), w.rows.users[0].Key)
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
		all := harmonic(n, s)
		return of + fmt.Sprintf("Zipf with exponent %s over %s; %s has %s of these calls, the first hundred have %s",
			decimal(p.exponent, 3), howMany(n, names), names.at(0),
			percentOf(1/all), percentOf(harmonic(min(n, 100), s)/all))
	case treeKeys:
		return of + fmt.Sprintf("a tree of %s organisations, all alike: %s", grouped(p.sizes[0]), howMany(n, names))
	default:
		return of + "all alike: " + howMany(n, names)
	}
}

func howMany(n int64, names *names) string {
	if n == 1 {
		return "one key, " + names.text
	}
	return fmt.Sprintf("%s keys, %s to %s", grouped(n), names.at(0), names.at(n-1))
}

func (w *Workload) describeTokens() string {
	t := w.spec.Tokens
	switch t.kind {
	case chatTokens:
		return describeTrace(w.sizes.rows) + ", drawn together from rows of the Azure LLM inference trace 2023"
	case fixedTokens:
		return fmt.Sprintf("input %s, output %s", grouped(t.input.from), grouped(t.output.from))
	default:
		return fmt.Sprintf("input %s to %s (mean %.0f), output %s to %s (mean %.0f), all alike",
			grouped(t.input.from), grouped(t.input.to), t.input.mean(),
			grouped(t.output.from), grouped(t.output.to), t.output.mean())
	}
}

func describeTrace(calls []trace.Call) string {
	input, output := make([]int64, len(calls)), make([]int64, len(calls))
	for i, c := range calls {
		input[i], output[i] = c.ContextTokens, c.GeneratedTokens
	}
	return "input " + spread(input) + ", output " + spread(output)
}

// spread sorts and describes values.
func spread(values []int64) string {
	slices.Sort(values)
	sum := int64(0)
	for _, v := range values {
		sum += v
	}
	n := len(values)
	return fmt.Sprintf("mean %s, p50 %s, p99 %s, max %s",
		grouped((sum+int64(n)/2)/int64(n)), grouped(values[n/2]), grouped(values[n*99/100]), grouped(values[n-1]))
}

func (l *LLM) describe() string {
	if l.share == 0 {
		return "none: all calls are checks"
	}
	of := l.share.String() + " of the calls are LLM calls, the others checks"
	if l.share == whole {
		of = "all calls are LLM calls"
	}
	reports := "no reports"
	if l.reports > 0 {
		reports = grouped(l.reports) + " reports per second"
		if l.reports == 1 {
			reports = "a report per second"
		}
	}
	return fmt.Sprintf("%s: first token after %s, then %s tokens/s; %s; %s", of, l.ttft, l.speed, reports, l.most.describe())
}

func (m maxOutput) describe() string {
	switch m {
	case nextPower:
		return "reserves the next power of two of its output"
	case exactly:
		return "reserves exactly its output"
	default:
		return fmt.Sprintf("reserves %s, and longer output is cut to it", grouped(int64(m)))
	}
}

func (r *Retries) describe() string {
	switch {
	case r.share == 0:
		return ""
	case r.after == 0:
		return r.share.String() + " of the calls are sent again with the same id, right after"
	default:
		return fmt.Sprintf("%s of the calls are sent again with the same id, %s calls later", r.share, grouped(r.after))
	}
}

// percentOf writes a fraction as people read it: 13.6%, or 0.0012%.
func percentOf(f float64) string {
	text := strconv.FormatFloat(100*f, 'g', 3, 64)
	if f >= 0.999 || f > 0 && f < 1e-6 {
		text = strconv.FormatFloat(100*f, 'g', 4, 64)
	}
	return text + "%"
}

// grouped writes 1,234,567.
func grouped(n int64) string {
	digits := strconv.FormatInt(n, 10)
	var b strings.Builder
	for i, d := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 {
			b.WriteByte(',')
		}
		b.WriteRune(d)
	}
	return b.String()
}
