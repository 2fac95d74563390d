// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"fmt"
	"maps"
	"math"
	"math/bits"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
)

type failer interface {
	Helper()
	Fatalf(format string, args ...any)
}

// checkCalls checks what bench.Call promises.
func checkCalls(t failer, calls []bench.Call) {
	t.Helper()
	ids := map[string]bench.Call{}
	for _, c := range calls {
		first, retry := ids[c.ID]
		switch {
		case c.Key == "" || c.ID == "" || len(c.Key) > 256 || len(c.ID) > 128 || c.Requests != 1:
			t.Fatalf("%+v lacks something", c)
		case retry && first != c:
			t.Fatalf("%+v is no retry of %+v", c, first)
		case c.InputTokens < 0 || c.OutputTokens < 0:
			t.Fatalf("%+v has negative tokens", c)
		case c.LLM && (c.MaxOutputTokens < max(c.OutputTokens, 1) || c.Duration < 0 || c.ProgressReports < 0):
			t.Fatalf("%+v is no LLM call", c)
		case !c.LLM && (c.MaxOutputTokens != 0 || c.Duration != 0 || c.ProgressReports != 0):
			t.Fatalf("%+v is no check", c)
		}
		ids[c.ID] = c
	}
}

func TestPartsDoNotAffectEachOther(t *testing.T) {
	const base = "keys=zipf:1.1x100k tokens=chat llm=30% seed=9"
	keysOf := func(calls []bench.Call) (all []string) {
		for _, c := range calls {
			all = append(all, c.Key)
		}
		return all
	}
	want := plan(mustNew(t, base), 1000)
	if again := plan(mustNew(t, base), 1000); !reflect.DeepEqual(again, want) {
		t.Error("one spec makes other calls the second time")
	}
	if other := plan(mustNew(t, "keys=zipf:1.1x100k tokens=chat llm=30% seed=10"), 1000); slices.Equal(keysOf(other), keysOf(want)) {
		t.Error("another seed makes the same keys")
	}
	tokens := plan(mustNew(t, "keys=zipf:1.1x100k tokens=uniform:1-99+1-99 llm=30% tiers=a=1,b=1 models=x=1,y=1 seed=9"), 1000)
	if !slices.Equal(keysOf(tokens), keysOf(want)) {
		t.Error("other tokens change the keys")
	}
	more := plan(mustNew(t, "keys=zipf:1.1x100k tokens=chat llm=60% seed=9"), 1000)
	count := 0
	for i, c := range want {
		if c.LLM {
			count++
			if more[i] != c {
				t.Fatalf("call %d is %+v with more LLM calls, want %+v", i, more[i], c)
			}
		}
	}
	if count < 200 {
		t.Errorf("%d of 1000 calls are LLM calls, want some 300", count)
	}
	prefixed := plan(mustNew(t, "keys=zipf:1.1x100k tiers=a=1,b=1 llm=30% seed=9 prefix=r7-"), 1000)
	plain := plan(mustNew(t, "keys=zipf:1.1x100k tiers=a=1,b=1 llm=30% seed=9"), 1000)
	for i := range plain {
		if prefixed[i].Key != "r7-"+plain[i].Key || prefixed[i].Tier != plain[i].Tier {
			t.Fatalf("call %d is %s (%s) with a prefix, %s (%s) without", i, prefixed[i].Key, prefixed[i].Tier, plain[i].Key, plain[i].Tier)
		}
		if prefixed[i].ID == plain[i].ID {
			t.Fatalf("call %d has the id %s with and without the prefix", i, plain[i].ID)
		}
	}
}

func TestEveryKeyIsUsed(t *testing.T) {
	for _, tt := range []struct {
		spec        string
		count       int
		first, last string
	}{
		{"keys=uniform:100", 100, "user-00", "user-99"},
		{"keys=uniform:1", 1, "user-0", "user-0"},
		{"keys=zipf:0.5x101 prefix=p", 101, "puser-000", "puser-100"},
		{"keys=zipf:3x1", 1, "user-0", "user-0"},
		{"keys=orgs:7x11", 77, "org-0/user-00", "org-6/user-10"},
		{"keys=orgs:2x3x4x5", 120, "org-0/team-0/user-0/app-0", "org-1/team-2/user-3/app-4"},
		{"keys=hot:acme/alice prefix=p", 1, "pacme/alice", "pacme/alice"},
		{"keys=hot:50%:a+uniform:25%:10+zipf:1x5", 16, "a", "user2-4"},
	} {
		w := mustNew(t, tt.spec+" tokens=fixed:1+1")
		seen := map[string]bool{}
		for _, c := range plan(w, 20_000) {
			seen[c.Key] = true
		}
		all := slices.Sorted(maps.Keys(seen))
		if len(all) != tt.count || all[0] != tt.first || all[len(all)-1] != tt.last {
			t.Errorf("%s: %d keys, %s to %s, want %d, %s to %s", tt.spec, len(all), all[0], all[len(all)-1], tt.count, tt.first, tt.last)
		}
	}
}

func TestIDsAreUnique(t *testing.T) {
	// Where the number of digits changes within a text of ids.
	d := idGenerator{prefix: "x", next: 36*36*36*36*36*36 - idsPerText*3/2}
	seen := map[string]bool{}
	for range 4 * idsPerText {
		id := d.take()
		if seen[id] {
			t.Fatalf("the id %s comes twice", id)
		}
		seen[id] = true
	}
	if !seen["xzzzzzz"] && !seen["x0zzzzzz"] || !seen["x1000000"] {
		t.Error("the ids did not get longer")
	}
}

func TestRetries(t *testing.T) {
	for _, after := range []int{0, 1, 7, 28, 1000} {
		w := mustNew(t, fmt.Sprintf("keys=uniform:1k tokens=chat llm=20%% retries=25%%+%d seed=3", after))
		calls := plan(w, 50_000)
		checkCalls(t, calls)
		first, again := map[string]int{}, 0
		for i, c := range calls {
			at, ok := first[c.ID]
			if !ok {
				first[c.ID] = i
				continue
			}
			again++
			if i-at != after+1 {
				t.Fatalf("after %d: the call at %d comes again at %d, want %d", after, at, i, at+after+1)
			}
		}
		if share := float64(again) / float64(len(first)); math.Abs(share-0.25) > 0.01 {
			t.Errorf("after %d: %.3f of the calls come again, want 0.25", after, share)
		}
	}
	for i, c := range plan(mustNew(t, "keys=uniform:1k retries=100%"), 100) {
		if want := fmt.Sprintf("0-%06s", string("0123456789abcdefghijklmnopqrstuvwxyz"[i/2%36])); i < 72 && c.ID != want {
			t.Errorf("call %d has the id %s, want %s", i, c.ID, want)
		}
	}
}

func TestLLMCalls(t *testing.T) {
	w := mustNew(t, "llm=40%:ttft=100ms-300ms,speed=20-50,reports=2 seed=5")
	count := 0
	const n = 50_000
	for _, c := range plan(w, n) {
		if !c.LLM {
			continue
		}
		count++
		if bits.OnesCount64(uint64(c.MaxOutputTokens)) != 1 || c.MaxOutputTokens < c.OutputTokens || c.MaxOutputTokens >= 2*c.OutputTokens {
			t.Fatalf("%d tokens of output reserve %d, want the next power of two", c.OutputTokens, c.MaxOutputTokens)
		}
		shortest := 100*time.Millisecond + time.Duration(c.OutputTokens)*time.Second/50
		longest := 300*time.Millisecond + time.Duration(c.OutputTokens)*time.Second/20
		if c.Duration < shortest || c.Duration > longest {
			t.Fatalf("%d tokens hold %s, want %s to %s", c.OutputTokens, c.Duration, shortest, longest)
		}
		if want := int(2 * c.Duration.Seconds()); c.ProgressReports != want {
			t.Fatalf("a call of %s has %d reports, want %d", c.Duration, c.ProgressReports, want)
		}
	}
	if share := float64(count) / n; math.Abs(share-0.4) > 0.01 {
		t.Errorf("%.3f of the calls are LLM calls, want 0.4", share)
	}
	for _, tt := range []struct {
		habit                   maxOutput
		output, generated, most int64
	}{
		{nextPowerOf2, 0, 0, 1},
		{nextPowerOf2, 1, 1, 1},
		{nextPowerOf2, 2, 2, 2},
		{nextPowerOf2, 3, 3, 4},
		{nextPowerOf2, 256, 256, 256},
		{nextPowerOf2, 257, 257, 512},
		{exactOutput, 0, 0, 1},
		{exactOutput, 99, 99, 99},
		{256, 99, 99, 256},
		{256, 257, 256, 256},
	} {
		if generated, most := tt.habit.apply(tt.output); generated != tt.generated || most != tt.most {
			t.Errorf("%s of %d = %d of %d, want %d of %d", tt.habit, tt.output, generated, most, tt.generated, tt.most)
		}
	}
}

func TestReplay(t *testing.T) {
	rows, err := loadTrace()
	if err != nil {
		t.Fatal(err)
	}
	w := mustNew(t, "replay=10x:users=60,orgs=5 seed=4")
	times := w.Times()
	calls := plan(w, math.MaxInt)
	if len(calls) != 19_366 || len(times) != len(calls) {
		t.Fatalf("%d calls at %d times, want 19366", len(calls), len(times))
	}
	checkCalls(t, calls)
	users, tokens := map[string]string{}, int64(0)
	for i, c := range calls {
		if c.InputTokens != rows[i].ContextTokens || c.OutputTokens != rows[i].GeneratedTokens || !c.LLM {
			t.Fatalf("call %d is %+v, want an LLM call with the tokens of %+v", i, c, rows[i])
		}
		if want := rows[i].Offset / 10; times[i] != want {
			t.Fatalf("call %d is due at %s, want %s", i, times[i], want)
		}
		if tier, ok := users[c.Key]; ok && tier != c.Tier {
			t.Fatalf("%s is %s and %s", c.Key, tier, c.Tier)
		}
		users[c.Key] = c.Tier
		tokens += c.InputTokens + c.OutputTokens
	}
	if len(users) != 60 || tokens != 26_450_535 {
		t.Errorf("%d users with %d tokens, want 60 with 26450535", len(users), tokens)
	}
	if w.Next(&bench.Call{}) {
		t.Error("a replay has a call after its last")
	}
	if again := w.Times(); !slices.Equal(again, times) {
		t.Error("the times change when the replay has ended")
	}
	if w := mustNew(t, ""); w.Times() != nil {
		t.Error("a workload that is no replay has times")
	}
}

// A replay that begins later has the remaining calls, with the same users.
func TestReplayFrom(t *testing.T) {
	whole := mustNew(t, "replay=10x:users=60,orgs=5 llm=0% seed=4")
	all, times := plan(whole, math.MaxInt), whole.Times()
	from := 10 * time.Minute
	spec := whole.Spec()
	spec.Replay = spec.Replay.Skip(from / 10)
	if got := spec.Replay.String(); got != "10x:users=60,orgs=5,from=10m0s" {
		t.Errorf("after a minute at 10x: %s, want from=10m0s", got)
	}
	w, err := New(spec)
	if err != nil {
		t.Fatal(err)
	}
	rest, due := plan(w, math.MaxInt), w.Times()
	skipped := len(all) - len(rest)
	if skipped == 0 || times[skipped-1] >= from/10 || times[skipped] < from/10 {
		t.Fatalf("%d calls are left out, want those before %v", skipped, from)
	}
	for i := range rest {
		a, b := all[skipped+i], rest[i]
		if a.Key != b.Key || a.Tier != b.Tier || a.InputTokens != b.InputTokens || due[i] != times[skipped+i]-from/10 {
			t.Fatalf("call %d is %+v at %v, want %+v at %v", i, b, due[i], a, times[skipped+i]-from/10)
		}
	}
	whole.spec.Replay.from = 0
	for _, c := range []struct {
		replay Replay
		want   time.Duration
	}{
		{whole.spec.Replay, times[len(times)-1]},
		{spec.Replay, due[len(due)-1]},
		{spec.Replay.Skip(24 * time.Hour), 0},
		{Replay{}, 0},
	} {
		if got, err := c.replay.Duration(); err != nil || got != c.want {
			t.Errorf("%q takes %v, %v, want %v", c.replay, got, err, c.want)
		}
	}
	spec.Replay = spec.Replay.Skip(math.MaxInt64)
	if _, err := New(spec); err == nil || !strings.Contains(err.Error(), "has no calls after 24h0m0s") {
		t.Errorf("after the end: %v, want an error", err)
	}
}

func TestReplayWithRetries(t *testing.T) {
	for _, after := range []int{0, 5, 50_000} {
		w := mustNew(t, fmt.Sprintf("replay=1000x:users=60,orgs=5 llm=0%% retries=10%%+%d prefix=z seed=4", after))
		times := w.Times()
		arrivals, err := bench.Times(times, 1)
		if err != nil {
			t.Fatal(err)
		}
		calls := plan(w, math.MaxInt)
		checkCalls(t, calls)
		if len(times) != len(calls) {
			t.Fatalf("after %d: %d calls at %d times", after, len(calls), len(times))
		}
		ids := map[string]bool{}
		for i, c := range calls {
			if ids[c.ID] && times[i] != times[i-1] {
				t.Fatalf("after %d: the retry at %d is due at %s, want %s as the call before it", after, i, times[i], times[i-1])
			}
			ids[c.ID] = true
			if due := arrivals.Next(); due != times[i] {
				t.Fatalf("after %d: arrival %d is at %s, want %s", after, i, due, times[i])
			}
			if !strings.HasPrefix(c.Key, "zorg") || c.LLM {
				t.Fatalf("%+v is no check of a key with the prefix", c)
			}
		}
		if due := arrivals.Next(); due != bench.Never {
			t.Errorf("after %d: after the last call another is due at %s", after, due)
		}
		if !slices.IsSorted(times) {
			t.Errorf("after %d: the times go back", after)
		}
		if len(ids) != 19_366 {
			t.Errorf("after %d: %d ids, want 19366", after, len(ids))
		}
		if again := len(calls) - len(ids); again < 1700 || again > 2200 {
			t.Errorf("after %d: %d retries, want some 1937", after, again)
		}
	}
}

func TestNextDoesNotAllocate(t *testing.T) {
	for _, g := range goldens {
		if strings.Contains(g.spec, "replay=") {
			continue // ends too early; shares all but the source
		}
		w := mustNew(t, g.spec)
		var c bench.Call
		plan(w, 2000) // until the ring of retries is as long as it gets
		if n := testing.AllocsPerRun(20_000, func() { w.Next(&c) }); n >= 1.0 {
			t.Errorf("%s: Next allocates %g times, want less than once in a hundred", g.name, n)
		}
	}
}
