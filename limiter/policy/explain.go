// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/bucketring/bucketring/limiter"
)

// A Call is the reserve that [Policy.Explain] explains.
type Call struct {
	Key   string // must be valid
	Tier  string // as named by the caller; may be empty
	Model string

	Requests     int64
	InputTokens  int64
	OutputTokens int64 // maximum of one choice; negative: the default of the policy
	Costs        []limiter.Cost
	ServiceTier  string           // that is asked for; may be empty
	Priority     limiter.Priority // that is asked for
	Now          limiter.Time
}

// An Explanation says which limits apply to a call, why, and how the call would be
// decided on a key without usage.
type Explanation struct {
	Key           string           `json:"key"`
	Tier          string           `json:"tier"` // of the most specific level
	Model         string           `json:"model,omitempty"`
	PolicyVersion string           `json:"policy_version"`
	Requests      int64            `json:"requests"`
	InputTokens   int64            `json:"input_tokens"`
	OutputTokens  int64            `json:"output_tokens"`
	Priority      string           `json:"priority"` // the class of the call
	Weight        int64            `json:"weight"`   // among those who wait
	Levels        []ExplainedLevel `json:"levels"`
	Limits        []ExplainedLimit `json:"limits"`
	Price         *ExplainedPrice  `json:"price,omitempty"` // nil: the model has none
	Weights       string           `json:"weights"`
	// Outcome and Reason are those on a key without usage. Binding is the index in
	// Limits of the limit that denies the call or, if it is allowed, of the one with
	// the smallest share remaining; -1 if there is none.
	Outcome             string `json:"outcome"`
	Reason              string `json:"reason,omitempty"`
	GrantedOutputTokens int64  `json:"granted_output_tokens"`
	Binding             int    `json:"binding"`
}

// ExplainedLevel is one level of the key. Tier is empty if it has none.
type ExplainedLevel struct {
	Scope    string `json:"scope"`
	Tier     string `json:"tier,omitempty"`
	Why      string `json:"why"`
	Estimate string `json:"estimate,omitempty"`
	// Rules are all assign rules that match the scope, most specific first.
	Rules []ExplainedRule `json:"rules,omitempty"`
	// Overrides are those of the scope, the first to end first.
	Overrides []ExplainedOverride `json:"overrides,omitempty"`
}

// ExplainedOverride is an override of a limit of a level.
type ExplainedOverride struct {
	Limit   string `json:"limit"`
	Value   string `json:"value"`
	Tier    string `json:"tier_value,omitempty"` // the limit in the tier, as in [Diff]; empty if the tier lacks it
	Until   string `json:"until"`                // RFC 3339; then the limit is that of the tier again
	Reason  string `json:"reason,omitempty"`
	At      string `json:"at"` // file:line:column
	InForce bool   `json:"in_force"`
	Ended   bool   `json:"ended"`
}

// ExplainedRule is an assign rule.
type ExplainedRule struct {
	Key  string `json:"key"`
	Tier string `json:"tier"`
	At   string `json:"at"`   // file:line:column
	Wins bool   `json:"wins"` // it gives the level its tier
}

// ExplainedLimit is a limit at one level. Amounts are in units of the dimension:
// micros of a dollar for spend.
type ExplainedLimit struct {
	Scope     string   `json:"scope"`
	Tier      string   `json:"tier"`
	Name      string   `json:"name"`
	Dimension string   `json:"dimension"`
	Algorithm string   `json:"algorithm"`
	Limit     int64    `json:"limit"`
	Window    string   `json:"window,omitempty"`
	Capacity  int64    `json:"capacity"` // the most that one call can cost
	Models    []string `json:"models,omitempty"`
	Shadow    bool     `json:"shadow,omitempty"`
	Hidden    bool     `json:"hidden,omitempty"`   // show: false
	Text      string   `json:"text"`               // as in [Diff]
	Headroom  int64    `json:"headroom,omitempty"` // what the class of the call must leave free
	// MaxWait and MaxDepth are those of the queue; absent if no call waits at the limit.
	MaxWait   string `json:"max_wait,omitempty"`
	MaxDepth  int64  `json:"max_depth,omitempty"`
	Cost      int64  `json:"cost"`
	Remaining int64  `json:"remaining"` // after the call
	Exceeded  bool   `json:"exceeded"`
}

// ExplainedPrice is the price of a model, in micros of a dollar per million tokens, with
// fees in micros of a dollar each.
type ExplainedPrice struct {
	Key          string `json:"key"` // name or pattern under prices
	Input        int64  `json:"input"`
	CachedInput  int64  `json:"cached_input"`
	CacheWrite   int64  `json:"cache_write"`
	CacheWrite1h int64  `json:"cache_write_1h"`
	Output       int64  `json:"output"`
	Request      int64  `json:"request,omitempty"`
	Image        int64  `json:"image,omitempty"`
	Search       int64  `json:"search,omitempty"`
	// ServiceTiers are factors of the prices of tokens, as decimals.
	ServiceTiers map[string]string `json:"service_tiers,omitempty"`
	Text         string            `json:"text"`
}

// Explain resolves c and decides it on a new, empty engine. Its errors are those of
// [Policy.Resolve] and [limiter.Engine.Reserve].
func (p *Policy) Explain(c Call) (*Explanation, error) {
	var plan limiter.Plan
	if err := p.Resolve(c.Now, c.Key, c.Tier, c.Model, &plan); err != nil {
		return nil, err
	}
	if c.OutputTokens < 0 {
		c.OutputTokens = plan.DefaultOutput
	}
	var d limiter.Decision
	engine := limiter.New(limiter.Options{Catalog: p.catalog})
	err := engine.Reserve(c.Now, &limiter.Request{
		Key: c.Key, Tier: c.Tier, Model: c.Model, ID: "explain", Plan: &plan,
		Requests: c.Requests, InputTokens: c.InputTokens, OutputTokens: c.OutputTokens, Costs: c.Costs, ServiceTier: c.ServiceTier,
		Priority: c.Priority,
	}, &d)
	if err != nil {
		return nil, err
	}
	class, err := plan.Class(c.Priority)
	if err != nil {
		return nil, err
	}
	x := &Explanation{
		Priority: class.String(), Weight: max(plan.Weight, 1),
		Key: c.Key, Tier: plan.Tier, Model: c.Model, PolicyVersion: p.VersionString(),
		Requests: c.Requests, InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
		Levels:  p.explainLevels(c, &plan),
		Weights: weightsText(plan.Rates.Weights),
		Outcome: d.Outcome.String(), Reason: d.Reason.String(), GrantedOutputTokens: d.GrantedOutputTokens, Binding: d.Binding,
	}
	for i := range d.Limits {
		x.Limits = append(x.Limits, p.explainLimit(&d.Limits[i], &plan, c.Key))
	}
	if e := p.prices.find(c.Model); e != nil {
		x.Price = e.value.explain(e.pattern.text)
	}
	return x, nil
}

func (v *price) explain(key string) *ExplainedPrice {
	x := &ExplainedPrice{
		Key: key, Input: v.input, CachedInput: v.cachedInput, CacheWrite: v.cacheWrite, CacheWrite1h: v.cacheWrite1h, Output: v.output,
		Request: v.request, Image: v.image, Search: v.search, Text: v.text(),
	}
	for name, factor := range v.serviceTiers.All() {
		if x.ServiceTiers == nil {
			x.ServiceTiers = map[string]string{}
		}
		x.ServiceTiers[name] = formatDecimal(factor, 6)
	}
	return x
}

func (p *Policy) explainLevels(c Call, plan *limiter.Plan) (levels []ExplainedLevel) {
	end := 0
	for segments := 1; end < len(c.Key); segments++ {
		if next := strings.IndexByte(c.Key[end+1:], '/'); next >= 0 {
			end += 1 + next
		} else {
			end = len(c.Key)
		}
		l := ExplainedLevel{Scope: c.Key[:end]}
		rule := func(key string, a assigned) {
			wins := len(l.Rules) == 0 && (c.Tier == "" || end < len(c.Key))
			l.Rules = append(l.Rules, ExplainedRule{key, p.rows.tiers.list[a.tier], p.place(a.at).String(), wins})
		}
		if a, ok := p.assign.get(keyIndex(l.Scope), l.Scope); ok {
			rule(l.Scope, a)
		}
		for i := range p.patterns.rules {
			r := &p.patterns.rules[i]
			if r.segments == segments && r.pattern.text != l.Scope && r.pattern.match(l.Scope, '/') {
				rule(r.pattern.text, r.assigned)
			}
		}
		for _, resolved := range plan.Levels[:plan.Count] {
			if resolved.End == end {
				l.Tier, l.Estimate = resolved.Tier, estimateText(resolved.Estimate)
			}
		}
		l.Overrides = p.explainOverrides(&l, c.Now)
		l.Why = tierReason(&l, end == len(c.Key), c.Tier != "")
		levels = append(levels, l)
	}
	return levels
}

func (p *Policy) explainOverrides(l *ExplainedLevel, now limiter.Time) (list []ExplainedOverride) {
	o, ok := p.overrides.get(keyIndex(l.Scope), l.Scope)
	if !ok {
		return nil
	}
	for i := range o.list {
		d := &o.list[i]
		x := ExplainedOverride{Limit: d.Limit, Value: d.valueText(), Until: d.endText(), Reason: d.Reason, At: p.place(d.at).String(), Ended: now.Wall >= d.end}
		if t := p.tiers[l.Tier]; t != nil {
			for j := range t.defs {
				if t.defs[j].Name == d.Limit && t.defs[j].Dimension == d.dimension {
					x.Tier, x.InForce = t.defs[j].text(), !x.Ended
				}
			}
		}
		list = append(list, x)
	}
	return list
}

// String returns the override as a line for people.
func (x *ExplainedOverride) String() string {
	what := fmt.Sprintf("override of %s: %s until %s", x.Limit, x.Value, x.Until)
	switch {
	case x.Ended:
		what = fmt.Sprintf("override of %s: %s ended at %s, the limit is that of the tier", x.Limit, x.Value, x.Until)
	case !x.InForce:
		what += ", not in force: the tier has no such limit"
	default:
		what += fmt.Sprintf(", instead of %s", x.Tier)
	}
	if x.Reason != "" {
		what += fmt.Sprintf(" (%s)", x.Reason)
	}
	return what + " at " + x.At
}

// tierReason says why a level has its tier. full means that the level is the whole
// key, named that the call names a tier.
func tierReason(l *ExplainedLevel, full, named bool) string {
	switch {
	case full && named:
		return "named by the call"
	case len(l.Rules) == 0 && l.Tier != "":
		return "default_tier"
	case len(l.Rules) == 0:
		return "no rule matches"
	case l.Rules[0].Key == l.Scope:
		return fmt.Sprintf("assign %q, the exact key", l.Rules[0].Key)
	case len(l.Rules) == 1:
		return fmt.Sprintf("assign %q, the only rule that matches", l.Rules[0].Key)
	}
	return fmt.Sprintf("assign %q, the most specific of %d rules that match", l.Rules[0].Key, len(l.Rules))
}

func (p *Policy) explainLimit(s *limiter.LimitState, plan *limiter.Plan, key string) ExplainedLimit {
	level := slices.IndexFunc(plan.Levels[:plan.Count], func(l limiter.Level) bool { return key[:l.End] == s.Scope })
	t := p.tiers[plan.Levels[level].Tier]
	d := t.defs[slices.IndexFunc(t.defs, func(d limitDef) bool { return d.Name == s.Name })]
	for _, set := range []*limiter.LimitSet{plan.Levels[level].Limits, plan.Levels[level].Model} {
		if set == nil {
			continue
		}
		if i := slices.IndexFunc(set.Limits(), func(l limiter.Limit) bool { return l.Name == s.Name }); i >= 0 {
			d.Limit = set.Limits()[i] // as it is with an override
		}
	}
	x := ExplainedLimit{
		Scope: s.Scope, Tier: t.name, Name: s.Name, Dimension: string(s.Dimension),
		Algorithm: s.Algorithm.String(), Limit: s.Limit, Capacity: s.Capacity, Shadow: s.Shadow, Hidden: s.Hidden, Text: d.text(),
		Cost: s.Cost, Remaining: s.Remaining, Exceeded: s.Exceeded, Headroom: s.Headroom, MaxDepth: d.Queue.MaxDepth,
	}
	if d.Queue.MaxWait > 0 {
		x.MaxWait = FormatDuration(d.Queue.MaxWait)
	}
	if d.Algorithm != limiter.Concurrency {
		x.Window = formatWindow(&d.Limit)
	}
	for _, m := range d.models {
		x.Models = append(x.Models, m.text)
	}
	return x
}

// String returns the explanation as text for people.
func (x *Explanation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "key %s", x.Key)
	if x.Model != "" {
		fmt.Fprintf(&b, ", model %s", x.Model)
	}
	fmt.Fprintf(&b, ", policy %s\n", x.PolicyVersion)
	fmt.Fprintf(&b, "reserve: requests %d, input tokens %d, max output tokens %d\n", x.Requests, x.InputTokens, x.OutputTokens)
	if x.Priority != limiter.Standard.String() || x.Weight != 1 || x.hasClasses() {
		fmt.Fprintf(&b, "priority %s, weight %d\n", x.Priority, x.Weight)
	}
	b.WriteByte('\n')
	for _, l := range x.Levels {
		if l.Tier == "" {
			fmt.Fprintf(&b, "%s: no tier (%s)\n", l.Scope, l.Why)
		} else {
			fmt.Fprintf(&b, "%s: tier %s (%s)\n", l.Scope, l.Tier, l.Why)
		}
		for _, r := range l.Rules {
			verb := "also matches"
			if r.Wins {
				verb = "matches"
			}
			fmt.Fprintf(&b, "  %s %q -> %s at %s\n", verb, r.Key, r.Tier, r.At)
		}
		for i := range l.Overrides {
			fmt.Fprintf(&b, "  %s\n", &l.Overrides[i])
		}
	}
	if len(x.Limits) > 0 {
		b.WriteByte('\n')
		x.writeLimits(&b)
	}
	b.WriteByte('\n')
	if x.Price == nil {
		b.WriteString("price: none\n")
	} else {
		fmt.Fprintf(&b, "price %q per million tokens: %s\n", x.Price.Key, x.Price.Text)
	}
	fmt.Fprintf(&b, "weights: %s\n", x.Weights)
	b.WriteString(x.outcomeLine())
	return b.String()
}

// hasClasses reports whether the priority of the call makes a difference.
func (x *Explanation) hasClasses() bool {
	return slices.ContainsFunc(x.Limits, func(l ExplainedLimit) bool { return l.MaxWait != "" || strings.Contains(l.Text, " headroom=") })
}

func (x *Explanation) writeLimits(b *strings.Builder) {
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "SCOPE\tLIMIT\tDIMENSION\tAMOUNT\tCOST\tREMAINING\t\n")
	for i, l := range x.Limits {
		mark := ""
		switch {
		case i == x.Binding && x.Outcome == limiter.Denied.String():
			mark = "denies"
		case i == x.Binding:
			mark = "binds first"
		case l.Exceeded && l.Shadow:
			mark = "would deny (shadow)"
		case l.Exceeded:
			mark = "denies too"
		}
		d := limiter.Dimension(l.Dimension)
		if l.Headroom > 0 {
			mark = strings.TrimPrefix(mark+", leaves "+FormatAmount(d, l.Headroom)+" free", ", ")
		}
		cost := FormatAmount(d, l.Cost)
		if d == limiter.Spend && x.Price == nil {
			cost = "no price"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\t%s\n",
			l.Scope, l.Name, l.Dimension, l.Text, cost, FormatAmount(d, l.Remaining), mark)
	}
	_ = w.Flush() // writes to a strings.Builder do not fail
	for line := range strings.Lines(table.String()) {
		b.WriteString(strings.TrimRight(line, " \n") + "\n")
	}
}

// outcomeLine is the last line of the text.
func (x *Explanation) outcomeLine() string {
	s := "on a key without usage: " + x.Outcome
	if x.Outcome == limiter.Degraded.String() {
		s += fmt.Sprintf(" to %d output tokens", x.GrantedOutputTokens)
	}
	if x.Reason != "" {
		s += ", " + x.Reason
	}
	if x.Binding >= 0 {
		l := x.Limits[x.Binding]
		s += fmt.Sprintf(", bound by %s of %s", l.Name, l.Scope)
	}
	return s + "\n"
}
