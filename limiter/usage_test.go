// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"math"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter"
)

// priced is a plan for a model of the price list.
func (n *node) priced(model string, limits ...limiter.Limit) *limiter.Plan {
	n.t.Helper()
	p := n.plan("acme", limits...)
	p.Rates.Name = model
	return p
}

func (n *node) wantUsage(what string, want ...limiter.UsageTotal) {
	n.t.Helper()
	if diff := cmp.Diff(want, n.Usage()); diff != "" {
		n.t.Errorf("usage %s (-want +got):\n%s", what, diff)
	}
}

// TestUsage: each call is counted once, when its charge is decided, and what is given back
// later is counted as that.
func TestUsage(t *testing.T) {
	n := newNode(t, limiter.Options{CountUsage: true})
	p := n.priced("m", monthly(), limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 6, Window: time.Hour})
	request := func(id string) *limiter.Request {
		return &limiter.Request{Key: "acme", ID: id, Plan: p, Requests: 1, InputTokens: 100, OutputTokens: 50, Attempt: 7}
	}
	at := func(seconds int) limiter.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	usage := func(id string, output int64, final bool) limiter.Usage {
		return limiter.Usage{Key: "acme", ID: id, InputTokens: 90, CachedInputTokens: 40, OutputTokens: output, Final: final}
	}
	total := func(charged, refunded limiter.Used) limiter.UsageTotal {
		return limiter.UsageTotal{Tier: "t", Model: "m", Charged: charged, Refunded: refunded}
	}
	if got := n.Usage(); len(got) != 0 {
		t.Fatalf("usage before any call: %v", got)
	}
	for range 3 {
		n.check(noon, request("check"))
	}
	charged := limiter.Used{Input: 100, Output: 50, Spend: 200}
	n.wantUsage("after a check and two repeats", total(charged, limiter.Used{}))

	for _, id := range []string{"settled", "cancelled", "expired", "late", "withdrawn"} {
		n.reserve(noon, request(id))
		n.reserve(noon, request(id))
	}
	if d := n.check(noon, request("denied")); d.Outcome != limiter.Denied {
		t.Fatalf("the seventh call is %s, want denied", d.Outcome)
	}
	n.settle(at(1), usage("settled", 10, false))
	n.cancel(at(1), "acme", "cancelled")
	n.wantUsage("of running reservations and a denial", total(charged, limiter.Used{}))

	for range 2 {
		n.settle(at(2), usage("settled", 20, true))
	}
	charged = limiter.Used{Input: 190, Cached: 40, Output: 70, Spend: 200 + 110}
	n.wantUsage("after a settle and a repeat", total(charged, limiter.Used{}))

	n.peek(at(60), request("")) // three leases expire, and cost their input
	charged.Input += 300
	charged.Spend += 300
	n.wantUsage("of expired leases", total(charged, limiter.Used{}))

	n.settle(at(61), usage("late", 5, false)) // progress
	if got := n.Usage()[0].Charged.Output; got != charged.Output+5 {
		t.Errorf("after late progress %d output tokens are charged, want %d", got, charged.Output+5)
	}
	n.settle(at(62), usage("late", 5, true)) // 90 with 40 cached and 5 output: 50 + 20 + 10
	if _, err := n.Withdraw(at(63), "acme", "withdrawn", 7); err != nil {
		t.Fatal(err)
	}
	got := n.Usage()[0]
	net := limiter.Used{
		Input: got.Charged.Input - got.Refunded.Input, Cached: got.Charged.Cached - got.Refunded.Cached,
		Output: got.Charged.Output - got.Refunded.Output, Spend: got.Charged.Spend - got.Refunded.Spend,
	}
	// The check, the settled, the expired and the late one.
	if want := (limiter.Used{Input: 100 + 90 + 100 + 90, Cached: 40 + 40, Output: 50 + 20 + 5, Spend: 200 + 110 + 100 + 80}); net != want {
		t.Errorf("charged less refunded is %+v, want %+v", net, want)
	}
	if got.Refunded.Spend == 0 || got.Refunded.Input == 0 {
		t.Errorf("refunded %+v, want what the late settle and the withdrawal gave back", got.Refunded)
	}
	r, d := request("taken back"), limiter.Decision{}
	r.Plan, r.Attempt = n.priced("", monthly()), 8
	n.check(at(70), r)
	if err := n.WithdrawCheck(at(70), r, &d); err != nil {
		t.Fatal(err)
	}
	one := limiter.Used{Input: 100, Output: 50, Spend: 200}
	n.wantUsage("after a check that is withdrawn", limiter.UsageTotal{Tier: "t", Charged: one, Refunded: one}, got)
}

// TestUsageIsOfTheOwner: a copy counts nothing, and the next owner counts the settle of what
// the former one has reserved, under the same model.
func TestUsageIsOfTheOwner(t *testing.T) {
	former, next := newNode(t, limiter.Options{CountUsage: true}), newNode(t, limiter.Options{CountUsage: true})
	part := limiter.PartitionOf("acme")
	next.Close(part)
	former.check(noon, &limiter.Request{Key: "acme", ID: "check", Plan: former.priced("gpt-*", monthly()), Requests: 1, InputTokens: 1})
	former.reserve(noon, &limiter.Request{Key: "acme", ID: "a", Plan: former.priced("gpt-*", monthly()), Requests: 1, InputTokens: 10})
	data, seq := former.SnapshotAt(noon, part, nil)
	former.Close(part)
	if err := next.ApplyFull(noon, part, data, time.LoadLocation); err != nil {
		t.Fatal(err)
	}
	next.Open(part, seq)
	if got := next.Usage(); len(got) != 0 {
		t.Errorf("a copy has counted %v", got)
	}
	for range 2 {
		next.settle(noon, limiter.Usage{Key: "acme", ID: "a", InputTokens: 10, OutputTokens: 4, Final: true})
	}
	former.wantUsage("of the former owner", limiter.UsageTotal{Tier: "t", Model: "gpt-*", Charged: limiter.Used{Input: 1, Spend: 1}})
	next.wantUsage("of the next owner", limiter.UsageTotal{Tier: "t", Model: "gpt-*", Charged: limiter.Used{Input: 10, Output: 4, Spend: 18}})
}

// TestUsageOfSlices: what others decide from a slice counts once, when it is returned.
func TestUsageOfSlices(t *testing.T) {
	total := func(u limiter.Used) limiter.UsageTotal { return limiter.UsageTotal{Tier: "t", Model: "m", Charged: u} }
	n := newNode(t, limiter.Options{CountUsage: true})
	r := &limiter.Request{Key: "acme", Plan: n.priced("m", bucketLimit), Requests: 1, InputTokens: 3, OutputTokens: 2}
	n.check(noon, r)
	n.lend(noon, r, "checks")
	n.wantUsage("while a slice is lent", total(limiter.Used{Input: 3, Output: 2, Spend: 7}))
	n.returnSlice(noon, "acme", "checks", 10)
	n.wantUsage("of 10 checks from it", total(limiter.Used{Input: 33, Output: 22, Spend: 77}))
	var d limiter.Decision
	if err := n.Return(noon, "acme", "checks", []int64{10}, nil, limiter.Used{}, &d); err == nil {
		t.Error("a slice was returned twice")
	}
	n.wantUsage("after a second return", total(limiter.Used{Input: 33, Output: 22, Spend: 77}))
	lost := n.lend(noon, r, "lost").Calls + 11
	n.peek(noon.Add(time.Minute), r)
	n.wantUsage("of a slice that was not returned", total(limiter.Used{Input: 3 * lost, Output: 2 * lost, Spend: 7 * lost}))

	x := newReserver(t, limiter.Options{CountUsage: true})
	x.request.Plan.Rates.Name = "m"
	x.lendReserves(noon)
	used := limiter.Used{Input: 70, Cached: 20, Output: 7, Spend: 99}
	for _, bad := range []limiter.Used{{Input: -1}, {Cached: 1}, {Spend: math.MaxInt64}} {
		if err := x.Return(noon, "acme", "slice", nothing, nil, bad, &d); err == nil {
			t.Errorf("a slice was returned with use %+v", bad)
		}
	}
	kept := x.kept("kept", 30, 10, time.Second)
	if err := x.Return(noon, "acme", "slice", nothing, []limiter.Kept{kept}, used, &d); err != nil {
		t.Fatal(err)
	}
	x.wantUsage("of reserves from a slice", total(used))
	x.settle(noon, limiter.Usage{Key: "acme", ID: "kept", InputTokens: 30, OutputTokens: 1, Final: true})
	x.wantUsage("of one that was kept", total(limiter.Used{Input: 100, Cached: 20, Output: 8, Spend: 99 + 32}))
}

// TestUsageIsBounded: names that come later than many others are not counted on their own, and
// a sum that would be too large stays the largest.
func TestUsageIsBounded(t *testing.T) {
	n := newNode(t, limiter.Options{CountUsage: true})
	p := n.plan("acme", limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 1e9, Window: time.Hour})
	r := &limiter.Request{Key: "acme", Plan: p, Requests: 1}
	var calls sync.WaitGroup
	for from := range 4 {
		calls.Go(func() {
			p, r, d := *p, *r, limiter.Decision{}
			r.Key, r.Plan = fmt.Sprint("root", from), &p
			p.Levels[0].End = len(r.Key)
			for i := range 1500 {
				p.Rates.Name = fmt.Sprint("model", i)
				if err := n.Check(noon, &r, &d); err != nil {
					t.Error(err)
				}
			}
		})
	}
	calls.Wait()
	if got := len(n.Usage()); got < 1000 || got > 1001 {
		t.Errorf("%d totals, want 1000 and one for further models", got)
	}
	p.Rates = limiter.Rates{Weights: limiter.DefaultWeights, Name: "model0"}
	r.InputTokens = limiter.MaxAmount
	for range 2000 {
		n.check(noon, r)
	}
	for _, total := range n.Usage() {
		if total.Model == "model0" && total.Charged.Input != math.MaxInt64 {
			t.Errorf("2000 calls of 2^53 tokens are %d tokens, want the largest number", total.Charged.Input)
		}
	}
}
