// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/limiter"
)

// A fact is one line of a policy's canonical content. Subject and name
// identify it. What is hidden counts, and is not shown.
type fact struct{ subject, name, value, hidden string }

// seal writes down what the policy means and derives digest and version.
func (p *Policy) seal() {
	add := func(subject, name, value string) {
		p.facts = append(p.facts, fact{subject: subject, name: name, value: value})
	}
	if p.defaultTier != nil {
		add("default_tier", "", p.defaultTier.name)
	}
	add("default_output_tokens", "", fmt.Sprint(p.defaultOutput))
	for _, t := range p.tiers {
		add("tier "+t.name, "estimate", estimateText(t.estimate))
		for i := range t.defs {
			add("tier "+t.name, t.defs[i].title(), t.defs[i].text())
		}
	}
	for _, r := range p.assign.rules {
		if r.tier != nil {
			add("assign "+r.pattern.text, "", r.tier.name)
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
	p.facts = append(p.facts, p.apiKeys.facts()...)
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
	sum := h.Sum(nil)
	p.digest = hex.EncodeToString(sum)
	p.version = binary.BigEndian.Uint64(sum)
}

// Digest is the SHA-256, in hex, of what the policy means: comments, layout
// and the order and number of files don't change it.
func (p *Policy) Digest() string { return p.digest }

// Version is the first 8 bytes of the digest.
func (p *Policy) Version() uint64 { return p.version }

// VersionString is [VersionString] of the policy's version.
func (p *Policy) VersionString() string { return VersionString(p.version) }

// VersionString writes a version as answers do: 16 hex digits.
func VersionString(version uint64) string { return fmt.Sprintf("%016x", version) }

// title is the name of a limit, with its dimension unless that is the name.
func (d *limitDef) title() string {
	if d.Name == string(d.Dimension) {
		return d.Name
	}
	return fmt.Sprintf("%s (%s)", d.Name, d.Dimension)
}

// text is all of a limit but its title; what is the default is left out.
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

func (v price) text() string {
	return fmt.Sprintf("input $%s, cached_input $%s, output $%s",
		formatDecimal(v.input, 6), formatDecimal(v.cachedInput, 6), formatDecimal(v.output, 6))
}

func weightsText(w limiter.Weights) string {
	return fmt.Sprintf("input %s, cached_input %s, output %s",
		formatDecimal(w.Input, 6), formatDecimal(w.CachedInput, 6), formatDecimal(w.Output, 6))
}

// Diff says in lines for people what changes from one policy to another, such
// as "tier free: tokens 10000/1m -> 20000/1m". Equal digests have no lines.
func Diff(from, to *Policy) []string {
	was, is := bySubject(from.facts), bySubject(to.facts)
	var subjects []string
	for s := range was {
		subjects = append(subjects, s)
	}
	for s := range is {
		if was[s] == nil {
			subjects = append(subjects, s)
		}
	}
	slices.Sort(subjects)
	var lines []string
	for _, s := range subjects {
		switch {
		case was[s] == nil:
			lines = append(lines, s+" added: "+join(is[s]))
		case is[s] == nil:
			lines = append(lines, s+" removed: "+join(was[s]))
		default:
			lines = append(lines, diffSubject(s, was[s], is[s])...)
		}
	}
	return lines
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

func diffSubject(subject string, was, is []fact) (lines []string) {
	for len(was) > 0 || len(is) > 0 {
		switch {
		case len(is) == 0 || len(was) > 0 && was[0].name < is[0].name:
			lines = append(lines, subject+": "+was[0].text()+" removed")
			was = was[1:]
		case len(was) == 0 || is[0].name < was[0].name:
			lines = append(lines, subject+": "+is[0].text()+" added")
			is = is[1:]
		default:
			if was[0].value != is[0].value {
				lines = append(lines, subject+": "+was[0].text()+" -> "+is[0].value)
			}
			was, is = was[1:], is[1:]
		}
	}
	return lines
}
