// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"regexp"
	"slices"
	"strings"
	"time"
	_ "time/tzdata" // for machines without a zone database

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// tierDef is a tier as the files define it.
type tierDef struct {
	name       string
	at         yamldoc.Node
	zone       *time.Location // nil: UTC
	estimate   limiter.Estimate
	bound      bool // bound_output
	weight     int64
	classes    classes
	limits     []limitDef
	limitNames map[string]yamldoc.Node // including limits with problems
}

// limitDef is a limit with its models and the place of each of its properties.
type limitDef struct {
	limiter.Limit
	models []pattern // sorted; nil: every model
	node   yamldoc.Node
	at     map[string]yamldoc.Node
}

var (
	shorthandKeys = dimensionNames()
	tierKeys      = append([]string{"zone", "estimate", "bound_output", "weight", "priority", "limits"}, shorthandKeys...)
	limitKeys     = []string{"name", "dimension", "limit", "window", "starts", "burst", "algorithm", "on_exceed", "mode", "unreachable", "durability", "show", "slices", "queue", "headroom", "models"}
)

func dimensionNames() []string {
	names := make([]string, len(limiter.BuiltinDimensions))
	for i, d := range limiter.BuiltinDimensions {
		names[i] = string(d)
	}
	return names
}

func (p *parser) parseTiers(n yamldoc.Node) {
	for _, f := range p.r.Fields(n, "tiers", nil) {
		name, ok := p.name(f.Key, "the name of a tier")
		if !ok || !p.define(f.Key, tierKey(name)) {
			p.unnamed = true
			continue
		}
		if !p.room(f.Key, "tiers", len(p.tierNames), p.most.tiers) {
			break
		}
		p.tierNames = append(p.tierNames, name)
		if f.Value.IsNull() {
			p.r.Problem(f.Key, "tier %q is empty: write {} for a tier without limits", name)
			continue
		}
		p.unnamed = p.unnamed || !f.Value.IsMapping()
		t := &tierDef{name: name, at: f.Key, weight: 1, classes: usualClasses, limitNames: map[string]yamldoc.Node{}}
		p.parseTier(t, p.r.Fields(f.Value, "tier "+name, tierKeys))
		p.tiers = append(p.tiers, t)
	}
}

func (p *parser) parseTier(t *tierDef, fields []yamldoc.Field) {
	for _, f := range fields { // the zone first: limits need it
		if f.Name == "zone" {
			t.zone = p.parseZone(f.Value)
		}
	}
	for _, f := range fields {
		switch f.Name {
		case "zone":
		case "estimate":
			t.estimate = p.parseEstimate(f.Value)
		case "bound_output":
			t.bound, _ = p.boolean(f.Value, f.Name)
		case "weight":
			t.weight = p.parseWeight(f.Value)
		case "priority":
			t.classes = p.parsePriority(f.Value)
		case "limits":
			if p.shortInLimits(f.Value, t) {
				break
			}
			for _, item := range p.r.Items(f.Value, "limits of tier "+t.name) {
				if !p.room(item, "limits per tier", len(t.limitNames), p.most.limits) {
					break
				}
				p.parseLimit(t, item)
			}
		default:
			p.parseShorthand(t, f)
		}
	}
	p.checkBursts(t)
}

func (p *parser) parseZone(n yamldoc.Node) *time.Location {
	name, ok := p.r.Text(n, "zone")
	if !ok {
		return nil
	}
	zone, err := time.LoadLocation(name)
	if err != nil || name == "" || name == "Local" {
		p.r.Suggest(n, nearestZone(name), "zone must be an IANA time zone such as America/New_York, got %s", text.Quote(name))
		return nil
	}
	if zone == time.UTC {
		return nil
	}
	return zone
}

func (p *parser) parseEstimate(n yamldoc.Node) (e limiter.Estimate) {
	if !n.IsMapping() {
		if i, ok := p.r.Word(n, "estimate, unless it is { mode: fixed, output_tokens: N },", "max", "input"); ok {
			e.Mode = []limiter.EstimateMode{limiter.EstimateMax, limiter.EstimateInput}[i]
		}
		return e
	}
	modes := []limiter.EstimateMode{limiter.EstimateMax, limiter.EstimateInput, limiter.EstimateFixed}
	var mode, output yamldoc.Node
	for _, f := range p.r.Fields(n, "estimate", []string{"mode", "output_tokens"}) {
		switch f.Name {
		case "mode":
			mode = f.Value
			if i, ok := p.r.Word(mode, "mode", "max", "input", "fixed"); ok {
				e.Mode = modes[i]
			}
		case "output_tokens":
			output = f.Value
			e.Output, _ = p.count(output, "output_tokens")
		}
	}
	switch {
	case !mode.Exists():
		p.r.Problem(n, "estimate needs a mode: max, input or fixed")
	case e.Mode == limiter.EstimateFixed && !output.Exists():
		p.r.Problem(mode, "estimate mode fixed needs output_tokens")
	case e.Mode != limiter.EstimateFixed && output.Exists():
		p.r.Problem(output, "output_tokens is only for estimate mode fixed")
	}
	return e
}

// parseShorthand reads the short form of a limit: dimension: amount/window, or
// concurrent: amount, or a list of several windows.
func (p *parser) parseShorthand(t *tierDef, f yamldoc.Field) {
	what := "tier " + t.name + ": " + f.Name
	switch {
	case f.Value.IsMapping():
		p.r.Problem(f.Value, "%s must be an amount, as in 10/min, or a list of them, got a mapping: a limit with more settings is an item of limits", what)
		return
	case !f.Value.IsList():
		p.parseShort(t, f.Key, f.Value, f.Name, "")
		return
	}
	if f.Name == string(limiter.Concurrent) {
		p.r.Problem(f.Value, "%s must be a single value, got a list", what)
		return
	}
	items := p.r.Items(f.Value, what)
	if len(items) == 0 {
		p.r.Problem(f.Value, "%s needs at least one amount; leave it out for no limit", what)
	}
	for i := 0; i < len(items); i++ {
		item := items[i]
		value, ok := p.r.Text(item, what)
		if !ok {
			continue
		}
		if n, amount := yamldoc.Thousands(items[i:]); n > 1 {
			p.r.Problem(item, "%s: a comma ends an item of a list: write %s", what, amount)
			i += n - 1
			continue
		}
		if !p.room(item, "limits per tier", len(t.limitNames), p.most.limits) {
			break
		}
		_, win := cutRate(value)
		p.parseShort(t, item, item, f.Name, "-"+windowWord(win))
	}
}

// parseShort reads a limit of the short form. Its name is that of the dimension, and suffix.
func (p *parser) parseShort(t *tierDef, key, n yamldoc.Node, dimension, suffix string) {
	d := limitDef{node: n, at: map[string]yamldoc.Node{"name": key, "dimension": key}}
	d.Name, d.Dimension = dimension+suffix, limiter.Dimension(dimension)
	d.Unreachable = defaultUnreachable(d.Dimension)
	what := "tier " + t.name + ": " + dimension
	unique := p.limitName(t, key, d.Name)
	value, ok := p.r.Text(n, what)
	if !ok {
		return
	}
	amount, win := cutRate(value)
	var err error
	if d.Amount, err = ParseAmount(d.Dimension, amount); err != nil {
		if hint := howToWrite(d.Dimension, amount, win); hint != "" {
			p.r.Problem(n, "%s %v, got %s: %s", what, err, text.Quote(value), hint)
		} else {
			p.r.Problem(n, "%s %v, got %s", what, err, text.Quote(value))
		}
		return
	}
	hasWindow := win != "" || strings.Contains(value, "/")
	switch {
	case d.Dimension == limiter.Concurrent && hasWindow:
		p.r.Problem(n, "%s takes no window, got %s: write %s", what, text.Quote(value), text.Shorten(amount, text.MaxShown))
		return
	case d.Dimension != limiter.Concurrent && !hasWindow:
		usual := "min"
		if d.Dimension == limiter.Spend {
			usual = "day"
		}
		p.r.Problem(n, "%s needs a window, as in %s/%s", what, text.Shorten(value, text.MaxShown), usual)
		return
	}
	if p.finishLimit(t, &d, win, n, what) && unique {
		t.limits = append(t.limits, d)
	}
}

// perWindow separates an amount from its window.
var perWindow = regexp.MustCompile(`\s*/\s*|\s+per\s+`)

// cutRate returns the amount and the window of "10/min" or "10 per minute".
func cutRate(value string) (amount, win string) {
	value = strings.TrimSpace(value)
	if at := perWindow.FindStringIndex(value); at != nil {
		return value[:at[0]], value[at[1]:]
	}
	return value, ""
}

// windowWord returns the word for a window in the name of a limit: minute for min and for 1m.
func windowWord(win string) string {
	w, err := parseWindow(win)
	switch {
	case err != nil:
		return win
	case w.calendar != limiter.NoCalendar:
		return formatWindow(&limiter.Limit{Calendar: w.calendar})
	case w.length == time.Minute:
		return "minute"
	case w.length == time.Second:
		return "second"
	}
	return FormatDuration(w.length)
}

// limitName records the name of a limit at n. A repeated name is a problem; it then
// returns false.
func (p *parser) limitName(t *tierDef, n yamldoc.Node, name string) bool {
	if first, dup := t.limitNames[name]; dup {
		p.r.Problem(n, "tier %s has two limits named %q, first at %s: give one of them another name", t.name, name, first.At())
		return false
	}
	t.limitNames[name] = n
	return true
}

var dimensionSyntax = regexp.MustCompile(`^[a-z][a-z0-9_]*$`)

// parseLimit reads the long form of a limit.
func (p *parser) parseLimit(t *tierDef, n yamldoc.Node) {
	if p.shortInLimits(n, t) {
		return
	}
	d := limitDef{node: n, at: map[string]yamldoc.Node{}}
	what := "a limit of tier " + t.name
	for _, f := range p.r.Fields(n, what, limitKeys) {
		d.at[f.Name] = f.Value
	}
	if !n.IsMapping() {
		p.unnamed = true
		return
	}
	ok := p.limitIdentity(t, &d, what)
	p.unnamed = p.unnamed || d.Name == ""
	if d.Name != "" {
		what = "tier " + t.name + ", limit " + d.Name
	}
	if v, has := d.at["limit"]; !has {
		p.r.Problem(n, "%s needs a limit", what)
		ok = false
	} else if d.Dimension != "" {
		ok = p.limitAmount(&d, v, what) && ok
	}
	if v, has := d.at["burst"]; has && d.Dimension != "" {
		burst, good := p.number(v, what+": burst", d.parseAmount)
		if good && burst == 0 {
			p.r.Problem(v, "%s: burst: can never be granted: it is 0", what)
			good = false
		}
		d.Burst = burst
		ok = ok && good
	}
	ok = p.limitModes(&d, what) && ok
	ok = p.limitWaiting(&d, what) && ok
	if v, has := d.at["models"]; has {
		var good bool
		d.models, good = p.modelList(v, what)
		ok = ok && good
	}
	var win string
	v, has := d.at["window"]
	switch {
	case has:
		var good bool
		win, good = p.r.Text(v, what+": window")
		ok = ok && good
	case d.Dimension != limiter.Concurrent && d.Dimension != "":
		if amount, _ := d.at["limit"].Scalar().(string); !strings.Contains(amount, "/") { // else it is there, in the wrong place
			p.r.Problem(n, "%s needs a window", what)
		}
		ok = false
	}
	if d.Dimension != "" && (has || d.Dimension == limiter.Concurrent) && p.finishLimit(t, &d, win, v, what) && ok && p.checkHeadroom(&d, what) {
		t.limits = append(t.limits, d)
	}
}

// shortInLimits reports whether n, the limits of a tier or one of them, is written in the
// short form, which stands beside limits: a problem.
func (p *parser) shortInLimits(n yamldoc.Node, t *tierDef) bool {
	dimension, value := n.FirstPair()
	if !slices.Contains(shorthandKeys, dimension) {
		return false
	}
	p.unnamed = true
	amount, win := cutRate(value)
	long := "dimension: " + dimension + ", limit: " + amount
	if win != "" {
		long += ", window: " + win
	}
	p.r.Problem(n, "limits of tier %s: %s: %s is the short form, which stands beside limits: write it under the tier, or { %s } in limits",
		t.name, dimension, text.Shorten(value, text.MaxShown), text.Shorten(long, 2*text.MaxShown))
	return true
}

func (d *limitDef) parseAmount(s string) (int64, error) { return ParseAmount(d.Dimension, s) }

// limitIdentity reads the dimension and the name of a limit. The default name is
// that of the dimension.
func (p *parser) limitIdentity(t *tierDef, d *limitDef, what string) bool {
	v, ok := d.at["dimension"]
	if !ok {
		p.r.Problem(d.node, "%s needs a dimension", what)
	} else if name, good := p.r.Text(v, "dimension"); !good {
		ok = false
	} else if ok = p.checkDimension(v, name); ok {
		d.Dimension = limiter.Dimension(name)
	}
	if v, has := d.at["name"]; has {
		name, good := p.name(v, "name")
		d.Name = name
		return good && p.limitName(t, v, name) && ok
	}
	d.Name = string(d.Dimension)
	return ok && p.limitName(t, d.at["dimension"], d.Name)
}

// checkDimension accepts the built-in dimensions and custom ones, but not a name
// that looks like a misspelling of a built-in one.
func (p *parser) checkDimension(n yamldoc.Node, name string) bool {
	if slices.Contains(shorthandKeys, name) {
		return true
	}
	if like := limiter.Dimension(name).LikeBuiltin(); like != "" {
		p.r.Suggest(n, string(like), "dimension %q looks like a misspelled built-in one", name)
		return false
	}
	if len(name) > maxWord || !dimensionSyntax.MatchString(name) {
		p.r.Suggest(n, nearest.Word(name, shorthandKeys),
			"dimension must be 1 to %d lower-case letters, digits and _, got %s", maxWord, text.Quote(name))
		return false
	}
	return true
}

func (p *parser) limitAmount(d *limitDef, n yamldoc.Node, what string) (ok bool) {
	value, ok := p.r.Text(n, what+": limit")
	if !ok {
		return false
	}
	if amount, win, has := strings.Cut(value, "/"); has {
		p.r.Problem(n, "%s: limit must not have a window, got %s: write limit: %s, window: %s",
			what, text.Quote(value), text.Shorten(amount, text.MaxShown), text.Shorten(win, text.MaxShown))
		return false
	}
	d.Amount, ok = p.number(n, what+": limit", d.parseAmount)
	return ok
}
