// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"maps"
	"reflect"
	"testing"
	"time"
)

// fullLimit returns a limit without zero fields. It is not valid, because some fields
// exclude each other.
func fullLimit(t *testing.T) Limit {
	l := Limit{
		Name: "n", Dimension: "d", Algorithm: FixedWindow, Amount: 3, Window: time.Hour, Calendar: Day, Zone: time.FixedZone("Z", 3600),
		Burst: 4, Shadow: true, Degrade: true, Unreachable: Open, Async: true, Hidden: true, Slices: SlicesClients, Closed: true, FullCapacity: 5,
		StartDay: 6, StartMinute: 7, Headroom: Headroom{8, 9}, Queue: Queue{10, 11},
	}
	v := reflect.ValueOf(l)
	for i := range v.NumField() {
		if v.Field(i).IsZero() {
			t.Fatalf("field %s of Limit is new: list it here, in identity and in the snapshot", v.Type().Field(i).Name)
		}
	}
	return l
}

// TestEveryFieldIsPartOfALimitsIdentity checks that limits which differ in any field are
// different.
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

// TestCountersNeedNoDefinitions checks that limits and windows of counters add nothing
// to the catalog, which never removes definitions.
func TestCountersNeedNoDefinitions(t *testing.T) {
	e := New(Options{})
	sizes := func() (limits, schemas, mappings int) {
		for _, s := range *e.catalog.schemas.Load() {
			if m := s.mappings.Load(); m != nil {
				mappings += len(*m)
			}
		}
		return len(*e.catalog.limits.Load()), len(*e.catalog.schemas.Load()), mappings
	}
	limits, schemas, mappings := sizes()
	var d CountResult
	for i := range int64(1000) {
		q := &CountRequest{Key: "k", Window: Window{Unit: Unit(1 + i%7), Multiple: uint32(1 + i%90)}, Limit: i, Hits: 1, ID: "id" + string(rune('0'+i))}
		if err := e.Count(Time{Mono: 1, Wall: 1_772_000_000e9}, q, &d); err != nil {
			t.Fatal(err)
		}
	}
	if l, s, m := sizes(); l != limits || s != schemas || m != mappings {
		t.Errorf("the catalog has %d limits, %d schemas and %d mappings, want %d, %d and %d as before", l, s, m, limits, schemas, mappings)
	}
}

// TestSnapshotRejectsMixedRecords checks that records named like counters must have the
// state of a counter, and others must not.
func TestSnapshotRejectsMixedRecords(t *testing.T) {
	e := New(Options{})
	now := Time{Mono: 1, Wall: 1_772_000_000e9}
	bucket, err := e.catalog.LimitSet([]Limit{{Name: "n", Dimension: Requests, Algorithm: TokenBucket, Amount: 1, Window: time.Hour}})
	if err != nil {
		t.Fatal(err)
	}
	both := e.catalog.schemaOf([]*limit{e.catalog.counter.limits[0], bucket.schema.limits[0]})
	shard := &e.shards[PartitionOf("k")]
	for _, tt := range []struct {
		model string
		of    *schema
		good  bool
	}{
		{"", e.catalog.counter, false},
		{"m", e.catalog.counter, false},
		{counterMark + "1", both, false},
		{counterMark + "1", bucket.schema, false},
		{counterMark + "1", e.catalog.counter, true},
		{"m", bucket.schema, true},
	} {
		_, rec, _ := shard.create("k", "k", tt.model, tt.of, now)
		data := e.Snapshot(now, PartitionOf("k"), nil)
		if err := New(Options{}).Restore(now, PartitionOf("k"), data, nil); (err == nil) != tt.good {
			t.Errorf("Restore of %q with %d limits = %v, want it to be good: %v", tt.model, len(tt.of.limits), err, tt.good)
		}
		if id, found := shard.find("k", tt.model); found == rec {
			shard.remove(id)
		}
	}
	if n := e.Stats().Keys; n != 0 {
		t.Errorf("%d records remain, want none", n)
	}
}

// TestSnapshotRejectsEmptyModels checks a name that find would not return.
func TestSnapshotRejectsEmptyModels(t *testing.T) {
	e := New(Options{})
	now := Time{Mono: 1, Wall: 1_772_000_000e9}
	shard := &e.shards[PartitionOf("k")]
	shard.insert([]byte("k\x00"), shard.hashName("k", ""), e.catalog.schema(0), now)
	if err := New(Options{}).Restore(now, PartitionOf("k"), e.Snapshot(now, PartitionOf("k"), nil), nil); err == nil {
		t.Error("Restore of a record with an empty model = nil, want an error")
	}
}

// TestSnapshotKeepsEveryFieldOfALimit writes definitions and reads them into
// another catalog.
func TestSnapshotKeepsEveryFieldOfALimit(t *testing.T) {
	limits := []Limit{
		{Name: "bucket", Dimension: Tokens, Algorithm: TokenBucket, Amount: 3, Window: time.Hour, Burst: 4, Degrade: true, Unreachable: Open, Closed: true, FullCapacity: 5},
		{Name: "calendar", Dimension: "d", Algorithm: FixedWindow, Amount: 3, Calendar: Day, StartMinute: 24*60 - 1, Zone: time.FixedZone("Z", 3600), Shadow: true, Unreachable: Closed},
		{Name: "month", Dimension: "d", Algorithm: FixedWindow, Amount: 3, Calendar: Month, StartDay: 31},
		{Name: "lent", Dimension: "d", Algorithm: SlidingWindow, Amount: 3, Window: time.Hour, Slices: SlicesOff, Async: true},
		{Name: "classes", Dimension: "d", Algorithm: SlidingWindow, Amount: 3, Window: time.Hour, Hidden: true, Headroom: Headroom{8, 9}, Queue: Queue{time.Minute, 11}},
		{Name: "queue", Dimension: "d", Algorithm: SlidingWindow, Amount: 3, Window: time.Hour, Queue: Queue{time.Minute, 11}},
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
