// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/limiter"
)

// A fact is one line of a policy's canonical content, identified by subject and
// name. Hidden text is part of the digest, but no diff shows it.
type fact struct{ subject, name, value, hidden string }

// computeBase fills in the canonical content of all but the rows.
func (p *Policy) computeBase() {
	add := func(subject, name, value string) {
		p.facts = append(p.facts, fact{subject: subject, name: name, value: value})
	}
	if p.defaultTier != nil {
		add("default_tier", "", p.defaultTier.name)
	}
	add("default_output_tokens", "", fmt.Sprint(p.defaultOutput))
	for _, t := range p.tiers {
		add("tier "+t.name, "estimate", estimateText(t.estimate))
		if t.bound {
			add("tier "+t.name, "bound_output", "true")
		}
		if t.weight != 1 {
			add("tier "+t.name, "weight", fmt.Sprint(t.weight))
		}
		if t.classes != usualClasses {
			add("tier "+t.name, "priority", fmt.Sprintf("default %s, highest %s", t.classes.usual, t.classes.highest))
		}
		for i := range t.defs {
			add("tier "+t.name, t.defs[i].title(), t.defs[i].text())
		}
	}
	for _, e := range p.prices.entries {
		add("price "+e.pattern.text, "", e.value.text())
	}
	for _, e := range p.weights.entries {
		add("model "+e.pattern.text, "weights", weightsText(e.value))
	}
	for _, e := range p.outputs.entries {
		add("model "+e.pattern.text, "default_output_tokens", fmt.Sprint(e.value))
	}
	for _, e := range p.bounds.entries {
		add("model "+e.pattern.text, "bound_output", fmt.Sprint(e.value))
	}
	slices.SortFunc(p.facts, func(a, b fact) int {
		return cmp.Or(cmp.Compare(a.subject, b.subject), cmp.Compare(a.name, b.name), cmp.Compare(a.hidden, b.hidden))
	})
	h := sha256.New()
	fmt.Fprintln(h, "bucketring policy 1")
	for _, f := range p.facts {
		fmt.Fprintf(h, "%q %q %q", f.subject, f.name, f.value)
		if f.hidden != "" {
			fmt.Fprintf(h, " %q", f.hidden)
		}
		fmt.Fprintln(h)
	}
	h.Sum(p.base[:0])
}

// complete fills in the digest and the version of a policy with all its parts. Without
// rows the digest is that of the rest.
func (p *Policy) complete() *Policy {
	sum := p.base
	if p.assign.count+p.apiKeys.count+p.overrides.count > 0 {
		b := append([]byte("bucketring policy 2\n"), p.base[:]...)
		b = append(append(append(b, p.assign.sum[:]...), p.apiKeys.sum[:]...), p.overrides.sum[:]...)
		sum = sha256.Sum256(b)
	}
	p.digest = hex.EncodeToString(sum[:])
	p.version = binary.BigEndian.Uint64(sum[:])
	return p
}

// Digest returns a SHA-256, in hex, of the policy's canonical content. Comments, layout,
// and the order and number of files do not change it, nor do the edits that led to it.
func (p *Policy) Digest() string { return p.digest }

// Version returns the first 8 bytes of the digest.
func (p *Policy) Version() uint64 { return p.version }

// VersionString returns [VersionString] of the policy's version.
func (p *Policy) VersionString() string { return VersionString(p.version) }

// VersionString formats a version as in answers: 16 hex digits.
func VersionString(version uint64) string { return fmt.Sprintf("%016x", version) }

// title returns the name of a limit, followed by its dimension if that differs.
func (d *limitDef) title() string {
	if d.Name == string(d.Dimension) {
		return d.Name
	}
	return fmt.Sprintf("%s (%s)", d.Name, d.Dimension)
}

// text describes a limit without its title. Defaults are left out.
func (d *limitDef) text() string {
	s := FormatAmount(d.Dimension, d.Amount)
	if d.Algorithm != limiter.Concurrency {
		s += "/" + formatWindow(&d.Limit)
	}
	if d.Algorithm != defaultAlgorithm(d.Dimension, d.Calendar) {
		s += " " + d.Algorithm.String()
	}
	if d.Burst != 0 {
		s += " burst=" + FormatAmount(d.Dimension, d.Burst)
	}
	if d.Degrade {
		s += " degrade"
	}
	if d.Shadow {
		s += " shadow"
	}
	if d.Unreachable != defaultUnreachable(d.Dimension) {
		s += " unreachable=" + d.Unreachable.String()
	}
	if d.Async {
		s += " durability=async"
	}
	if d.Hidden {
		s += " show=false"
	}
	if d.Slices != limiter.SlicesNodes {
		s += " slices=" + d.Slices.String()
	}
	s += headroomText(d.Headroom) + queueText(d.Queue)
	if d.Zone != nil {
		s += " zone=" + d.Zone.String()
	}
	if d.models != nil {
		names := make([]string, len(d.models))
		for i, m := range d.models {
			names[i] = fmt.Sprintf("%q", m.text)
		}
		s += " models=" + strings.Join(names, ",")
	}
	return s
}

func estimateText(e limiter.Estimate) string {
	switch e.Mode {
	case limiter.EstimateInput:
		return "input"
	case limiter.EstimateFixed:
		return fmt.Sprintf("fixed %d", e.Output)
	}
	return "max"
}

// text describes a price. What few prices have is left out if they have it not.
func (v price) text() string {
	var b strings.Builder
	fmt.Fprintf(&b, "input $%s, cached_input $%s, output $%s",
		formatDecimal(v.input, 6), formatDecimal(v.cachedInput, 6), formatDecimal(v.output, 6))
	for _, p := range []struct {
		key          string
		value, usual int64
	}{
		{"cache_write", v.cacheWrite, v.input},
		{"cache_write_1h", v.cacheWrite1h, v.input},
		{"request", v.request, 0},
		{"image", v.image, 0},
		{"search", v.search, 0},
	} {
		if p.value != p.usual {
			fmt.Fprintf(&b, ", %s $%s", p.key, formatDecimal(p.value, 6))
		}
	}
	for name, factor := range v.serviceTiers.All() {
		fmt.Fprintf(&b, ", service tier %s x%s", name, formatDecimal(factor, 6))
	}
	return b.String()
}

func weightsText(w limiter.Weights) string {
	return fmt.Sprintf("input %s, cached_input %s, output %s",
		formatDecimal(w.Input, 6), formatDecimal(w.CachedInput, 6), formatDecimal(w.Output, 6))
}

// Diff returns one line, for people, per difference between two policies, such as
// "tier free: tokens 10000/1m -> 20000/1m". It is empty if their digests are equal.
func Diff(from, to *Policy) []string {
	lines, _ := DiffMost(from, to, math.MaxInt)
	return lines
}

// DiffMost is [Diff] with at most so many lines, and the number of all. It takes time in
// proportion to what differs, not to the policies.
func DiffMost(from, to *Policy, most int) (lines []string, total int) {
	was, is, more := rowFacts(from, to, most)
	before, after := bySubject(append(was, from.facts...)), bySubject(append(is, to.facts...))
	var subjects []string
	for s := range before {
		subjects = append(subjects, s)
	}
	for s := range after {
		if before[s] == nil {
			subjects = append(subjects, s)
		}
	}
	slices.Sort(subjects)
	for _, s := range subjects {
		switch {
		case before[s] == nil:
			lines = append(lines, s+" added: "+join(after[s]))
		case after[s] == nil:
			lines = append(lines, s+" removed: "+join(before[s]))
		default:
			lines = append(lines, diffSubject(s, before[s], after[s])...)
		}
	}
	return lines[:min(len(lines), most)], len(lines) + more
}

// rowFacts returns the facts of the rows that differ between two policies: of all, or of
// most of them and how many there are more.
func rowFacts(from, to *Policy, most int) (was, is []fact, more int) {
	room := func() bool {
		most--
		if most < 0 {
			more++
		}
		return most >= 0
	}
	different(&from.assign, &to.assign,
		func(a, b assigned) bool { return from.rows.tiers.list[a.tier] == to.rows.tiers.list[b.tier] },
		func(key string, a, b *assigned) {
			if !room() {
				return
			}
			if a != nil {
				was = append(was, fact{subject: "assign " + key, value: from.rows.tiers.list[a.tier]})
			}
			if b != nil {
				is = append(is, fact{subject: "assign " + key, value: to.rows.tiers.list[b.tier]})
			}
		})
	different(&from.apiKeys, &to.apiKeys,
		func(a, b apiKey) bool { return a.key == b.key && from.tierName(a.tier) == to.tierName(b.tier) },
		func(_ sha256Sum, a, b *apiKey) {
			if !room() {
				return
			}
			if a != nil {
				was = append(was, a.fact(&from.rows))
			}
			if b != nil {
				is = append(is, b.fact(&to.rows))
			}
		})
	different(&from.overrides, &to.overrides,
		func(a, b *keyOverrides) bool {
			return a == b || bytes.Equal(appendOverrides(nil, "", a), appendOverrides(nil, "", b))
		},
		func(key string, a, b **keyOverrides) {
			if !room() {
				return
			}
			if a != nil {
				was = append(was, (*a).facts(key)...)
			}
			if b != nil {
				is = append(is, (*b).facts(key)...)
			}
		})
	byName := func(a, b fact) int {
		return cmp.Or(strings.Compare(a.name, b.name), strings.Compare(a.hidden, b.hidden))
	}
	slices.SortStableFunc(was, byName)
	slices.SortStableFunc(is, byName)
	return was, is, more
}

func (o *keyOverrides) facts(key string) (facts []fact) {
	for i := range o.list {
		facts = append(facts, fact{subject: "override " + key, name: o.list[i].Limit, value: o.list[i].text()})
	}
	return facts
}

// bySubject maps subjects to their facts, which are sorted by name.
func bySubject(facts []fact) map[string][]fact {
	m := map[string][]fact{}
	for _, f := range facts {
		m[f.subject] = append(m[f.subject], f)
	}
	return m
}

func (f fact) text() string { return strings.TrimSpace(f.name + " " + f.value) }

func join(facts []fact) string {
	texts := make([]string, len(facts))
	for i, f := range facts {
		texts[i] = f.text()
	}
	return strings.Join(texts, ", ")
}

func diffSubject(subject string, before, after []fact) (lines []string) {
	for len(before) > 0 || len(after) > 0 {
		switch {
		case len(after) == 0 || len(before) > 0 && before[0].name < after[0].name:
			lines = append(lines, subject+": "+before[0].text()+" removed")
			before = before[1:]
		case len(before) == 0 || after[0].name < before[0].name:
			lines = append(lines, subject+": "+after[0].text()+" added")
			after = after[1:]
		default:
			if before[0].value != after[0].value {
				lines = append(lines, subject+": "+before[0].text()+" -> "+after[0].value)
			}
			before, after = before[1:], after[1:]
		}
	}
	return lines
}
