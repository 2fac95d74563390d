// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// adjust makes a change as an operator does, and often the same again.
func (m *machine) adjust() {
	if rapid.IntRange(0, 2).Draw(m.t, "adjust really") > 0 {
		return
	}
	key := rapid.SampledFrom(m.keys).Draw(m.t, "key to adjust")
	r := &limiter.Request{Key: key, Model: "m", Plan: m.plans[key], ID: m.id()}
	again := func() (d limiter.Adjustment, err error) { return d, nil }
	var first limiter.Adjustment
	switch rapid.IntRange(0, 2).Draw(m.t, "adjustment") {
	case 0:
		again, first = m.reset(r)
	case 1:
		again, first = m.grant(r)
	case 2:
		again, first = m.end(r)
	}
	if rapid.Bool().Draw(m.t, "again") {
		d, err := again()
		if err != nil || first.Change != 0 && (!d.Replayed || !slices.EqualFunc(d.Limits, first.Limits, func(a, b limiter.Adjusted) bool { b.Until = 0; return a == b }) || d.Status != first.Status) {
			m.t.Fatalf("the same change again = %+v, %v, want %+v", d, err, first)
		}
	}
}

// repeat makes a change again that has failed or not.
type repeat func() (limiter.Adjustment, error)

// limitsOf returns the limits of a key, without those of its parents.
func (m *machine) limitsOf(r *limiter.Request) (list []limiter.Limit) {
	for _, level := range r.Plan.Levels[:r.Plan.Count] {
		if level.End == len(r.Key) {
			list = append(list, level.Limits.Limits()...)
		}
	}
	return list
}

func (m *machine) reset(r *limiter.Request) (repeat, limiter.Adjustment) {
	limits, name := m.limitsOf(r), ""
	if len(limits) > 0 && rapid.Bool().Draw(m.t, "one limit") {
		if l := rapid.SampledFrom(limits).Draw(m.t, "limit"); l.Algorithm != limiter.Concurrency {
			name = l.Name
		}
	}
	reset := func() (d limiter.Adjustment, err error) {
		if err = m.Reset(m.clock(), r, name, &d); len(limits) == 0 {
			var field *limiter.FieldError
			if !errors.As(err, &field) || field.Field != "key" {
				m.t.Fatalf("Reset of a key without limits = %v, want an error of the field key", err)
			}
			err = nil
		}
		return d, err
	}
	got, err := reset()
	want := m.model.Reset(m.now, r, name)
	if err != nil || len(got.Limits) != len(want) {
		m.t.Fatalf("Reset(%s, %q) = %+v, %v, want %d limits", r.Key, name, got, err, len(want))
	}
	for i, l := range got.Limits {
		if l.Before != want[i] || l.After != 0 {
			m.t.Fatalf("Reset(%s) changed %s from %d to %d, want from %d to 0", r.Key, l.Name, l.Before, l.After, want[i])
		}
	}
	return reset, got
}

func (m *machine) grant(r *limiter.Request) (repeat, limiter.Adjustment) {
	limits := m.limitsOf(r)
	if len(limits) == 0 {
		return func() (limiter.Adjustment, error) { return limiter.Adjustment{}, nil }, limiter.Adjustment{}
	}
	l := rapid.SampledFrom(limits).Draw(m.t, "limit")
	units := m.draw("units", 1, m.scale)
	lasts := time.Duration(m.draw("lasts", -1, 90)) * time.Second
	lasts = max(lasts, 0)
	grant := func() (d limiter.Adjustment, err error) {
		err = m.Grant(m.clock(), r, l.Name, units, lasts, &d)
		if l.Algorithm == limiter.Concurrency || l.Shadow {
			var field *limiter.FieldError
			if !errors.As(err, &field) || field.Field != "limit" {
				m.t.Fatalf("Grant(%+v) = %v, want an error of the field limit", l, err)
			}
			return limiter.Adjustment{}, nil
		}
		return d, err
	}
	got, err := grant()
	before := m.model.Grant(m.now, r, l.Name, units, int64(lasts))
	if l.Algorithm == limiter.Concurrency || l.Shadow {
		return grant, got
	}
	if err != nil || len(got.Limits) != 1 || got.Limits[0].Before != before || got.Limits[0].After != before+units {
		m.t.Fatalf("Grant(%s, %s, %d) = %+v, %v, want from %d", r.Key, l.Name, units, got, err, before)
	}
	return grant, got
}

func (m *machine) end(r *limiter.Request) (repeat, limiter.Adjustment) {
	old, ok := m.pick(m.reserved)
	if !ok {
		return func() (limiter.Adjustment, error) { return limiter.Adjustment{}, nil }, limiter.Adjustment{}
	}
	charge := limiter.EndCharge(rapid.IntRange(0, 2).Draw(m.t, "charge"))
	id := old.ID
	if rapid.Bool().Draw(m.t, "by reference") {
		id = limiter.ReservationRef(old.Key, old.ID)
	}
	q := &limiter.Request{Key: old.Key, ID: r.ID}
	var failed error
	end := func() (d limiter.Adjustment, err error) {
		if err = m.End(m.clock(), q, id, charge, &d); failed != nil {
			if !errors.Is(err, failed) {
				m.t.Fatalf("End(%s) = %v, want %v", id, err, failed)
			}
			return d, nil
		}
		return d, err
	}
	failed = m.model.End(m.now, old.ID, charge)
	got, err := end()
	if err != nil {
		m.t.Fatalf("End(%s, %d) = %v, want no error", fmt.Sprint(id), charge, err)
	}
	return end, got
}
