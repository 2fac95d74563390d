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
