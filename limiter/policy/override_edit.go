// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
)

// overrideAt are the places of the fields of an override.
type overrideAt struct{ key, limit, value, until Place }

// overrideDef is an override that is set, with the places of its fields.
type overrideDef struct {
	Override
	place overrideAt
}

// overridesEdit collects the changes of overrides, and what else may concern them.
type overridesEdit struct {
	table   *tableEdit[string, *keyOverrides]
	changed map[string]map[string]*overrideDef // by key and limit; nil: removed
	touched map[string]bool                    // keys with overrides whose tier may be another
	set     int                                // in this edit
	// apiKeyTiers has the tiers that API keys give to keys, once they are needed.
	apiKeyTiers map[string][]uint32
}

func editOverrides(r *rows) *overridesEdit {
	return &overridesEdit{
		table:   editTable(r.overrides, keyIndex, strings.Compare, appendOverrides),
		changed: map[string]map[string]*overrideDef{}, touched: map[string]bool{},
	}
}

// touch notes that the tier of a key may change.
func (o *overridesEdit) touch(key string) {
	if o.table.table.root != nil {
		if _, ok := o.table.get(key); ok {
			o.touched[key] = true
		}
	}
}

// overrideRow sets an override. What depends on the tier of its key is checked when the
// edit is finished.
func (e *rowsEdit) overrideRow(v Override, at overrideAt) {
	ok := true
	bad := func(at Place, format string, args ...any) {
		e.problem(at, "", format, args...)
		ok = false
	}
	switch err := limiter.ValidateKey(v.Key); {
	case err != nil:
		bad(at.key, "key %s", err)
	case strings.Contains(v.Key, "*"):
		bad(at.key, "an override is for one key, got the pattern %s: give its keys a tier with other limits", text.Quote(v.Key))
	}
	if len(v.Limit) > maxWord || !nameSyntax.MatchString(v.Limit) {
		bad(at.limit, "limit must be the name of a limit: 1 to %d letters, digits and any of . _ : -, got %s", maxWord, text.Quote(v.Limit))
	}
	if _, problem := parseUntil(v.Until, nil); problem != "" {
		bad(at.until, "until %s, got %s", problem, text.Quote(v.Until))
	}
	if len(v.Reason) > maxReason || !printable(v.Reason) {
		bad(v.At, "reason must be printable text of at most %d bytes", maxReason)
	}
	if !ok {
		return
	}
	changed := e.overrides.changed[v.Key]
	if changed == nil {
		changed = map[string]*overrideDef{}
		e.overrides.changed[v.Key] = changed
	}
	if first := changed[v.Limit]; first != nil {
		e.problem(at.key, "", "%s of %s is overridden twice, first at %s: leave one of them", v.Limit, v.Key, first.At)
		return
	}
	if !e.room(at.key, "overrides", e.rows.overrideCount+e.overrides.set, e.p.most.overrides) {
		return
	}
	e.overrides.set++
	changed[v.Limit] = &overrideDef{v, at}
}

// removeOverride removes an override, if it is there and not set in this edit.
func (e *rowsEdit) removeOverride(key, limit string) {
	changed := e.overrides.changed[key]
	if changed == nil {
		changed = map[string]*overrideDef{}
		e.overrides.changed[key] = changed
	}
	if changed[limit] == nil {
		changed[limit] = nil
	}
}

// finishOverrides compiles the overrides that changed, or whose key may have another tier
// than before. The tiers and the other rows are final.
func (e *rowsEdit) finishOverrides(policy *Policy) {
	o := e.overrides
	keys := map[string]bool{}
	for key := range o.changed {
		keys[key] = true
	}
	for key := range o.touched {
		keys[key] = true
	}
	if e.defined != nil || len(e.patterns) > 0 {
		o.table.table.all(func(key string, _ *keyOverrides) { keys[key] = true })
	}
	for key := range keys {
		var list []override
		had, _ := o.table.get(key)
		if had != nil {
			for i := range had.list {
				if _, changed := o.changed[key][had.list[i].Limit]; !changed {
					v := had.list[i].Override
					at := e.rows.place(had.list[i].at)
					list = e.compileOverride(policy, list, &overrideDef{v, overrideAt{at, at, at, at}})
				}
			}
		}
		for _, d := range o.changed[key] {
			if d != nil {
				list = e.compileOverride(policy, list, d)
			}
		}
		if had != nil {
			e.rows.overrideCount -= len(had.list)
		}
		e.rows.overrideCount += len(list)
		switch {
		case len(list) > 0:
			o.table.set(key, newKeyOverrides(list))
		case had != nil:
			o.table.remove(key)
		}
	}
	e.rows.overrides = o.table.done()
}

// compileOverride appends an override, unless there is a problem.
func (e *rowsEdit) compileOverride(policy *Policy, list []override, v *overrideDef) []override {
	t, l := e.overridden(policy, v)
	if l == nil {
		return list
	}
	d := override{Override: v.Override, at: e.at(v.At), dimension: l.Dimension}
	if t != nil {
		d.zone = t.zone
	}
	var problem string
	if d.end, problem = parseUntil(v.Until, d.zone); problem != "" {
		e.problem(v.place.until, "", "until %s, got %s", problem, text.Quote(v.Until))
		return list
	}
	what := fmt.Sprintf("the value for %s of %s", v.Limit, v.Key)
	amount, win, windowed := strings.Cut(v.Value, "/")
	var err error
	if d.amount, err = ParseAmount(d.dimension, strings.TrimSpace(amount)); err != nil {
		e.problem(v.place.value, "", "%s %v, got %s", what, err, text.Quote(v.Value))
		return list
	}
	if d.windowed = windowed; windowed {
		win = strings.TrimSpace(win)
		if d.window, err = parseWindow(win); err != nil {
			e.problem(v.place.value, suggestWindow(win), "%s: window %v, got %s", what, err, text.Quote(v.Value))
			return list
		}
	}
	// A call may name another tier than that of the key.
	for i := range policy.limitsByName[v.Limit] {
		other := &policy.limitsByName[v.Limit][i]
		if other.limit.Dimension != d.dimension {
			continue
		}
		if problem := d.check(&other.limit); problem != "" {
			e.problem(v.place.value, "", "%s cannot be used for this limit of tier %s: %s, got %s", what, other.tier, problem, text.Quote(v.Value))
			return list
		}
	}
	return append(list, d)
}

// overridden returns the tier that the key of an override has, and the limit that is
// overridden; nil if there is none, which is a problem. A call may name its tier, and so
// may an API key, so other tiers are looked at if that of the key has no such limit.
func (e *rowsEdit) overridden(policy *Policy, v *overrideDef) (*tier, *limiter.Limit) {
	t := e.rows.assigned(v.Key, segmentsOf(v.Key))
	if t == nil {
		t = policy.defaultTier
	}
	if t != nil {
		if l := t.limit(v.Limit); l != nil {
			return t, l
		}
	}
	for _, id := range e.tiersOfAPIKeys(v.Key) {
		if named := e.rows.byID[id]; named != nil {
			if l := named.limit(v.Limit); l != nil {
				return named, l
			}
		}
	}
	if e.p.mayHave(v.Limit) {
		return nil, nil
	}
	if t != nil {
		names := make([]string, len(t.defs))
		for i := range t.defs {
			names[i] = t.defs[i].Name
		}
		e.problem(v.place.limit, nearest.Word(v.Limit, names), "tier %s of %s has no limit %s", t.name, v.Key, text.Quote(v.Limit))
		return nil, nil
	}
	candidates := policy.limitsByName[v.Limit]
	for i := range candidates {
		if e.p.broken { // the tier of the key may be missing
			break
		}
		if candidates[i].limit.Dimension != candidates[0].limit.Dimension {
			e.problem(v.place.limit, "", "%s has no tier, and limits %s of tiers %s and %s are in different dimensions: assign a tier to it",
				v.Key, v.Limit, candidates[0].tier, candidates[i].tier)
			return nil, nil
		}
	}
	if len(candidates) == 0 {
		names := make([]string, 0, len(policy.limitsByName))
		for name := range policy.limitsByName {
			names = append(names, name)
		}
		slices.Sort(names)
		near := ""
		if len(names) <= maxCompared {
			near = nearest.Word(v.Limit, names)
		}
		e.problem(v.place.limit, near, "no tier has a limit %s", text.Quote(v.Limit))
		return nil, nil
	}
	return nil, &candidates[0].limit
}

// tiersOfAPIKeys returns the tiers that API keys give to a key, in order of their names.
func (e *rowsEdit) tiersOfAPIKeys(key string) []uint32 {
	o := e.overrides
	if o.apiKeyTiers == nil {
		o.apiKeyTiers = map[string][]uint32{}
		e.rows.apiKeys.all(func(_ sha256Sum, k apiKey) {
			if ids := o.apiKeyTiers[k.key]; k.tier != noTier && !slices.Contains(ids, k.tier) {
				o.apiKeyTiers[k.key] = append(ids, k.tier)
			}
		})
		for _, ids := range o.apiKeyTiers {
			slices.SortFunc(ids, func(a, b uint32) int { return cmp.Compare(e.rows.tiers.list[a], e.rows.tiers.list[b]) })
		}
	}
	return o.apiKeyTiers[key]
}

// limit returns the limit with a name; nil if there is none.
func (t *tier) limit(name string) *limiter.Limit {
	for i := range t.defs {
		if t.defs[i].Name == name {
			return &t.defs[i].Limit
		}
	}
	return nil
}

// namedLimit is a limit of a tier.
type namedLimit struct {
	tier  string // the first by name
	limit limiter.Limit
}

// indexLimits finds the limits with a name. Of those with the same dimension and algorithm
// it keeps the first, since the values that can be used for them are the same.
func (p *Policy) indexLimits() {
	p.limitsByName = map[string][]namedLimit{}
	for _, name := range p.tierNames {
		if p.tiers[name] == nil {
			continue
		}
		for i := range p.tiers[name].defs {
			l := p.tiers[name].defs[i].Limit
			known := p.limitsByName[l.Name]
			if !slices.ContainsFunc(known, func(n namedLimit) bool {
				return n.limit.Dimension == l.Dimension && n.limit.Algorithm == l.Algorithm
			}) {
				p.limitsByName[l.Name] = append(known, namedLimit{name, l})
			}
		}
	}
}

// parseUntil reads the end of an override: a time, or a date in a zone; nil is UTC.
func parseUntil(s string, zone *time.Location) (end int64, problem string) {
	if zone == nil {
		zone = time.UTC
	}
	t, err := time.ParseInLocation(time.DateOnly, s, zone)
	if err != nil {
		t, err = time.Parse(time.RFC3339, s)
	}
	if err != nil {
		return 0, "must be a date such as 2026-12-24, at whose beginning it ends, or a time such as 2026-12-24T18:00:00Z"
	}
	if year := t.Year(); year < minUntilYear || year > maxUntilYear {
		return 0, fmt.Sprintf("must be in the years %d to %d", minUntilYear, maxUntilYear)
	}
	return t.UnixNano(), ""
}

// overrideSentence is an override as a sentence.
var overrideSentence = regexp.MustCompile(`^(raise|lower|set) (\S+) (\S+) to (\S+) until (\S+?)(?: because (.+))?$`)

// ParseOverride reads an override as a sentence, such as
//
//	raise acme/alice tokens to 500_000/min until 2026-12-24 because REASON
//
// The first word may be raise, lower or set, and means the same: what the limit is in
// the tier is not looked at. The entry is checked when it is set in a policy.
func ParseOverride(sentence string) (Override, error) {
	m := overrideSentence.FindStringSubmatch(strings.Join(strings.Fields(sentence), " "))
	if m == nil {
		if !strings.Contains(sentence, " until ") {
			return Override{}, fmt.Errorf("must end, as in raise acme/alice tokens to 500_000/min until 2026-12-24, got %s", text.Quote(sentence))
		}
		return Override{}, fmt.Errorf("must be a sentence such as raise acme/alice tokens to 500_000/min until 2026-12-24 because REASON, got %s", text.Quote(sentence))
	}
	return Override{Key: m[2], Limit: m[3], Value: m[4], Until: m[5], Reason: m[6]}, nil
}
