// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter/slice"
)

// grant returns a slice of four calls that cost 1 of the first limit and 20 of the second.
func grant(id string, askedAt int64) *slice.Grant {
	return &slice.Grant{ID: id, Amounts: []int64{4, 100}, Costs: []int64{1, 20}, Lease: 1000, AskedAt: askedAt}
}

func wantDue(t *testing.T, h *slice.Holder, now int64, want ...slice.Return) {
	t.Helper()
	if diff := cmp.Diff(want, slices.Clone(h.Due(now))); diff != "" {
		t.Errorf("Due(%d) (-want +got):\n%s", now, diff)
	}
}

func TestHolder(t *testing.T) {
	h := &slice.Holder{}
	if h.Take(0, 1) {
		t.Error("Take() without a slice = true, want false")
	}
	if !h.Ask(100) || h.Ask(101) {
		t.Error("Ask() = false, or true again before an answer, want one request")
	}
	h.Granted(150, grant("a", 100))
	if h.Take(200, 5) {
		t.Error("Take() of more than the slice has = true, want false")
	}
	if !h.Take(200, 1) || h.Renewable() || h.Ask(200) {
		t.Error("a slice of which a quarter is spent answers nothing or is renewed, want neither")
	}
	if !h.Take(200, 1) || !h.Renewable() || !h.Ask(210) || h.Renewable() {
		t.Error("a slice of which half is spent is not renewed, or twice")
	}
	if !h.Take(220, 1) {
		t.Error("Take() while a slice is renewed = false, want true")
	}
	h.Granted(230, grant("b", 210))
	a := slice.Return{ID: "a", Spent: []int64{3, 60}, Calls: 3}
	wantDue(t, h, 230, a)
	if !h.Take(1209, 1) || h.Take(1210, 1) {
		t.Error("a slice is over before its deadline, or after it, which counts from when it was asked for")
	}
	b := slice.Return{ID: "b", Spent: []int64{1, 20}, Calls: 1}
	wantDue(t, h, 1210, a, b)
	h.Returned("a")
	h.Returned("a")
	wantDue(t, h, 1210, b)
	// A slice that comes after its deadline or after a recall is returned unspent.
	h.Ask(2000)
	h.Granted(3000, grant("c", 2000))
	h.Ask(3000)
	h.Recall(3000)
	h.Granted(3001, grant("d", 3000))
	if h.Take(3001, 1) {
		t.Error("Take() of a slice that is over = true, want false")
	}
	wantDue(t, h, 3001, b, slice.Return{ID: "c", Spent: []int64{0, 0}}, slice.Return{ID: "d", Spent: []int64{0, 0}})
	h.Returned("c")
	if !h.Ask(3002) {
		t.Error("Ask() after a recall = false, want true")
	}
	h.Granted(3003, grant("e", 3002))
	if !h.Take(3003, 4) || h.Live() {
		t.Error("a slice that is spent does not answer its last calls, or is not over")
	}
	wantDue(t, h, 3003, b, slice.Return{ID: "d", Spent: []int64{0, 0}}, slice.Return{ID: "e", Spent: []int64{4, 80}, Calls: 4})
}

// A slice that was lent although the one before has more than half left is returned, and so
// is one whose amounts cannot be spent.
func TestHolderReturnsWhatItDoesNotNeed(t *testing.T) {
	h := &slice.Holder{}
	h.Granted(10, grant("a", 0))
	h.Granted(11, grant("b", 0))
	unspent := slice.Return{ID: "b", Spent: []int64{0, 0}}
	wantDue(t, h, 11, unspent)
	h.Granted(11, grant("b", 0))
	h.Granted(11, grant("a", 0))
	wantDue(t, h, 11, unspent) // an answer that arrives again ends nothing
	h.Returned("b")
	if !h.Take(12, 2) {
		t.Error("Take() after a second slice = false, want true")
	}
	for name, g := range map[string]*slice.Grant{
		"negative amount":    {Amounts: []int64{4, -1}, Costs: []int64{1, 1}},
		"negative cost":      {Amounts: []int64{4, 4}, Costs: []int64{1, -1}},
		"too small":          {Amounts: []int64{4, 4}, Costs: []int64{1, 5}},
		"nothing bounds it":  {Amounts: []int64{0, 4}, Costs: []int64{1, 0}},
		"no cost of a limit": {Amounts: []int64{4, 4}, Costs: []int64{1}},
		"no limits":          {},
		"no time":            {Amounts: []int64{4}, Costs: []int64{1}, Lease: -1001},
	} {
		g.ID = name
		g.Lease += 1000
		h.Granted(13, g)
		wantDue(t, h, 13, slice.Return{ID: name, Spent: make([]int64, len(g.Amounts))})
		h.Returned(name)
	}
	if !h.Take(14, 1) {
		t.Error("Take() after slices that are invalid = false, want true: they do not end the one that is held")
	}
}

// While too many returns are not acknowledged, no slice is asked for.
func TestHolderStopsAskingWithoutAcknowledgements(t *testing.T) {
	h := &slice.Holder{}
	ids := []string{"a", "b", "c", "d"}
	for i, id := range ids {
		if !h.Ask(int64(i)) {
			t.Fatalf("Ask() with %d returns = false, want true", i)
		}
		h.Granted(int64(i), grant(id, int64(i)))
		h.Take(int64(i), 4)
	}
	if h.Unacknowledged() != slice.MaxReturns || h.Ask(10) {
		t.Errorf("Ask() with %d returns = true, want false", h.Unacknowledged())
	}
	h.Granted(10, grant("e", 10))
	if h.Take(10, 1) {
		t.Error("Take() of a slice that was not to be taken = true, want false")
	}
	h.Returned("b")
	h.Returned("e")
	if !h.Ask(11) {
		t.Error("Ask() after an acknowledgement = false, want true")
	}
}

// What a shadow limit was charged is reported, though it does not bound the slice.
func TestHolderReportsLimitsThatDoNotBind(t *testing.T) {
	h := &slice.Holder{}
	h.Granted(0, &slice.Grant{ID: "a", Amounts: []int64{2, 0, 7}, Costs: []int64{1, 1 << 53, 0}, Lease: 10})
	h.Take(0, 1)
	h.Recall(0)
	wantDue(t, h, 0, slice.Return{ID: "a", Spent: []int64{1, 1 << 53, 0}, Calls: 1})
	if got := slice.Product(1<<53, 1<<53); got != math.MaxInt64 {
		t.Errorf("Product(2^53, 2^53) = %d, want 2^63-1", got)
	}
}

// Whatever happens, no slice is overspent or spent after its deadline, each is returned
// once, and the returns have all calls that were decided.
func TestHolderReturnsWhatWasSpent(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := &slice.Holder{}
		grants := map[string]*slice.Grant{}
		returned := map[string]bool{}
		now, decided, reported := int64(0), int64(0), int64(0)
		acknowledge := func() {
			for _, due := range slices.Clone(h.Due(now)) {
				g := grants[due.ID]
				for i, spent := range due.Spent {
					if spent != due.Calls*g.Costs[i] || g.Amounts[i] > 0 && spent > g.Amounts[i] {
						t.Fatalf("seed %d: %+v was returned of %+v", seed, due, g)
					}
				}
				if returned[due.ID] {
					t.Fatalf("seed %d: %s was returned twice", seed, due.ID)
				}
				returned[due.ID] = true
				reported += due.Calls
				h.Returned(due.ID)
			}
		}
		for range 500 {
			now += r.Int64N(30)
			switch r.IntN(10) {
			case 0:
				acknowledge()
			case 1:
				h.Recall(now)
			case 2:
				h.Refused()
			case 3, 4, 5:
				asked := max(0, now-r.Int64N(50))
				if h.Ask(now) {
					asked = now
				}
				g := &slice.Grant{
					ID: strings.Repeat("x", len(grants)+1), Lease: r.Int64N(200), AskedAt: asked,
					Amounts: []int64{r.Int64N(40), r.Int64N(400)}, Costs: []int64{r.Int64N(3), r.Int64N(20)},
				}
				grants[g.ID] = g
				now += r.Int64N(30)
				h.Granted(now, g)
			default:
				n := 1 + r.Int64N(3)
				if h.Take(now, n) {
					decided += n
				}
			}
		}
		h.Recall(now)
		acknowledge()
		if decided != reported || len(returned) != len(grants) {
			t.Fatalf("seed %d: %d calls were decided and %d returned, of %d slices %d", seed, decided, reported, len(grants), len(returned))
		}
	}
}

func TestTakeDoesNotAllocate(t *testing.T) {
	h := &slice.Holder{}
	h.Granted(0, &slice.Grant{ID: "a", Amounts: []int64{1 << 53}, Costs: []int64{1}, Lease: 1 << 62})
	if got := testing.AllocsPerRun(1000, func() { h.Take(1, 1) }); got != 0 {
		t.Errorf("Take() makes %.1f allocations, want none", got)
	}
}

// BenchmarkTake is what a call costs that a holder decides.
func BenchmarkTake(b *testing.B) {
	h := &slice.Holder{}
	h.Granted(0, &slice.Grant{ID: "a", Amounts: []int64{1 << 53, 1 << 62}, Costs: []int64{1, 1}, Lease: 1 << 62})
	b.ReportAllocs()
	for b.Loop() {
		if !h.Take(1, 1) {
			b.Fatal("the slice is over")
		}
	}
}
