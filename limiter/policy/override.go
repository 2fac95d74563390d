// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// Override changes one limit of one key until a time, like an entry of overrides in a
// file. What was used is kept when it begins and when it ends.
type Override struct {
	Key    string // exact; the limit is that of the level with this key
	Limit  string // its name in the tier of the key
	Value  string // an amount, or an amount and a window as in 500_000/min
	Until  string // a time as in RFC 3339, or a date: it ends when that day begins in the zone of the key's tier
	Reason string // may be empty
	At     Place
}

// Bounds of overrides.
const (
	maxReason = 256 // bytes
	// The end of an override must fit in nanoseconds.
	minUntilYear, maxUntilYear = 2000, 2200
)

// override is an override that has been checked.
type override struct {
	Override
	at        place
	dimension limiter.Dimension
	amount    int64
	window    window // zero: that of the tier
	windowed  bool
	zone      *time.Location // of calendar windows; nil: UTC
	end       int64          // Unix nanoseconds; the first at which it is not in force
}

// keyOverrides are the overrides of a key. They are immutable but for what is compiled.
type keyOverrides struct {
	list []override // the first to end first
	// compiled has the sets of limits that were needed. Those of compiled[i] have list[i:]
	// in force.
	compiled []sync.Map // *limiter.LimitSet of a tier -> *limiter.LimitSet
}

func newKeyOverrides(list []override) *keyOverrides {
	slices.SortFunc(list, func(a, b override) int { return cmp.Or(cmp.Compare(a.end, b.end), strings.Compare(a.Limit, b.Limit)) })
	return &keyOverrides{list: list, compiled: make([]sync.Map, len(list))}
}

// override changes the limits of a level whose key has overrides at now.
func (p *Policy) override(now limiter.Time, scope string, level *limiter.Level) {
	o, ok := p.overrides.get(keyIndex(scope), scope)
	if !ok {
		return
	}
	for i := range o.list {
		if now.Wall < o.list[i].end {
			level.Limits, level.Model = o.limits(i, level.Limits, p.catalog), o.limits(i, level.Model, p.catalog)
			return
		}
	}
}

// limits returns a set of limits with list[i:] in force. It is compiled once.
func (o *keyOverrides) limits(i int, of *limiter.LimitSet, catalog *limiter.Catalog) *limiter.LimitSet {
	if of == nil {
		return nil
	}
	if set, ok := o.compiled[i].Load(of); ok {
		return set.(*limiter.LimitSet)
	}
	limits, changed := slices.Clone(of.Limits()), false
	for j := range limits {
		for k := i; k < len(o.list); k++ {
			if d := &o.list[k]; d.Limit == limits[j].Name && d.dimension == limits[j].Dimension {
				d.apply(&limits[j])
				changed = true
			}
		}
	}
	set := of
	if changed {
		if compiled, err := catalog.LimitSet(limits); err == nil { // else a bug: each limit was checked
			set = compiled
		}
	}
	first, _ := o.compiled[i].LoadOrStore(of, set)
	return first.(*limiter.LimitSet)
}

// apply changes a limit with the name and dimension of the override.
func (d *override) apply(l *limiter.Limit) {
	l.Amount = d.amount
	if l.Amount == 0 || l.Burst == l.Amount {
		l.Burst = 0
	}
	switch {
	case !d.windowed:
	case l.Algorithm == limiter.FixedWindow && d.window.calendar != limiter.NoCalendar:
		if l.Calendar != d.window.calendar {
			l.Calendar, l.Window, l.StartDay, l.StartMinute, l.Zone = d.window.calendar, 0, 0, 0, d.zone
		}
	default:
		l.Calendar, l.Window, l.StartDay, l.StartMinute, l.Zone = limiter.NoCalendar, d.window.length, 0, 0, nil
	}
}

// check says what is wrong with the use of the override for a limit with its name and
// dimension; nothing if it can be used.
func (d *override) check(l *limiter.Limit) string {
	switch {
	case l.Algorithm == limiter.Concurrency && d.windowed:
		return "takes no window"
	case l.Algorithm != limiter.FixedWindow && d.windowed && d.window.length == 0:
		return fmt.Sprintf("a %s has no fixed length; for %s write a duration such as 720h, or no window", formatWindow(&limiter.Limit{Calendar: d.window.calendar}), l.Algorithm)
	}
	changed := *l
	d.apply(&changed)
	if _, err := limiter.NewCatalog().LimitSet([]limiter.Limit{changed}); err != nil {
		if le, ok := errors.AsType[*limiter.LimitError](err); ok {
			return le.Field + ": " + le.Problem
		}
		return err.Error()
	}
	return ""
}

// valueText returns the canonical form of the value.
func (d *override) valueText() string {
	s := FormatAmount(d.dimension, d.amount)
	switch {
	case !d.windowed:
		return s
	case d.window.calendar != limiter.NoCalendar:
		return s + "/" + formatWindow(&limiter.Limit{Calendar: d.window.calendar})
	}
	return s + "/" + FormatDuration(d.window.length)
}

// text describes the override without its key and limit.
func (d *override) text() string {
	s := d.valueText() + " until " + d.Until
	if d.Reason != "" {
		s += fmt.Sprintf(" (%s)", d.Reason)
	}
	return s
}

// endText returns the end as a time.
func (d *override) endText() string {
	zone := d.zone
	if zone == nil {
		zone = time.UTC
	}
	return time.Unix(0, d.end).In(zone).Format(time.RFC3339)
}

// appendOverrides appends the canonical form of the overrides of a key.
func appendOverrides(b []byte, key string, o *keyOverrides) []byte {
	list := slices.Clone(o.list)
	slices.SortFunc(list, func(x, y override) int { return strings.Compare(x.Limit, y.Limit) })
	b = appendText(b, key)
	for i := range list {
		d := &list[i]
		b = appendText(b, d.Limit, string(d.dimension), d.valueText(), d.endText(), d.Until, d.Reason)
	}
	return append(b, 0) // no text is empty where a limit is expected
}

// Ended returns a warning for each override that has ended at a time, in order of position.
// Its limit is that of the tier again.
func (p *Policy) Ended(now time.Time) Problems {
	var ended Problems
	p.overrides.all(func(key string, o *keyOverrides) {
		for i := range o.list {
			d := &o.list[i]
			if now.UnixNano() < d.end {
				break
			}
			at := p.place(d.at)
			ended = append(ended, Problem{
				File: at.Source, Line: at.Line, Column: at.Column,
				Message: fmt.Sprintf("the override of %s of %s ended at %s: remove it", d.Limit, key, d.endText()),
			})
		}
	})
	slices.SortFunc(ended, func(a, b Problem) int {
		return cmp.Or(strings.Compare(a.File, b.File), cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column), strings.Compare(a.Message, b.Message))
	})
	return ended
}

// Overrides returns the number of overrides in the policy, those that ended included.
func (p *Policy) Overrides() int { return p.overrideCount }
