// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

func TestMerge(t *testing.T) {
	five := int64(5)
	withInput := settle(&pb.SettleRequest{Key: "a", RequestId: "1", InputTokens: &five, Final: new(bool)})
	withCost := func(output, images int64) *pb.Item {
		item := progress("a", "1", output)
		item.GetSettle().Costs = map[string]int64{"images": images}
		return item
	}
	cached := func(input *int64, cached, output int64, progress bool) *pb.Item {
		s := &pb.SettleRequest{Key: "a", RequestId: "1", InputTokens: input, CachedInputTokens: &cached, OutputTokens: &output}
		if progress {
			s.Final = new(bool)
		}
		return settle(s)
	}
	replayed := progress("a", "1", 2)
	replayed.Replay = true
	withdrawal := func(attempt uint64) *pb.Item {
		item := cancel("a", "1")
		item.Attempt = attempt
		return item
	}
	noOutput := settle(&pb.SettleRequest{Key: "a", RequestId: "1"})
	tests := []struct {
		name string
		put  []*pb.Item
		want string
	}{
		{"progress", []*pb.Item{progress("a", "1", 1), progress("a", "1", 2)}, "progress 2"},
		{"progress out of order", []*pb.Item{progress("a", "1", 9), progress("a", "1", 2)}, "progress 9"},
		{"of different reservations", []*pb.Item{progress("a", "1", 1), progress("a", "2", 2)}, "progress 1, progress 2"},
		{"under different roots", []*pb.Item{progress("a", "1", 1), progress("b", "1", 2)}, "progress 1, progress 2"},
		{"under different keys", []*pb.Item{progress("a/x", "1", 1), progress("a/y", "1", 2)}, "progress 1, progress 2"},
		{"with an input that the other leaves out", []*pb.Item{withInput, progress("a", "1", 2)}, "progress 0, progress 2"},
		{"with a cost that the other leaves out", []*pb.Item{withCost(1, 1), progress("a", "1", 2)}, "progress 1, progress 2"},
		{"with the same cost", []*pb.Item{withCost(1, 7), withCost(3, 2)}, "progress 3"},
		{"an invalid number", []*pb.Item{progress("a", "1", amount.Max+1), progress("a", "1", 2)}, "progress 9007199254740993, progress 2"},
		{"with the same cached input", []*pb.Item{cached(&five, 3, 1, true), cached(&five, 3, 2, true)}, "progress 2"},
		{"with more cached input", []*pb.Item{cached(&five, 3, 1, true), cached(&five, 4, 2, true)}, "progress 1, progress 2"},
		{"final with cached input", []*pb.Item{progress("a", "1", 1), cached(&five, 5, 2, false)}, "final 2"},
		{"final with more cached than input", []*pb.Item{progress("a", "1", 1), cached(&five, 6, 2, false)}, "progress 1, final 2"},
		{"final with cached of an unknown input", []*pb.Item{progress("a", "1", 1), cached(nil, 1, 2, false)}, "progress 1, final 2"},
		{"the same final with its reservation", []*pb.Item{final("a", "1", 2), bringing(final("a", "1", 2))}, "final 2 of a reserve"},
		{"the same final without it", []*pb.Item{bringing(final("a", "1", 2)), final("a", "1", 2)}, "final 2 of a reserve, final 2"},
		{"another final with its reservation", []*pb.Item{final("a", "1", 2), bringing(final("a", "1", 3))}, "final 2, final 3 of a reserve"},
		{"final after progress with the reservation", []*pb.Item{bringing(progress("a", "1", 1)), final("a", "1", 2)}, "progress 1 of a reserve, final 2"},
		{"final with the reservation after progress", []*pb.Item{progress("a", "1", 1), bringing(final("a", "1", 2))}, "final 2 of a reserve"},
		{"progress after progress with the reservation", []*pb.Item{bringing(progress("a", "1", 1)), progress("a", "1", 2)}, "progress 2 of a reserve"},
		{"a replay", []*pb.Item{progress("a", "1", 1), replayed}, "progress 1, progress 2"},
		{"final after progress", []*pb.Item{progress("a", "1", 9), progress("a", "1", -1), final("a", "1", 2)}, "final 2"},
		{"final without an output", []*pb.Item{progress("a", "1", 9), noOutput}, "progress 9, final 0"},
		{"final that nobody takes", []*pb.Item{progress("a", "1", 9), final("a", "1", -1)}, "progress 9, final -1"},
		{"the same final", []*pb.Item{final("a", "1", 2), final("a", "1", 2)}, "final 2"},
		{"another final is for the owner to refuse", []*pb.Item{final("a", "1", 2), final("a", "1", 3)}, "final 2, final 3"},
		{"progress after final", []*pb.Item{final("a", "1", 2), progress("a", "1", 3)}, "final 2, progress 3"},
		{"cancel after progress", []*pb.Item{progress("a", "1", 1), cancel("a", "1"), progress("a", "1", 2)}, "progress 1, cancel, progress 2"},
		{"cancel twice", []*pb.Item{cancel("a", "1"), cancel("a", "1")}, "cancel"},
		{"withdrawals of two sendings", []*pb.Item{withdrawal(1), withdrawal(2), withdrawal(2), cancel("a", "1")}, "cancel, cancel, cancel"},
		{"reserve twice", []*pb.Item{reserve("a", "1"), reserve("a", "1"), final("a", "1", 4)}, "reserve, final 4"},
		{"hits twice", []*pb.Item{count("a", "1", 3), count("a", "1", 3)}, "count 3"},
		{"other hits are for the owner to refuse", []*pb.Item{count("a", "1", 3), count("a", "1", 4)}, "count 3, count 4"},
		{"hits of different calls", []*pb.Item{count("a", "1", 3), count("a", "2", 3)}, "count 3, count 3"},
		{"reserve and check", []*pb.Item{reserve("a", "1"), check("a", "1")}, "reserve, check"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			q := testQueue(roomy)
			before := make([]proto.Message, len(test.put))
			for i, item := range test.put {
				before[i] = proto.CloneOf(item)
			}
			merged := mustPut(t, q, start, test.put...)
			for i, item := range test.put {
				if !proto.Equal(item, before[i]) {
					t.Errorf("item %d was changed to %v", i, item)
				}
			}
			if got := describeAll(drain(t, q)); got != test.want {
				t.Errorf("delivered %s, want %s", got, test.want)
			}
			if want := len(test.put) - countOf(test.want); merged != want {
				t.Errorf("%d merged, want %d", merged, want)
			}
		})
	}
}

// countOf counts the calls in a result of describeAll.
func countOf(list string) int {
	n := 1
	for _, r := range list {
		if r == ',' {
			n++
		}
	}
	return n
}

// drain delivers all calls and returns them.
func drain(t testing.TB, q *queue) (items []*pb.Item) {
	t.Helper()
	for q.len() > 0 {
		p := q.next(start)
		if len(p.attempts) == 0 {
			t.Fatalf("%d entries wait without an attempt", q.len())
		}
		for _, a := range p.attempts {
			items = append(items, a.item)
			q.complete(start, a, answered)
		}
		if err := q.consistent(); err != nil {
			t.Fatal(err)
		}
	}
	return items
}

// TestEntryInFlightIsNotMerged: the owner may have its numbers already.
func TestEntryInFlightIsNotMerged(t *testing.T) {
	q := testQueue(roomy)
	mustPut(t, q, start, progress("a", "1", 1))
	a := q.next(start).attempts[0]
	if merged := mustPut(t, q, start, progress("a", "1", 2), progress("a", "1", 3)); merged != 1 {
		t.Errorf("%d merged, want the two that wait", merged)
	}
	q.complete(start, a, failed)
	q.retryNow(start)
	if got, want := describeAll(drain(t, q)), "progress 1, progress 3"; got != want {
		t.Errorf("delivered %s, want %s", got, want)
	}
}

const ownerPolicy = `
tiers:
  all:
    limits:
      - { name: tpm, dimension: tokens, limit: 1_000, window: 1m }
      - { name: in, dimension: input_tokens, limit: 500, window: 1m, algorithm: sliding_window }
      - { name: slots, dimension: concurrent, limit: 3 }
      - { name: money, dimension: spend, limit: $1, window: day }
      - { name: pictures, dimension: images, limit: 50, window: 1h }
      - { name: sounds, dimension: sounds, limit: 50, window: 1h }
default_tier: all
prices:
  "*": { input: 1_000, cached_input: 100, output: 3_000 }
`

// owner is a real node without a network.
type owner struct {
	*server.Service
	now limiter.Time
}

func newOwner(t testing.TB) *owner {
	t.Helper()
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("test.yaml", []byte(ownerPolicy), engine.Catalog())
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	o := &owner{now: limiter.Time{Mono: 1e9, Wall: start.UnixNano()}}
	o.Service = server.New(server.Options{
		Engine: engine, Policy: func() server.Policy { return p }, Now: func() limiter.Time { return o.now }, Name: "owner",
	})
	return o
}

// apply decides a call. An error of the owner is an answer.
func (o *owner) apply(ctx context.Context, item *pb.Item) error {
	var err error
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		_, err = o.Check(ctx, call.Check)
	case *pb.Item_Reserve:
		_, err = o.Reserve(ctx, call.Reserve)
	case *pb.Item_Settle:
		_, err = o.Settle(ctx, call.Settle)
	case *pb.Item_Cancel:
		_, err = o.Cancel(ctx, call.Cancel)
	}
	return err
}

// observe returns the state of a reservation and its limits, now and after its lease
// has expired.
func (o *owner) observe(ctx context.Context, t testing.TB) []proto.Message {
	t.Helper()
	now := o.now
	defer func() { o.now = now }()
	var seen []proto.Message
	for _, wait := range []time.Duration{0, 31 * time.Second} {
		o.now.Mono += int64(wait)
		o.now.Wall += int64(wait)
		limits, err := o.Peek(ctx, &pb.PeekRequest{Key: "acme/a"})
		if err != nil {
			t.Fatalf("peek: %v", err)
		}
		seen = append(seen, limits)
	}
	return seen
}

// TestMergingIsInvisible compares an owner that gets every call with one that gets
// them through the outbox: their observable state must be the same.
func TestMergingIsInvisible(t *testing.T) {
	ctx := t.Context()
	total, merges := 0, 0
	rapid.Check(t, func(rt *rapid.T) {
		direct, through := newOwner(t), newOwner(t)
		q := testQueue(roomy)
		input := int64(rapid.IntRange(0, 60).Draw(rt, "input"))
		var first []*pb.Item
		r := &pb.ReserveRequest{Key: "acme/a", RequestId: "1", InputTokens: input, MaxOutputTokens: proto.Int64(40), MinOutputTokens: proto.Int64(1), Costs: map[string]int64{"images": 3}}
		first = append(first, &pb.Item{Call: &pb.Item_Reserve{Reserve: r}})
		if rapid.Bool().Draw(rt, "progress before") {
			first = append(first, drawSettle(rt))
		}
		for _, item := range first {
			_, _ = direct.apply(ctx, item), through.apply(ctx, item)
		}
		for range rapid.IntRange(1, 8).Draw(rt, "calls") {
			item := drawSettle(rt)
			if rapid.IntRange(0, 15).Draw(rt, "kind") == 0 {
				item = cancel("acme/a", "1")
			}
			_ = direct.apply(ctx, item)
			merges += mustPut(t, q, start, item)
			total++
		}
		for _, item := range drain(t, q) {
			_ = through.apply(ctx, item)
		}
		if diff := cmp.Diff(direct.observe(ctx, t), through.observe(ctx, t), protocmp.Transform()); diff != "" {
			rt.Fatalf("told of everything (-), through the outbox (+):\n%s", diff)
		}
		// The end is the same as well.
		last := drawSettle(rt)
		a, b := fmt.Sprint(direct.apply(ctx, last)), fmt.Sprint(through.apply(ctx, last))
		if a != b {
			rt.Fatalf("%v after everything: %s, through the outbox: %s", last, a, b)
		}
		if diff := cmp.Diff(direct.observe(ctx, t), through.observe(ctx, t), protocmp.Transform()); diff != "" {
			rt.Fatalf("after the last settle, told of everything (-), through the outbox (+):\n%s", diff)
		}
	})
	t.Logf("%d of %d calls were merged", merges, total)
	if merges == 0 && !testing.Short() { // twenty short histories may have nothing to merge
		t.Error("nothing was merged")
	}
}

// drawSettle draws a settle, which may be invalid.
func drawSettle(rt *rapid.T) *pb.Item {
	s := &pb.SettleRequest{Key: "acme/a", RequestId: "1"}
	number := func(name string, least int) *int64 {
		if rapid.Bool().Draw(rt, "has "+name) {
			return new(int64(rapid.IntRange(least, 60).Draw(rt, name)))
		}
		return nil
	}
	s.OutputTokens = number("output", -1)
	if rapid.IntRange(0, 2).Draw(rt, "input too") == 0 {
		s.InputTokens, s.CachedInputTokens = number("input", 0), number("cached", 0)
	}
	if rapid.IntRange(0, 2).Draw(rt, "fees too") == 0 {
		s.CacheWriteTokens, s.CacheWrite_1HTokens = number("written", 0), number("written for an hour", 0)
		s.Images, s.Searches = number("fee images", 0), number("searches", -1)
		s.ServiceTier = rapid.SampledFrom([]string{"", "flex", "priority"}).Draw(rt, "service tier")
	}
	if rapid.IntRange(0, 2).Draw(rt, "costs") == 0 {
		s.Costs = map[string]int64{}
		for _, dimension := range []string{"images", "sounds", "NO"} {
			if n := number(dimension, 0); n != nil && (dimension != "NO" || *n == 0) {
				s.Costs[dimension] = *n
			}
		}
	}
	if rapid.IntRange(0, 3).Draw(rt, "progress") > 0 {
		s.Final = new(bool)
	}
	return settle(s)
}
