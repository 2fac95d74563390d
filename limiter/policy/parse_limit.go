// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/yamldoc"
	"github.com/bucketring/bucketring/limiter"
)

// limitModes reads the algorithm of a limit, what happens if it is exceeded or its owner
// is unreachable, whether checks wait for a second member, and who may hold slices.
func (p *parser) limitModes(d *limitDef, what string) bool {
	ok := true
	if v, has := d.at["algorithm"]; has {
		i, good := p.r.Word(v, what+": algorithm", "token_bucket", "sliding_window", "fixed_window", "concurrency")
		if good {
			d.Algorithm = limiter.Algorithm(i + 1)
		}
		ok = ok && good
	}
	if v, has := d.at["on_exceed"]; has {
		i, good := p.r.Word(v, what+": on_exceed", "reject", "degrade")
		d.Degrade = good && i == 1
		if d.Degrade && d.Dimension != "" && !countsOutput(d.Dimension) {
			p.r.Problem(v, "%s: on_exceed degrade reduces the output, which %s does not count: it is for tokens, output_tokens and spend", what, d.Dimension)
			good = false
		}
		ok = ok && good
	}
	if v, has := d.at["mode"]; has {
		i, good := p.r.Word(v, what+": mode", "enforce", "shadow")
		d.Shadow = good && i == 1
		ok = ok && good
	}
	if v, has := d.at["durability"]; has {
		i, good := p.r.Word(v, what+": durability", "sync", "async")
		d.Async = good && i == 1
		ok = ok && good
	}
	if v, has := d.at["show"]; has {
		i, good := p.r.Word(v, what+": show", "true", "false")
		d.Hidden = good && i == 1
		ok = ok && good
	}
	if v, has := d.at["slices"]; has {
		i, good := p.r.Word(v, what+": slices", "nodes", "clients", "off")
		if good {
			d.Slices = []limiter.Slices{limiter.SlicesNodes, limiter.SlicesClients, limiter.SlicesOff}[i]
		}
		ok = ok && good
	}
	d.Unreachable = defaultUnreachable(d.Dimension)
	if v, has := d.at["unreachable"]; has {
		i, good := p.r.Word(v, what+": unreachable", "share", "closed", "open")
		d.Unreachable = []limiter.Unreachable{limiter.Share, limiter.Closed, limiter.Open}[i]
		ok = ok && good
	}
	return ok
}

// countsOutput reports whether output adds to the cost in a built-in dimension.
func countsOutput(d limiter.Dimension) bool {
	return d == limiter.Tokens || d == limiter.OutputTokens || d == limiter.Spend
}

func defaultUnreachable(d limiter.Dimension) limiter.Unreachable {
	if d == limiter.Spend {
		return limiter.Closed
	}
	return limiter.Share
}

// defaultAlgorithm returns the algorithm of a limit that names none. c is the
// calendar unit of its window.
func defaultAlgorithm(d limiter.Dimension, c limiter.Calendar) limiter.Algorithm {
	switch {
	case d == limiter.Concurrent:
		return limiter.Concurrency
	case d == limiter.Spend || c >= limiter.Day:
		return limiter.FixedWindow
	}
	return limiter.TokenBucket
}

// maxModels bounds the patterns of one limit.
const maxModels = 64

// modelList reads the models of a limit: distinct patterns, which it sorts.
func (p *parser) modelList(n yamldoc.Node, what string) (models []pattern, ok bool) {
	items := p.r.Items(n, what+": models")
	if items == nil { // not a list
		return nil, false
	}
	ok = true
	for _, item := range items {
		text, good := p.patternText(item, "model")
		ok = ok && good
		m := newPattern(text)
		if good && slices.Contains(models, m) {
			p.r.Problem(item, "%s: models has %q twice", what, text)
			ok = false
		}
		models = append(models, m)
	}
	if len(items) == 0 || len(items) > maxModels {
		p.r.Problem(n, "%s: models must have 1 to %d names or patterns; leave the key out for all models", what, maxModels)
		return nil, false
	}
	slices.SortFunc(models, func(a, b pattern) int { return strings.Compare(a.text, b.text) })
	return models, ok
}

// finishLimit sets the algorithm and the window of d, whose dimension and amount
// are known. win is empty for a concurrency limit without a window.
func (p *parser) finishLimit(t *tierDef, d *limitDef, win string, at yamldoc.Node, what string) bool {
	var w window
	if win != "" || d.Dimension != limiter.Concurrent {
		var err error
		if w, err = parseWindow(win); err != nil {
			var short *limiter.Limit
			if d.at["limit"] == (yamldoc.Node{}) {
				short = &d.Limit
			}
			if hint := startInWindow(win, short); hint != "" {
				p.r.Problem(at, "%s: window %s %s", what, text.Quote(win), hint)
				return false
			}
			p.r.Suggest(at, suggestWindow(win), "%s: window %v, got %s", what, err, text.Quote(win))
			return false
		}
	}
	if d.at["limit"] == (yamldoc.Node{}) { // the short form: one value has both
		d.at["limit"], d.at["window"] = at, at
	}
	if d.Algorithm == 0 {
		d.Algorithm = defaultAlgorithm(d.Dimension, w.calendar)
	}
	if d.Algorithm == limiter.TokenBucket && d.Burst == d.Amount {
		d.Burst = 0 // it equals the default
	}
	if d.Algorithm == limiter.FixedWindow && w.calendar != limiter.NoCalendar {
		d.Calendar, d.Zone = w.calendar, t.zone
		return p.limitStart(d, what)
	}
	if v, has := d.at["starts"]; has {
		switch {
		case win == "":
			p.r.Problem(v, "%s: starts is for fixed windows of a month or a day", what)
		case w.calendar != limiter.NoCalendar:
			p.r.Problem(v, "%s: starts is for fixed windows of a month or a day, got %s", what, d.Algorithm)
		default:
			p.r.Problem(v, "%s: starts is for fixed windows of a month or a day, got window %s, which is a length: write month or day", what, text.Quote(win))
		}
		return false
	}
	if w.calendar != limiter.NoCalendar && w.length == 0 {
		p.r.Problem(at, "%s: a %s has no fixed length; for %s write a duration such as 720h", what, formatWindow(&limiter.Limit{Calendar: w.calendar}), d.Algorithm)
		return false
	}
	d.Window = w.length
	return true
}

// limitStart reads when the calendar windows of d begin: the day of the month, or the time
// of the day.
func (p *parser) limitStart(d *limitDef, what string) bool {
	v, has := d.at["starts"]
	if !has {
		return true
	}
	value, ok := p.r.Text(v, what+": starts")
	if !ok {
		return false
	}
	switch d.Calendar {
	case limiter.Month:
		day, err := parseCount(value)
		if err != nil || day < 1 || day > 31 {
			problem, near := startProblem(d.Calendar, value)
			p.r.Suggest(v, near, "%s: starts %s", what, problem)
			return false
		}
		if day > 1 {
			d.StartDay = int(day)
		}
	case limiter.Day:
		at, err := time.Parse("15:04", value)
		if err != nil {
			problem, near := startProblem(d.Calendar, value)
			p.r.Suggest(v, near, "%s: starts %s", what, problem)
			return false
		}
		d.StartMinute = 60*at.Hour() + at.Minute()
	default:
		p.r.Problem(v, "%s: starts is for windows of a month or a day, got window %s", what, formatWindow(&d.Limit))
		return false
	}
	return true
}

func suggestWindow(s string) string {
	if unit, ok := otherWindows[strings.ToLower(s)]; ok {
		return unit
	}
	if len(s) < 2 || strings.Trim(s, "abcdefghijklmnopqrstuvwxyz") != "" {
		return ""
	}
	return nearest.Word(s, windowNames)
}

// checkBursts reports bursts that can never be granted, because another limit of
// the tier for the same dimension and models has a lower capacity.
func (p *parser) checkBursts(t *tierDef) {
	for i := range t.limits {
		d := &t.limits[i]
		if d.Burst == 0 || d.Shadow {
			continue
		}
		for j := range t.limits {
			o := &t.limits[j]
			covers := o.models == nil || slices.Equal(o.models, d.models)
			if i != j && covers && !o.Shadow && o.Dimension == d.Dimension && capacity(&o.Limit) < d.Burst {
				p.r.Problem(d.at["burst"], "tier %s, limit %s: burst: can never be granted: limit %s admits at most %s at once",
					t.name, d.Name, o.Name, FormatAmount(o.Dimension, capacity(&o.Limit)))
				break
			}
		}
	}
}

// capacity is the most that one call can cost.
func capacity(l *limiter.Limit) int64 {
	if l.Burst != 0 {
		return l.Burst
	}
	return l.Amount
}
