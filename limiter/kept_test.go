// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter"
)

// reserveLimits are limits of each algorithm that reserves can be charged to from a slice.
var reserveLimits = []limiter.Limit{
	{Name: "rpm", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 10_000, Window: time.Minute},
	{Name: "tpm", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: 1_000_000, Window: time.Minute},
	{Name: "input", Dimension: limiter.InputTokens, Algorithm: limiter.SlidingWindow, Amount: 1_000_000, Window: 4 * time.Second},
	{Name: "spend", Dimension: limiter.Spend, Algorithm: limiter.FixedWindow, Amount: 10_000_000, Calendar: limiter.Day},
	{Name: "images", Dimension: "images", Algorithm: limiter.FixedWindow, Amount: 1000, Window: time.Hour},
}

// reserver is a node with a slice for reserves that cost no images.
type reserver struct {
	*node
	request *limiter.Request
	loan    *limiter.Loan
}

func newReserver(t testing.TB, o limiter.Options, limits ...limiter.Limit) *reserver {
	if limits == nil {
		limits = reserveLimits
	}
	n := newNode(t, o)
	x := &reserver{node: n, request: &limiter.Request{Key: "acme", Model: "m", Plan: n.plan("acme", limits...), ID: "first", Requests: 1, InputTokens: 100, OutputTokens: 50}}
	x.request.Plan.Version = 7
	return x
}

// lendReserves reserves, and lends a slice with the answer.
func (x *reserver) lendReserves(now limiter.Time) {
	x.t.Helper()
	x.reserve(now, x.request)
	x.loan = &limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Reserve: true}
	var d limiter.Decision
	if ok, err := x.Lend(now, x.request, x.loan, &d); err != nil || !ok {
		x.t.Fatalf("Lend() = %v, %v, want a slice", ok, err)
	}
}

// kept returns a reservation of the slice.
func (x *reserver) kept(id string, input, output int64, left time.Duration) limiter.Kept {
	x.t.Helper()
	r := &limiter.Request{Key: "acme", Model: "m", ID: id, Requests: 1, InputTokens: input, OutputTokens: output, TTL: 20 * time.Second}
	costs := make([]int64, x.loan.Tariff.Limits())
	granted, err := x.loan.Tariff.Reserve(r, costs)
	if err != nil {
		x.t.Fatalf("Tariff.Reserve() = %v", err)
	}
	return limiter.Kept{Request: r, Costs: costs, Granted: granted, Left: left}
}

func (x *reserver) giveBack(now limiter.Time, spent []int64, kept ...limiter.Kept) {
	x.t.Helper()
	var d limiter.Decision
	if err := x.Return(now, "acme", "slice", spent, kept, limiter.Used{}, &d); err != nil || d.Change == 0 || !d.Large {
		x.t.Fatalf("Return() = %v with change %d, large %v, want no error and a large change", err, d.Change, d.Large)
	}
}

// nothing is spent.
var nothing = make([]int64, len(reserveLimits))

// TestLendForReserves checks when slices for reserves are lent, and what they have.
func TestLendForReserves(t *testing.T) {
	x := newReserver(t, limiter.Options{})
	x.lendReserves(noon)
	l := x.loan
	if l.Calls != limiter.MaxKept || l.Tariff == nil {
		t.Fatalf("Lend() = %+v, want %d calls and a tariff", l, limiter.MaxKept)
	}
	if diff := cmp.Diff([]int64{l.Calls, 150 * l.Calls, 100 * l.Calls, 200 * l.Calls, 0}, l.Amounts); diff != "" {
		t.Errorf("amounts (-want +got):\n%s", diff)
	}
	var d limiter.Decision
	check := &limiter.Loan{ID: "for checks", Share: 10, Holders: 1, Tariff: l.Tariff}
	if ok, err := x.Lend(noon, x.request, check, &d); !ok || err != nil || check.Tariff != nil {
		t.Errorf("Lend() for checks = %v, %v with tariff %v, want none", ok, err, check.Tariff)
	}
	trial := limiter.Limit{Name: "trial", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 5, Window: time.Hour, Shadow: true}
	x = newReserver(t, limiter.Options{}, append(slices.Clone(reserveLimits), trial)...)
	x.lendReserves(noon)
	if got := x.loan.Amounts[5]; got != x.loan.Calls {
		t.Errorf("amount of a limit in shadow mode = %d, want that of %d calls: it bounds the slice", got, x.loan.Calls)
	}
	slots := limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1000}
	shadowSlots := slots
	shadowSlots.Shadow = true
	for what, tt := range map[string]struct {
		limits []limiter.Limit
		change func(*limiter.Request)
	}{
		"a slot":             {append(slices.Clone(reserveLimits), slots), nil},
		"a slot, in shadow":  {append(slices.Clone(reserveLimits), shadowSlots), nil},
		"without a price":    {nil, func(r *limiter.Request) { r.Plan.Rates.Priced, r.InputTokens, r.OutputTokens = false, 0, 0 }},
		"forced":             {nil, func(r *limiter.Request) { r.Force = true }},
		"more than fits":     {nil, func(r *limiter.Request) { r.OutputTokens = 2_000_000 }},
		"the default output": {nil, func(r *limiter.Request) { r.OutputTokens, r.Plan.DefaultOutput = -1, 2_000_000 }},
	} {
		x := newReserver(t, limiter.Options{}, tt.limits...)
		x.check(noon, &limiter.Request{Key: "acme", Model: "m", Plan: x.request.Plan}) // creates the record
		before := x.peek(noon, x.request)
		if tt.change != nil {
			tt.change(x.request)
		}
		l := &limiter.Loan{ID: "slice", Share: 1000, Holders: 1, Reserve: true}
		if ok, err := x.Lend(noon, x.request, l, &d); ok || err != nil {
			t.Errorf("%s: Lend() = %v, %v with %+v, want nothing", what, ok, err, l)
		}
		sameDecision(t, what, x.peek(noon, x.request), before)
	}
}

// TestReturnKeepsReservations: what is kept is like a reservation that the owner has made when
// the slice was returned, whatever is done with it then.
func TestReturnKeepsReservations(t *testing.T) {
	now := noon.Add(700 * time.Millisecond)
	used := func(final bool, images int64) *limiter.Usage {
		u := &limiter.Usage{Key: "acme", ID: "kept", InputTokens: 250, OutputTokens: 70, Final: final}
		if images > 0 {
			u.Costs = []limiter.Cost{{Dimension: "images", Amount: images}}
		}
		return u
	}
	var request *limiter.Request
	for what, then := range map[string]func(n *node, now limiter.Time) (limiter.Decision, error){
		"settled": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			return d, n.Settle(now, used(true, 0), &d)
		},
		"settled with a cost that the reserve had not": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			return d, n.Settle(now, used(true, 9), &d)
		},
		"progress, and settled after the lease": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			if err := n.Settle(now, used(false, 3), &d); err != nil {
				return d, err
			}
			n.peek(now.Add(25*time.Second), &limiter.Request{Key: "acme", Model: "m", Plan: plan("acme")})
			return d, n.Settle(now.Add(25*time.Second), used(true, 4), &d)
		},
		"cancelled": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			return d, n.Cancel(now, "acme", "kept", &d)
		},
		"cancelled by another key": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			return d, n.Cancel(now, "acme/alice", "kept", &d)
		},
		"settled after its lease": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			return d, n.Settle(now.Add(time.Minute), used(true, 0), &d)
		},
		"settled far above its estimate": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			u := used(true, 0)
			u.InputTokens = 4_000_000
			return d, n.Settle(now, u, &d)
		},
		"repeated, and the repeat withdrawn": func(n *node, now limiter.Time) (d limiter.Decision, err error) {
			r := *request
			r.Plan, r.Attempt = n.plan("acme", reserveLimits...), 5
			if err := n.Reserve(now, &r, &d); err != nil || !d.Replayed {
				t.Errorf("Reserve() again = %+v, %v, want its decision", d, err)
			}
			_, err = n.Withdraw(now, "acme", "kept", 5)
			return d, err
		},
	} {
		x, other := newReserver(t, limiter.Options{}), newReserver(t, limiter.Options{})
		x.lendReserves(noon)
		other.reserve(noon, other.request)
		k := x.kept("kept", 200, 60, 20*time.Second)
		request, k.Request.EstimatedInput = k.Request, true
		x.giveBack(now, []int64{3, 500, 300, 700, 0}, k) // 300 tokens of input and 200 of output
		other.check(now, &limiter.Request{Key: "acme", Model: "m", Plan: other.request.Plan, Requests: 3, InputTokens: 300, OutputTokens: 200, Force: true})
		r := *k.Request
		r.Plan = other.request.Plan
		other.reserve(now, &r)
		if s := x.Stats(); s.Slices != 0 || s.Reservations != 2 || s.Kept != 1 || s.IDs != 2 {
			t.Errorf("Stats() = %+v, want two reservations", s)
		}
		got, gotErr := then(x.node, now.Add(time.Second))
		want, wantErr := then(other.node, now.Add(time.Second))
		if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) || got.Status != want.Status {
			t.Errorf("%s: %v, %v, want %v, %v", what, got.Status, gotErr, want.Status, wantErr)
		}
		for _, later := range []time.Duration{time.Second, 5 * time.Second, 2 * time.Minute} {
			g, w := x.peek(now.Add(later), x.request), other.peek(now.Add(later), other.request)
			if diff := cmp.Diff(w.Limits, g.Limits); diff != "" {
				t.Errorf("%s, after %v: limits (-want +got):\n%s", what, later, diff)
			}
		}
	}
}

// TestReturnKeepsTheAnswer: a repeated reserve gets the decision of the slice, and another
// body is a conflict.
func TestReturnKeepsTheAnswer(t *testing.T) {
	x := newReserver(t, limiter.Options{})
	x.lendReserves(noon)
	k := x.kept("kept", 200, 60, 20*time.Second)
	k.Granted = 59
	x.giveBack(noon, nothing, k)
	r := *k.Request
	r.Plan, r.Attempt = x.request.Plan, 9
	d := x.reserve(noon, &r)
	if !d.Replayed || d.Outcome != limiter.Allowed || d.GrantedOutputTokens != 59 || d.Tier != "t" || d.PolicyVersion != 7 || d.Limits[1].Cost != 260 || d.Limits[3].Cost != 320 {
		t.Errorf("Reserve() again = %+v, want the decision of the slice", d)
	}
	r.InputTokens++
	var c limiter.Decision
	wantConflict(t, "Reserve with another body", x.Reserve(noon, &r, &c))
	wantConflict(t, "Check with its id", x.Check(noon, &r, &c))
}

// TestReturnErrorsOfKept checks what Return refuses to keep, and that it changes nothing then.
func TestReturnErrorsOfKept(t *testing.T) {
	x := newReserver(t, limiter.Options{})
	tiers, err := limiter.NewServiceTiers(map[string]int64{"twice": 2e6})
	if err != nil {
		t.Fatal(err)
	}
	x.request.Plan.Rates.ServiceTiers = tiers
	x.lendReserves(noon)
	before, seq := x.peek(noon, x.request), x.Seq(acme)
	good := x.kept("kept", 200, 60, time.Second)
	most := slices.Clone(x.loan.Amounts)
	many := make([]limiter.Kept, limiter.MaxKept+1)
	for i := range many {
		many[i] = x.kept(strconv.Itoa(i), 0, 0, time.Second)
	}
	change := func(f func(*limiter.Kept)) []limiter.Kept {
		k := x.kept("other", 200, 60, time.Second)
		f(&k)
		return []limiter.Kept{good, k}
	}
	for _, tt := range []struct {
		spent []int64
		kept  []limiter.Kept
		want  string
	}{
		{nothing, many, "kept: must have at most 512 entries, got 513"},
		{nothing, change(func(k *limiter.Kept) { k.Request.Key = "acme/alice" }), `kept.request.key: must be the key of the slice, got "acme/alice"`},
		{nothing, change(func(k *limiter.Kept) { k.Request.ID = "" }), `kept.request.request_id: must not be empty, got ""`},
		{nothing, change(func(k *limiter.Kept) { k.Costs = k.Costs[:4] }), "kept.costs: must have as many amounts as the slice has limits, 5, got 4"},
		{nothing, change(func(k *limiter.Kept) { k.Costs[0] = -1 }), "kept.costs: must be between 0 and 2^53, got -1"},
		{nothing, change(func(k *limiter.Kept) { k.Costs[2] = 1 << 62 }), "kept.costs: must be between 0 and 2^53, got 4611686018427387904"},
		{nothing, change(func(k *limiter.Kept) { k.Granted = -1 }), "kept.granted_output_tokens: must be between 0 and 2^53, got -1"},
		{nothing, change(func(k *limiter.Kept) { k.Granted = limiter.MaxAmount + 1 }), "kept.granted_output_tokens: must be between 0 and 2^53, got 9007199254740993"},
		{nothing, change(func(k *limiter.Kept) { k.Request.InputTokens, k.Request.ServiceTier = limiter.MaxAmount, "twice" }), "kept.request.input_tokens: makes a cost above 2^53, got 9007199254740992"},
		{nothing, change(func(k *limiter.Kept) { k.Costs[4] = 1 }), "kept.costs: with the 0 that were spent must be at most the 0 that were lent of limit images of acme, got 1"},
		{most, []limiter.Kept{good}, fmt.Sprintf("kept.costs: with the %d that were spent must be at most the %d that were lent of limit rpm of acme, got 1", most[0], most[0])},
		{nothing, change(func(k *limiter.Kept) { k.Costs[1] = most[1] - good.Costs[1] + 1 }), fmt.Sprintf("kept.costs: with the 0 that were spent must be at most the %d that were lent of limit tpm of acme, got %d", most[1], most[1]+1)},
		{[]int64{-1, 0, 0, 0, 0}, []limiter.Kept{good}, fmt.Sprintf("spent: must be from 0 to the %d that were lent of limit rpm of acme, got -1", most[0])},
	} {
		var d limiter.Decision
		if err := x.Return(noon, "acme", "slice", tt.spent, tt.kept, limiter.Used{}, &d); err == nil || err.Error() != tt.want || d.Change != 0 {
			t.Errorf("Return() = %v with change %d, want %s", err, d.Change, tt.want)
		}
	}
	sameDecision(t, "after errors", x.peek(noon, x.request), before)
	if x.Seq(acme) != seq || x.Stats().Kept != 0 || x.Stats().Reservations != 1 {
		t.Errorf("Seq() = %d, Stats() = %+v, want no change", x.Seq(acme), x.Stats())
	}
	most[0], most[1], most[2], most[3] = most[0]-1, most[1]-260, most[2]-200, most[3]-320
	x.giveBack(noon, most, good) // just fits
}

// TestKeptIDs: a reservation that the owner has made, too, is charged once, and so is one
// whose id cannot be kept.
func TestKeptIDs(t *testing.T) {
	x := newReserver(t, limiter.Options{})
	x.lendReserves(noon)
	known, twice, used, changed := x.kept("known", 200, 60, time.Second), x.kept("twice", 30, 0, time.Second), x.kept("used", 1000, 0, time.Second), x.kept("changed", 400, 0, time.Second)
	r := *known.Request
	r.Plan = x.request.Plan
	x.reserve(noon, &r)
	x.check(noon, &limiter.Request{Key: "acme", Plan: x.request.Plan, ID: "used", Model: "m"})
	x.reserve(noon, &limiter.Request{Key: "acme", Plan: x.request.Plan, ID: "changed", Model: "m"})
	x.giveBack(noon, nothing, known, twice, twice, used, changed)
	d := x.peek(noon, x.request)
	for i, want := range []int64{5, 150 + 260 + 30 + 1000 + 400, 100 + 200 + 30 + 1000 + 400, 200 + 320 + 30 + 1000 + 400, 0} {
		wantUsed(t, "after the return", d, i, want)
	}
	if s := x.Stats(); s.Kept != 1 || s.KeptKnown != 2 || s.KeptCharged != 2 || s.Reservations != 4 {
		t.Errorf("Stats() = %+v, want one reservation kept, two known, and two charged for good", s)
	}
}

// TestKeptWithoutRoom: the reservations of a root that has its share of ids are charged for
// good.
func TestKeptWithoutRoom(t *testing.T) {
	x := newReserver(t, limiter.Options{MaxIDs: 64})
	x.lendReserves(noon)
	for i := 0; ; i++ {
		r := *x.request
		r.ID, r.InputTokens, r.OutputTokens = "live-"+strconv.Itoa(i), 0, 0
		if x.reserve(noon, &r).Reason == limiter.IDsFull {
			break
		}
	}
	before := x.Stats()
	var kept []limiter.Kept
	for i := range 5 {
		kept = append(kept, x.kept("kept-"+strconv.Itoa(i), 10, 0, time.Second))
	}
	x.giveBack(noon, []int64{2, 0, 0, 0, 0}, kept...)
	s := x.Stats()
	if s.Kept+s.KeptCharged != 5 || s.KeptCharged < 4 || s.IDs > before.IDs || s.Reservations > before.Reservations+1 {
		t.Errorf("Stats() = %+v, want 5 reservations, of which 4 or more were charged for good", s)
	}
	live := int64(before.Reservations) - 1
	d := x.peek(noon, x.request)
	wantUsed(t, "after the return", d, 0, 1+live+2+5)
	wantUsed(t, "after the return", d, 2, 100+50)
	d = x.peek(noon.Add(3*time.Second), x.request)
	wantUsed(t, "after the leases", d, 2, 100+50)
}

// TestKeptExpires: what is left of a lease counts from the return, and one that is over
// expires at once.
func TestKeptExpires(t *testing.T) {
	for _, left := range []time.Duration{-time.Hour, 0, 1, 3 * time.Second, time.Hour} {
		x := newReserver(t, limiter.Options{})
		x.lendReserves(noon)
		x.giveBack(noon, nothing, x.kept("kept", 200, 60, left))
		last := min(max(left, 0), 20*time.Second)
		if last > 0 {
			if s := x.Stats(); s.Reservations != 2 || s.Expired != 0 {
				t.Errorf("left %v: Stats() = %+v, want a live reservation", left, s)
			}
			x.peek(noon.Add(last-1), x.request)
		}
		if s := x.Stats(); left <= 0 && s.Expired != 1 || left > 0 && s.Expired != 0 {
			t.Errorf("left %v: Stats() = %+v before the end of the lease", left, s)
		}
		d := x.peek(noon.Add(last), x.request)
		if s := x.Stats(); s.Expired != 1 || s.Reservations != 1 {
			t.Errorf("left %v: Stats() = %+v, want one that expired", left, s)
		}
		wantUsed(t, "after the lease: input only", d, 3, 200+200)
		if got := x.settle(noon.Add(last), limiter.Usage{Key: "acme", ID: "kept", InputTokens: 200, OutputTokens: 10, Final: true}); got.Status != limiter.Settled {
			t.Errorf("left %v: a late settle = %v", left, got.Status)
		}
		wantUsed(t, "after a late settle", x.peek(noon.Add(last), x.request), 3, 200+220)
	}
}

// TestHeirHasKept sends a return with reservations to the heir, which takes over, and moves
// the state of the heir with a snapshot.
func TestHeirHasKept(t *testing.T) {
	owner, heir := tracked(t)
	p := owner.plan("acme", reserveLimits...)
	heir.plan("acme", reserveLimits...)
	x := &reserver{node: owner, request: &limiter.Request{Key: "acme", Model: "m", Plan: p, ID: "first", Requests: 1, InputTokens: 100, OutputTokens: 50, ServiceTier: "flex"}}
	p.Rates = prices(t)
	x.lendReserves(noon)
	heir.mustApply(noon, owner.changes(noon, 0))
	after, now := owner.Seq(acme), noon.Add(100*time.Millisecond)
	x.giveBack(now, []int64{1, 150, 100, 200, 0}, x.kept("a", 200, 60, 20*time.Second), x.kept("b", 20, 6, 0), x.kept("c", 2, 1, 3*time.Second))
	heir.mustApply(now, owner.changes(now, after))
	heir.Open(acme, 1000)
	fresh := newNode(t, limiter.Options{})
	if err := fresh.Restore(now, acme, heir.Snapshot(now, acme, nil), time.LoadLocation); err != nil {
		t.Fatalf("Restore() = %v", err)
	}
	for i, n := range []*node{owner, heir, fresh} {
		if s := n.Stats(); s.Reservations != 3 || s.Slices != 0 {
			t.Errorf("Stats() of node %d = %+v, want three reservations", i, s)
		}
		later := now.Add(time.Second)
		for _, id := range []string{"a", "b"} {
			if d := n.settle(later, limiter.Usage{Key: "acme", ID: id, InputTokens: 150, CacheWriteTokens: 20, OutputTokens: 9, Costs: []limiter.Cost{{Dimension: "images", Amount: 2}}, Final: true}); d.Status != limiter.Settled {
				t.Errorf("node %d: settle of %s = %v", i, id, d.Status)
			}
		}
		n.peek(now.Add(4*time.Second), x.request)
	}
	want := owner.peek(now.Add(5*time.Second), x.request).Limits
	for _, n := range []*node{heir, fresh} {
		q := *x.request
		q.Plan = n.plan("acme", reserveLimits...)
		if diff := cmp.Diff(want, n.peek(now.Add(5*time.Second), &q).Limits); diff != "" {
			t.Errorf("limits (-owner +other):\n%s", diff)
		}
	}
}

// TestPolicyChangeBeforeKept changes the algorithm and the amount of limits while a slice for
// reserves is lent: what is kept is charged to the new limits.
func TestPolicyChangeBeforeKept(t *testing.T) {
	x := newReserver(t, limiter.Options{})
	x.lendReserves(noon)
	k := x.kept("kept", 200, 60, 20*time.Second)
	changed := slices.Clone(reserveLimits)
	changed[1].Algorithm, changed[2].Algorithm, changed[3].Algorithm = limiter.SlidingWindow, limiter.TokenBucket, limiter.TokenBucket
	changed[3].Calendar, changed[3].Window = limiter.NoCalendar, time.Hour
	x.request.Plan = x.plan("acme", changed[:4]...) // without images
	x.check(noon, &limiter.Request{Key: "acme", Model: "m", Plan: x.request.Plan})
	x.giveBack(noon, []int64{1, 2, 3, 4, 0}, k)
	d := x.peek(noon, x.request)
	for i, want := range []int64{1 + 1 + 1, 150 + 2 + 260, 100 + 3 + 200, 200 + 4 + 320} {
		wantUsed(t, "after the return", d, i, want)
	}
	x.settle(noon, limiter.Usage{Key: "acme", ID: "kept", InputTokens: 10, OutputTokens: 0, Costs: []limiter.Cost{{Dimension: "images", Amount: 2}}, Final: true})
	d = x.peek(noon, x.request)
	for i, want := range []int64{1 + 1 + 1, 150 + 2 + 10, 100 + 3 + 10, 200 + 4 + 10} {
		wantUsed(t, "after the settle", d, i, want)
	}
}

// TestKeptOfShadowLimit: a limit in shadow mode that has no room for a kept reservation is not
// charged for it, as it would not be for a reserve.
func TestKeptOfShadowLimit(t *testing.T) {
	trial := limiter.Limit{Name: "trial", Dimension: limiter.InputTokens, Algorithm: limiter.FixedWindow, Amount: 300, Window: time.Hour, Shadow: true}
	x := newReserver(t, limiter.Options{}, reserveLimits[0], trial)
	x.lendReserves(noon)
	x.giveBack(noon, []int64{1, 50}, x.kept("a", 140, 0, time.Second), x.kept("b", 140, 0, time.Second))
	wantUsed(t, "after the return", x.peek(noon, x.request), 1, 100+140+50)
	if d := x.cancel(noon, "acme", "b"); !d.Limits[1].Exceeded || d.Limits[0].Exceeded {
		t.Errorf("Cancel() = %+v, want the limit exceeded that was not charged", d.Limits)
	}
	x.cancel(noon, "acme", "a")
	wantUsed(t, "after cancels", x.peek(noon, x.request), 1, 100+50)
}

// TestSliceOfDiscountMoves: a slice for checks of a cheap service tier survives a snapshot.
func TestSliceOfDiscountMoves(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme", Plan: n.plan("acme", fixedLimit), Requests: 1, ServiceTier: "flex"}
	r.Plan.Rates = prices(t)
	n.check(noon, r)
	n.lend(noon, r, "slice")
	again := newNode(t, limiter.Options{})
	if err := again.Restore(noon, acme, n.Snapshot(noon, acme, nil), time.LoadLocation); err != nil {
		t.Fatalf("Restore() = %v", err)
	}
	again.returnSlice(noon, "acme", "slice", 7)
}

// TestReturnOfReservesAfterLease: what is lost with a holder is the whole slice, and the
// reservations are unknown.
func TestReturnOfReservesAfterLease(t *testing.T) {
	x := newReserver(t, limiter.Options{})
	x.lendReserves(noon)
	k := x.kept("kept", 200, 60, 20*time.Second)
	var d limiter.Decision
	now := noon.Add(4 * time.Second)
	if err := x.Return(now, "acme", "slice", nothing, []limiter.Kept{k}, limiter.Used{}, &d); !errors.Is(err, limiter.ErrUnknownReservation) {
		t.Errorf("Return() = %v, want %v", err, limiter.ErrUnknownReservation)
	}
	if err := x.Cancel(now, "acme", "kept", &d); !errors.Is(err, limiter.ErrUnknownReservation) || !strings.Contains(err.Error(), "unknown") {
		t.Errorf("Cancel() = %v, want %v", err, limiter.ErrUnknownReservation)
	}
	wantUsed(t, "after the lease", x.peek(now, x.request), 3, 200+x.loan.Amounts[3])
}

// TestReturnOfKeptDoesNotAllocate checks Lend for reserves and Return, with what is kept.
func TestReturnOfKeptDoesNotAllocate(t *testing.T) {
	x := newReserver(t, limiter.Options{MaxIDs: 256})
	x.lendReserves(noon)
	k := x.kept("kept", 200, 60, time.Second)
	x.giveBack(noon, nothing, k)
	now, list := noon, []limiter.Kept{k}
	var d limiter.Decision
	call := func() {
		now = now.Add(11 * time.Minute)
		if ok, err := x.Lend(now, x.request, x.loan, &d); err != nil || !ok {
			t.Fatalf("Lend() = %v, %v", ok, err)
		}
		if err := x.Return(now, "acme", "slice", nothing, list, limiter.Used{}, &d); err != nil {
			t.Fatalf("Return() = %v", err)
		}
	}
	for range 300 {
		call()
	}
	if allocs := testing.AllocsPerRun(200, call); allocs != 0 {
		t.Errorf("%v allocations, want 0", allocs)
	}
}

// BenchmarkReturnOfKept is a return with as many reservations as it may have, each of five
// limits: one critical section.
func BenchmarkReturnOfKept(b *testing.B) {
	x := newReserver(b, limiter.Options{})
	x.request.InputTokens, x.request.OutputTokens = 1, 1
	x.lendReserves(noon)
	kept := make([]limiter.Kept, limiter.MaxKept)
	for i := range kept {
		kept[i] = x.kept(strconv.Itoa(i), 1, 1, time.Second)
	}
	x.giveBack(noon, nothing, kept...)
	var d limiter.Decision
	now := noon
	b.ReportAllocs()
	for b.Loop() {
		b.StopTimer()
		now = now.Add(11 * time.Minute)
		for range 2 * limiter.MaxKept / 64 { // forgets what was kept before
			x.peek(now, x.request)
		}
		x.peek(now.Add(11*time.Minute), x.request)
		now = now.Add(11 * time.Minute)
		if ok, err := x.Lend(now, x.request, x.loan, &d); err != nil || !ok {
			b.Fatalf("Lend() = %v, %v", ok, err)
		}
		b.StartTimer()
		if err := x.Return(now, "acme", "slice", nothing, kept, limiter.Used{}, &d); err != nil {
			b.Fatal(err)
		}
	}
	if s := x.Stats(); s.KeptKnown > 0 || s.KeptCharged > 0 {
		b.Fatalf("Stats() = %+v, want all reservations kept", s)
	}
}
