// SPDX-License-Identifier: Apache-2.0

package trace

import (
	"strings"
	"testing"
	"time"
)

func TestLoad(t *testing.T) {
	calls, err := Load()
	if err != nil {
		t.Fatal(err)
	}
	if len(calls) != 19_366 {
		t.Errorf("Load() = %d calls, want 19366", len(calls))
	}
	var tokens int64
	for i, c := range calls {
		tokens += c.ContextTokens + c.GeneratedTokens
		if c.Row != i {
			t.Fatalf("call %d has row %d", i, c.Row)
		}
		if i > 0 && c.Offset < calls[i-1].Offset {
			t.Fatalf("call %d arrives at %s, before its predecessor at %s", i, c.Offset, calls[i-1].Offset)
		}
	}
	if tokens != 26_450_535 {
		t.Errorf("the trace has %d tokens, want 26450535", tokens)
	}
	want := Call{Row: 1, Offset: 4_314_579_000, ContextTokens: 396, GeneratedTokens: 109}
	if calls[1] != want {
		t.Errorf("call 1 = %+v, want %+v", calls[1], want)
	}
	if last := calls[len(calls)-1].Offset; last < 58*time.Minute || last > time.Hour {
		t.Errorf("the last call arrives after %s, want about an hour", last)
	}
}

func TestParseRejectsInvalidRows(t *testing.T) {
	const header = "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
	for _, row := range []string{
		"yesterday,1,2",
		"2023-11-16 18:15:46.6805900,many,2",
		"2023-11-16 18:15:46.6805900,1,1.5",
		"2023-11-16 18:15:46.6805900,1",
	} {
		if calls, err := parse(strings.NewReader(header + row)); err == nil {
			t.Errorf("parse(%q) = %v, want an error", row, calls)
		}
	}
	if _, err := parse(strings.NewReader("")); err == nil {
		t.Error("parse of nothing succeeded, want an error")
	}
}

func TestUsers(t *testing.T) {
	users := Users{Seed: 1, Count: 60, Orgs: 5}
	tiers := map[string]int{}
	keys := map[string]string{}
	for row := range 19_366 {
		u := users.Of(row)
		if u != users.Of(row) {
			t.Fatalf("Of(%d) differs between calls", row)
		}
		if tier, ok := keys[u.Key]; ok && tier != u.Tier {
			t.Fatalf("%s is %s and %s", u.Key, tier, u.Tier)
		}
		keys[u.Key] = u.Tier
		tiers[u.Tier]++
	}
	if len(keys) != users.Count {
		t.Errorf("the trace has %d users, want %d", len(keys), users.Count)
	}
	for _, tier := range []string{"free", "standard", "enterprise"} {
		if tiers[tier] < 1000 {
			t.Errorf("tier %s has %d calls, want a thousand or more", tier, tiers[tier])
		}
	}
	if other := (Users{Seed: 2, Count: 60, Orgs: 5}); other.Of(0) == users.Of(0) && other.Of(1) == users.Of(1) && other.Of(2) == users.Of(2) {
		t.Error("another seed gives the same users")
	}
}
