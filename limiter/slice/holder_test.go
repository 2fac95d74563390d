// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"fmt"
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

// one is what one of these calls costs.
var one = []int64{1, 20}

// take decides up to n calls, and reports whether all of them were decided.
func take(h *slice.Holder, now int64, n int) bool {
	for range n {
		if !h.Take(now, one) {
			return false
		}
	}
	return true
}

func wantDue(t *testing.T, h *slice.Holder, now int64, want ...slice.Return) {
	t.Helper()
	if diff := cmp.Diff(want, slices.Clone(h.Due(now))); diff != "" {
		t.Errorf("Due(%d) (-want +got):\n%s", now, diff)
	}
}

func TestHolder(t *testing.T) {
	h := &slice.Holder{}
	if h.Take(0, one) {
		t.Error("Take() without a slice = true, want false")
	}
	if !h.Ask(100) || h.Ask(101) {
		t.Error("Ask() = false, or true again before an answer, want one request")
	}
	h.Granted(150, grant("a", 100))
	for _, costs := range [][]int64{{5, 20}, {1, 101}, {-1, 20}, {1}, {1, 20, 0}, nil} {
		if h.Take(200, costs) || h.Reserve(200, costs) {
			t.Errorf("Take() or Reserve() of %v, which the slice does not have, = true, want false", costs)
		}
	}
	if !h.Take(200, one) || h.Renewable() || h.Ask(200) {
		t.Error("a slice of which a quarter is spent answers nothing or is renewed, want neither")
	}
	if !h.Take(200, one) || !h.Renewable() || !h.Ask(210) || h.Renewable() {
		t.Error("a slice of which half is spent is not renewed, or twice")
	}
	if !h.Take(220, one) {
		t.Error("Take() while a slice is renewed = false, want true")
	}
	h.Granted(230, grant("b", 210))
	a := slice.Return{ID: "a", Spent: []int64{3, 60}, Calls: 3}
	wantDue(t, h, 230, a)
	if !h.Take(1209, one) || h.Take(1210, one) {
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
	if h.Take(3001, one) {
		t.Error("Take() of a slice that is over = true, want false")
	}
	wantDue(t, h, 3001, b, slice.Return{ID: "c", Spent: []int64{0, 0}}, slice.Return{ID: "d", Spent: []int64{0, 0}})
	h.Returned("c")
	if !h.Ask(3002) {
		t.Error("Ask() after a recall = false, want true")
	}
	h.Granted(3003, grant("e", 3002))
	if !take(h, 3003, 4) || h.Live() {
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
	if !take(h, 12, 2) {
		t.Error("Take() after a second slice = false, want true")
	}
	for name, g := range map[string]*slice.Grant{
		"negative amount":    {Amounts: []int64{4, -2}, Costs: []int64{1, 1}},
		"negative cost":      {Amounts: []int64{4, 4}, Costs: []int64{1, -1}},
		"too small":          {Amounts: []int64{4, 4}, Costs: []int64{1, 5}},
		"an amount of 0":     {Amounts: []int64{0, 4}, Costs: []int64{1, 1}},
		"nothing bounds it":  {Amounts: []int64{slice.Unbounded, 4}, Costs: []int64{1, 0}},
		"a huge amount":      {Amounts: []int64{1<<53 + 1}, Costs: []int64{1}},
		"a huge cost":        {Amounts: []int64{slice.Unbounded, 4}, Costs: []int64{1<<53 + 1, 1}},
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
	if !h.Take(14, one) {
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
		take(h, int64(i), 4)
	}
	if h.Unacknowledged() != slice.MaxReturns || h.Ask(10) {
		t.Errorf("Ask() with %d returns = true, want false", h.Unacknowledged())
	}
	h.Granted(10, grant("e", 10))
	if h.Take(10, one) {
		t.Error("Take() of a slice that was not to be taken = true, want false")
	}
	h.Returned("b")
	h.Returned("e")
	if !h.Ask(11) {
		t.Error("Ask() after an acknowledgement = false, want true")
	}
}

// What a shadow limit was charged is reported, though it does not bound the slice. Nothing is
// spent of a limit of which the slice has nothing.
func TestHolderReportsLimitsThatDoNotBind(t *testing.T) {
	h := &slice.Holder{}
	h.Granted(0, &slice.Grant{ID: "a", Amounts: []int64{2, slice.Unbounded, 7, 0}, Costs: []int64{1, 1 << 52, 0, 0}, Lease: 10})
	if !h.Take(0, []int64{1, 1 << 52, 0, 0}) || h.Renewable() == false {
		t.Error("a slice with a shadow limit is not spent, or half of it is not")
	}
	if h.Take(0, []int64{0, 0, 0, 1}) {
		t.Error("Take() of a limit of which the slice has nothing = true, want false")
	}
	if h.Take(0, []int64{1, 1<<52 + 1, 0, 0}) {
		t.Error("Take() of more than 2^53 of a shadow limit = true, want false")
	}
	h.Recall(0)
	wantDue(t, h, 0, slice.Return{ID: "a", Spent: []int64{1, 1 << 52, 0, 0}, Calls: 1})
}

// What a reservation holds is not left, and half of the slice may be held. When it ends, what
// it used is spent, be it less or more than it held. What is held at the end of the slice is
// not in its return.
func TestHolderReserves(t *testing.T) {
	h := &slice.Holder{}
	h.Granted(0, grant("a", 0))
	if !h.Reserve(1, []int64{1, 49}) || h.Renewable() || !h.Reserve(1, []int64{1, 1}) || !h.Renewable() {
		t.Error("a slice of which half is held is not renewed, or one of which less is held")
	}
	if h.Reserve(1, []int64{1, 51}) || h.Used(0) != 2 || h.Used(1) != 50 {
		t.Errorf("Reserve() of more than is left = true, or used = %d, %d, want 2, 50", h.Used(0), h.Used(1))
	}
	for _, c := range [][2][]int64{
		{{1, 49}, {1, 100}}, {{1, 49}, {1, -1}}, {{-1, 49}, {1, 49}}, {{3, 49}, {1, 49}}, {{1, 51}, {1, 49}}, {{1}, {1, 49}}, {{1, 49}, {1}},
	} {
		if h.Correct(2, c[0], c[1]) {
			t.Errorf("Correct(%v, %v) = true, want false", c[0], c[1])
		}
	}
	if !h.Correct(2, []int64{1, 49}, []int64{1, 10}) || h.Used(1) != 11 || h.Renewable() == false {
		t.Errorf("Correct() to less = false, or used %d of the second limit, want 11; half of the first one is still used", h.Used(1))
	}
	if !h.Reserve(3, []int64{1, 5}) || !h.Correct(3, []int64{1, 5}, []int64{1, 90 - 1}) {
		t.Error("Correct() to more, which is left = false, want true")
	}
	if !h.Reserve(4, []int64{1, 0}) || !h.Correct(4, []int64{1, 0}, []int64{0, 0}) || !h.Reserve(4, []int64{1, 0}) {
		t.Error("what a cancelled reservation held is not left again")
	}
	h.Recall(5)
	if h.Correct(5, []int64{1, 1}, []int64{1, 1}) || h.Reserve(5, []int64{0, 0}) {
		t.Error("Correct() or Reserve() after the slice has ended = true, want false")
	}
	wantDue(t, h, 5, slice.Return{ID: "a", Spent: []int64{2, 99}, Calls: 5})
	h.Granted(10, grant("b", 10))
	h.Reserve(10, one)
	if h.Correct(1010, one, one) {
		t.Error("Correct() at the deadline = true, want false")
	}
}

// Whatever happens, no slice is overspent or spent after its deadline, each is returned
// once, and the returns have all that was decided, without what is held.
func TestHolderReturnsWhatWasSpent(t *testing.T) {
	for seed := range uint64(200) {
		r := rand.New(rand.NewPCG(seed, 1))
		h := &slice.Holder{}
		model := map[string]*modelSlice{}
		returned := map[string]bool{}
		now, decided, reported, corrected := int64(0), int64(0), int64(0), 0
		acknowledge := func() {
			for _, due := range slices.Clone(h.Due(now)) {
				m := model[due.ID]
				if !slices.Equal(due.Spent, m.spent) || due.Calls != m.calls {
					t.Fatalf("seed %d: %+v was returned of %+v", seed, due, m)
				}
				if returned[due.ID] {
					t.Fatalf("seed %d: %s was returned twice", seed, due.ID)
				}
				returned[due.ID] = true
				reported += due.Calls
				h.Returned(due.ID)
			}
		}
		cost := func() []int64 { return []int64{r.Int64N(3), r.Int64N(20)} }
		for range 500 {
			now += r.Int64N(30)
			m := model[h.ID()]
			switch r.IntN(12) {
			case 0:
				acknowledge()
			case 1:
				h.Recall(now)
			case 2:
				h.Refused()
			case 3:
				h.End()
			case 4, 5:
				if !h.Ask(now) && r.IntN(4) > 0 {
					continue
				}
				g := &slice.Grant{
					ID: strings.Repeat("i", len(model)+1), Lease: r.Int64N(300), AskedAt: now - r.Int64N(30),
					Amounts: []int64{r.Int64N(40), r.Int64N(400)}, Costs: cost(),
				}
				model[g.ID] = &modelSlice{grant: g, spent: []int64{0, 0}}
				now += r.Int64N(30)
				h.Granted(now, g)
			case 6, 7:
				if costs := cost(); h.Reserve(now, costs) {
					decided++
					m.calls++
					m.open = append(m.open, costs)
				}
			case 8, 9:
				if m == nil || len(m.open) == 0 {
					continue
				}
				last, actual := len(m.open)-1, cost()
				if h.Correct(now, m.open[last], actual) {
					corrected++
					m.open = m.open[:last]
					m.spend(actual)
				}
			default:
				if costs := cost(); h.Take(now, costs) {
					decided++
					m.calls++
					m.spend(costs)
				}
			}
			if problem := m.problem(now, h); problem != "" {
				t.Fatalf("seed %d: %s", seed, problem)
			}
		}
		h.Recall(now)
		acknowledge()
		if decided != reported || len(returned) != len(model) {
			t.Fatalf("seed %d: %d calls were decided and %d returned, of %d slices %d", seed, decided, reported, len(model), len(returned))
		}
		if seed == 0 && corrected == 0 {
			t.Error("no reservation was corrected: the test shows nothing")
		}
	}
}

// modelSlice is what a test knows of a slice.
type modelSlice struct {
	grant *slice.Grant
	spent []int64
	calls int64
	open  [][]int64 // what each reservation holds
}

func (m *modelSlice) spend(costs []int64) {
	for i, cost := range costs {
		m.spent[i] += cost
	}
}

// problem says what is wrong with the slice that h holds, "" if nothing is.
func (m *modelSlice) problem(now int64, h *slice.Holder) string {
	if m == nil || !h.Live() || h.ID() != m.grant.ID {
		return ""
	}
	if now >= m.grant.AskedAt+m.grant.Lease && h.Take(now, []int64{0, 0}) {
		return "a slice is spent after its deadline"
	}
	for i, amount := range m.grant.Amounts {
		used := m.spent[i]
		for _, held := range m.open {
			used += held[i]
		}
		if used > amount || used != h.Used(i) {
			return fmt.Sprintf("%d of %d are spent and held of limit %d, and used are %d", used, amount, i, h.Used(i))
		}
	}
	return ""
}

func TestTakeDoesNotAllocate(t *testing.T) {
	h := &slice.Holder{}
	h.Granted(0, &slice.Grant{ID: "a", Amounts: []int64{1 << 53, 1 << 53}, Costs: one, Lease: 1 << 62})
	for name, call := range map[string]func(){
		"Take()": func() { h.Take(1, one) }, "Reserve() and Correct()": func() { h.Reserve(1, one); h.Correct(1, one, one) },
	} {
		if got := testing.AllocsPerRun(1000, call); got != 0 {
			t.Errorf("%s makes %.1f allocations, want none", name, got)
		}
	}
}

// BenchmarkTake is what a call costs that a holder decides.
func BenchmarkTake(b *testing.B) {
	h := &slice.Holder{}
	h.Granted(0, &slice.Grant{ID: "a", Amounts: []int64{1 << 53, 1 << 53}, Costs: []int64{1, 1}, Lease: 1 << 62})
	costs := []int64{1, 1}
	b.ReportAllocs()
	for b.Loop() {
		if !h.Take(1, costs) {
			b.Fatal("the slice is over")
		}
	}
}
