// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// books are a ledger that keeps what it is told, as text.
type books struct {
	lines []string
	last  map[string]int64 // spend by id
}

func (b *books) Charged(c *limiter.Charged) {
	name := c.Status.String()
	if c.Status == limiter.NoStatus {
		name = "checked"
	}
	if c.Late {
		name += " late"
	}
	line := fmt.Sprintf("%s %s %s model=%s requests=%d input=%d-%d output=%d tokens=%d spend=%d", name, c.Key, c.ID, c.Model, c.Requests, c.Input, c.Cached, c.Output, c.Tokens, c.Spend)
	if c.ReservedAt != 0 {
		line += fmt.Sprintf(" after=%s", time.Duration(c.At-c.ReservedAt))
	}
	for _, cost := range c.Costs {
		line += fmt.Sprintf(" %s=%d", cost.Dimension, cost.Amount)
	}
	b.lines = append(b.lines, line)
	if b.last == nil {
		b.last = map[string]int64{}
	}
	b.last[string(c.Key)+" "+string(c.ID)] = c.Spend
}

// noBooks are a ledger that keeps nothing.
type noBooks struct{}

func (noBooks) Charged(*limiter.Charged) {}

// monthly is a limit on money that only counts.
func monthly() limiter.Limit {
	return limiter.Limit{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 1e12, Calendar: limiter.Month}
}

func TestLedger(t *testing.T) {
	b := &books{}
	n := newNode(t, limiter.Options{Ledger: b})
	p := n.plan("acme/alice", monthly())
	request := func(id string) *limiter.Request {
		return &limiter.Request{
			Key: "acme/alice", ID: id, Model: "m", Plan: p, Requests: 1, InputTokens: 100, OutputTokens: 50, Attempt: 7,
			Costs: []limiter.Cost{{Dimension: "images", Amount: 2}},
		}
	}
	at := func(seconds int) limiter.Time { return noon.Add(time.Duration(seconds) * time.Second) }
	usage := func(id string, final bool) limiter.Usage {
		return limiter.Usage{Key: "acme/alice", ID: id, InputTokens: 90, CachedInputTokens: 40, OutputTokens: 10, Final: final}
	}
	n.check(noon, request("check"))
	n.check(noon, request("check")) // a repeat
	for _, id := range []string{"settled", "cancelled", "expired", "late", "given back", "withdrawn", "ended", "ended for nothing"} {
		n.reserve(noon, request(id))
		n.reserve(noon, request(id))
	}
	n.settle(at(1), usage("settled", false))
	u := usage("settled", true)
	u.Costs = []limiter.Cost{{Dimension: "images", Amount: 3}, {Dimension: "pages", Amount: 1}}
	n.settle(at(2), u)
	n.settle(at(2), u)
	n.cancel(at(3), "acme/alice", "cancelled")
	n.settle(at(4), usage("late", false))
	for id, charge := range map[string]limiter.EndCharge{"ended": limiter.ChargeEstimate, "ended for nothing": limiter.ChargeNothing} {
		var d limiter.Adjustment
		if err := n.End(at(5), &limiter.Request{Key: "acme/alice", ID: "end " + id}, id, charge, &d); err != nil {
			t.Fatal(err)
		}
	}
	n.peek(at(60), request("")) // leases expire
	n.settle(at(62), usage("late", true))
	n.cancel(at(63), "acme/alice", "given back")
	if _, err := n.Withdraw(at(64), "acme/alice", "withdrawn", 7); err != nil {
		t.Fatal(err)
	}
	r, d := request("check again"), limiter.Decision{}
	r.Attempt++
	n.check(at(65), r)
	if err := n.WithdrawCheck(at(66), r, &d); err != nil {
		t.Fatal(err)
	}
	want := []string{
		"checked acme/alice check model=m requests=1 input=100-0 output=50 tokens=150 spend=200 after=0s images=2",
		"settled acme/alice settled model=m requests=1 input=90-40 output=10 tokens=100 spend=90 after=2s images=3 pages=1",
		"expired acme/alice expired model=m requests=1 input=100-0 output=0 tokens=100 spend=100 after=1m0s images=2",
		"expired acme/alice ended model=m requests=1 input=100-0 output=0 tokens=100 spend=200 after=5s images=2",
		"expired acme/alice given back model=m requests=1 input=100-0 output=0 tokens=100 spend=100 after=1m0s images=2",
		"expired acme/alice withdrawn model=m requests=1 input=100-0 output=0 tokens=100 spend=100 after=1m0s images=2",
		"expired acme/alice late model=m requests=1 input=100-40 output=10 tokens=100 spend=100 after=1m0s images=2",
		"settled late acme/alice late model=m requests=1 input=90-40 output=10 tokens=100 spend=90 after=1m2s images=2",
		"cancelled late acme/alice given back model=m requests=0 input=0-0 output=0 tokens=0 spend=0 after=1m3s",
		"cancelled late acme/alice withdrawn model=m requests=0 input=0-0 output=0 tokens=0 spend=0 after=1m4s",
		"checked acme/alice check again model=m requests=1 input=100-0 output=50 tokens=150 spend=200 after=0s images=2",
		"cancelled acme/alice check again model=m requests=0 input=0-0 output=0 tokens=0 spend=0",
	}
	slices.Sort(want) // leases that are due together expire in any order
	slices.Sort(b.lines)
	if diff := cmp.Diff(want, b.lines); diff != "" {
		t.Errorf("ledger (-want +got):\n%s", diff)
	}
}

// TestLedgerLendsNoSlices: what is charged from a slice is not known by call.
func TestLedgerLendsNoSlices(t *testing.T) {
	for _, ledger := range []limiter.Ledger{nil, &books{}} {
		n := newNode(t, limiter.Options{Ledger: ledger})
		r := &limiter.Request{Key: "acme", Plan: n.plan("acme", monthly()), Requests: 1, InputTokens: 1}
		d := n.check(noon, r)
		lent, err := n.Lend(noon, r, &limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Lease: time.Second}, &d)
		if want := ledger == nil; err != nil || lent != want {
			t.Errorf("with ledger %v, Lend() = %t, %v, want %t", ledger, lent, err, want)
		}
	}
}

// TestLedgerIsTheSpend: after any calls, and after the state has moved to another member, the
// last charges of all calls in the ledger are what the limits have counted, and so is what the
// members have counted as usage.
func TestLedgerIsTheSpend(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := &books{}
		var owners [2]*limiter.Engine
		var plans [2]*limiter.Plan
		part := limiter.PartitionOf("acme")
		for i := range owners {
			catalog := limiter.NewCatalog()
			owners[i] = limiter.New(limiter.Options{Catalog: catalog, Ledger: b, CountUsage: true})
			set, err := catalog.LimitSet([]limiter.Limit{monthly()})
			if err != nil {
				t.Fatal(err)
			}
			plans[i] = plan("acme", set)
		}
		owners[1].Close(part)
		owner, now, made := 0, noon, 0
		for range rapid.IntRange(1, 40).Draw(t, "calls") {
			now = now.Add(time.Duration(rapid.IntRange(0, 20).Draw(t, "seconds")) * time.Second)
			e, d := owners[owner], limiter.Decision{}
			id := fmt.Sprint("id", rapid.IntRange(0, made).Draw(t, "id"))
			r := &limiter.Request{
				Key: "acme", ID: id, Plan: plans[owner], Requests: 1, Attempt: rapid.Uint64Range(0, 2).Draw(t, "attempt"),
				InputTokens: int64(made), OutputTokens: rapid.Int64Range(0, 100).Draw(t, "output"), Model: strings.Repeat("m", made%80),
			}
			switch op := rapid.IntRange(0, 7).Draw(t, "op"); op {
			case 0:
				r.ID = fmt.Sprint("id", made)
				made++
				_ = e.Check(now, r, &d)
			case 1, 2:
				r.ID = fmt.Sprint("id", made)
				made++
				_ = e.Reserve(now, r, &d)
			case 3, 4:
				_ = e.Settle(now, &limiter.Usage{Key: "acme", ID: id, InputTokens: -1, OutputTokens: r.OutputTokens, Final: op == 3}, &d)
			case 5:
				_ = e.Cancel(now, "acme", id, &d)
			case 6:
				_, _ = e.Withdraw(now, "acme", id, r.Attempt)
			case 7:
				data, seq := e.SnapshotAt(now, part, nil)
				e.Close(part)
				owner = 1 - owner
				if err := owners[owner].ApplyFull(now, part, data, time.LoadLocation); err != nil {
					t.Fatal(err)
				}
				owners[owner].Open(part, seq)
			}
		}
		now = now.Add(5 * time.Minute) // all leases have expired
		var d limiter.Decision
		owners[owner].Peek(now, &limiter.Request{Key: "acme", Plan: plans[owner]}, &d)
		var sum int64
		for _, spend := range b.last {
			sum += spend
		}
		var counted int64
		for _, e := range owners {
			for _, total := range e.Usage() {
				counted += total.Charged.Spend - total.Refunded.Spend
			}
		}
		if want := used(d.Limits[0]); counted != want {
			t.Fatalf("what was charged less what was refunded is %d, want %d; the ledger was told:\n%s", counted, want, strings.Join(b.lines, "\n"))
		}
		if want := used(d.Limits[0]); sum != want {
			t.Fatalf("the ledger has a spend of %d, want %d; it was told:\n%s", sum, want, strings.Join(b.lines, "\n"))
		}
	})
}
