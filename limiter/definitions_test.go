// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"maps"
	"reflect"
	"testing"
	"time"
)

// fullLimit has no zero field, but for those that exclude another: a bucket's
// burst and a calendar.
func fullLimit(t *testing.T) Limit {
	l := Limit{
		Name: "n", Dimension: "d", Algorithm: FixedWindow, Amount: 3, Window: time.Hour, Calendar: Day, Zone: time.FixedZone("Z", 3600),
		Burst: 4, Shadow: true, Degrade: true, Unreachable: Open, Closed: true, Whole: 5,
	}
	v := reflect.ValueOf(l)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("field %s of Limit is new: list it here, in identity and in the snapshot", v.Type().Field(i).Name)
		}
	}
	return l
}

// TestEveryFieldIsPartOfALimitsIdentity: limits that differ in anything are
// different limits.
func TestEveryFieldIsPartOfALimitsIdentity(t *testing.T) {
	full := fullLimit(t)
	v := reflect.ValueOf(&full).Elem()
	for i := range v.NumField() {
		changed := full
		reflect.ValueOf(&changed).Elem().Field(i).SetZero()
		if changed.identity() == full.identity() {
			t.Errorf("a limit without %s is the same limit", v.Type().Field(i).Name)
		}
	}
}

// TestCountersNeedNoDefinitions: whatever limits and windows callers make up, the
// catalog, which forgets nothing, learns nothing.
func TestCountersNeedNoDefinitions(t *testing.T) {
	e := New(Options{})
	limits, schemas, views := len(*e.catalog.limits.Load()), len(*e.catalog.schemas.Load()), len(*e.catalog.views.Load())
	var d Counted
	for i := range int64(1000) {
		q := &Count{Key: "k", Window: Window{Unit: Unit(1 + i%7), Multiple: uint32(1 + i%90)}, Limit: i, Hits: 1, ID: "id" + string(rune('0'+i))}
		if err := e.Count(Time{Mono: 1, Wall: 1_772_000_000e9}, q, &d); err != nil {
			t.Fatal(err)
		}
	}
	if l, s, v := len(*e.catalog.limits.Load()), len(*e.catalog.schemas.Load()), len(*e.catalog.views.Load()); l != limits || s != schemas || v != views {
		t.Errorf("the catalog has %d limits, %d schemas and %d views, want %d, %d and %d as before", l, s, v, limits, schemas, views)
	}
	if names := e.catalog.tiers.Load().names; len(names) != 1 {
		t.Errorf("the catalog has tiers %q, want that of calls without", names)
	}
}

// TestSnapshotKeepsEveryFieldOfALimit writes definitions and reads them into
// another catalog.
func TestSnapshotKeepsEveryFieldOfALimit(t *testing.T) {
	limits := []Limit{
		{Name: "bucket", Dimension: Tokens, Algorithm: TokenBucket, Amount: 3, Window: time.Hour, Burst: 4, Degrade: true, Unreachable: Open, Closed: true, Whole: 5},
		{Name: "calendar", Dimension: "d", Algorithm: FixedWindow, Amount: 3, Calendar: Day, Zone: time.FixedZone("Z", 3600), Shadow: true, Unreachable: Closed},
	}
	e := New(Options{})
	set, err := e.Catalog().LimitSet(limits)
	if err != nil {
		t.Fatal(err)
	}
	p := &Plan{Count: 1, Rates: Rates{Weights: DefaultWeights}}
	p.Levels[0] = Level{End: 1, Limits: set}
	now := Time{Mono: 1, Wall: 1_772_000_000e9}
	var d Decision
	if err := e.Check(now, &Request{Key: "k", Plan: p, InputTokens: 1, Force: true}, &d); err != nil {
		t.Fatal(err)
	}
	other := New(Options{})
	zone := func(string) (*time.Location, error) { return limits[1].Zone, nil }
	if err := other.Restore(now, PartitionOf("k"), e.Snapshot(now, PartitionOf("k"), nil), zone); err != nil {
		t.Fatalf("Restore = %v, want no error", err)
	}
	if want, got := e.catalog.mu.limitIDs, other.catalog.mu.limitIDs; !maps.Equal(want, got) {
		t.Errorf("restored limits %v, want %v", got, want)
	}
}
