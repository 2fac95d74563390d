// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"flag"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
)

// TestMain keeps rapid from writing a file for every failure. The printed seed is enough.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("rapid.nofailfile", "true")
	os.Exit(m.Run())
}

var noon = limiter.Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}

// message is on its way from or to a holder.
type message struct {
	at      int64 // when it arrives
	deliver func()
}

// world is an owner and holders, and messages between them that are late, lost or repeated.
type world struct {
	*owner
	now      limiter.Time
	holders  []*slice.Holder
	paused   []int64 // until when a holder does nothing
	messages []message
	calls    []entry                 // all that were admitted
	own      []entry                 // by the owner
	sliced   int64                   // calls that were decided by holders
	taken    slice.Amounts           // by them
	returns  map[string]slice.Return // that holders have sent, also what was lost
}

func newWorld(limits []limiter.Limit, holders int, margin bool) *world {
	w := &world{owner: &owner{engine: newEngine(limits), margin: margin, known: map[string]bool{}}, returns: map[string]slice.Return{}, now: noon, paused: make([]int64, holders)}
	for range holders {
		w.holders = append(w.holders, &slice.Holder{})
	}
	return w
}

// advance moves time, and delivers what arrives in its order.
func (w *world) advance(d time.Duration) {
	end := w.now.Add(d)
	for {
		next := -1
		for i, m := range w.messages {
			if m.at <= end.Mono && (next < 0 || m.at < w.messages[next].at) {
				next = i
			}
		}
		if next < 0 {
			break
		}
		m := w.messages[next]
		w.messages = slices.Delete(w.messages, next, next+1)
		if m.at > w.now.Mono {
			w.now = w.now.Add(time.Duration(m.at - w.now.Mono))
		}
		w.expire(w.now)
		m.deliver()
	}
	w.now = end
	w.expire(w.now)
}

func (w *world) send(delay time.Duration, deliver func()) {
	w.messages = append(w.messages, message{w.now.Mono + int64(delay), deliver})
}

// call lets a holder decide, or the owner if the holder cannot and forwards the call.
func (w *world) call(holder int, cost slice.Amounts, forward bool) {
	if holder >= 0 && w.paused[holder] <= w.now.Mono && w.holders[holder].Take(w.now.Mono, &cost) {
		w.calls = append(w.calls, entry{w.now, cost})
		w.sliced++
		w.taken = sum(w.taken, cost)
		return
	}
	if (forward || holder < 0) && w.check(w.now, cost, false) {
		w.calls = append(w.calls, entry{w.now, cost})
		w.own = append(w.own, entry{w.now, cost})
	}
}

// ask lets a holder ask for a slice.
func (w *world) ask(holder int, amounts slice.Amounts, there, back time.Duration, lost bool) {
	h := w.holders[holder]
	if w.paused[holder] > w.now.Mono || !h.Ask(w.now.Mono) {
		return
	}
	w.send(there, func() {
		g, ok := w.lend(w.now, amounts)
		if lost {
			h.Refused() // by its timeout, in any order with the answer
			if ok && len(g.ID)%2 == 0 {
				w.send(back, func() { h.Granted(w.now.Mono, g) }) // it was only late
			}
			return
		}
		w.send(back, func() {
			if !ok {
				h.Refused()
				return
			}
			h.Granted(w.now.Mono, g)
		})
	})
}

// flush sends what a holder has to return.
func (w *world) flush(holder int, delay time.Duration, lost, twice bool) {
	h := w.holders[holder]
	if w.paused[holder] > w.now.Mono {
		return
	}
	for _, r := range slices.Clone(h.Due(w.now.Mono)) {
		w.returns[r.ID] = r
		if lost {
			continue
		}
		arrive := func() {
			w.returned(w.now, r.ID, r.Spent)
			h.Returned(r.ID)
		}
		w.send(delay, arrive)
		if twice {
			w.send(2*delay, arrive)
		}
	}
}

// settle waits until all slices are returned.
func (w *world) settle() {
	for i, h := range w.holders {
		w.paused[i] = 0
		h.Recall()
		w.flush(i, time.Millisecond, false, false)
	}
	w.advance(2 * ttl) // what is on its way arrives, and may be lent
	w.advance(2 * ttl)
}

// delays are how long messages take.
var delays = []time.Duration{0, 0, time.Millisecond, 20 * time.Millisecond, 300 * time.Millisecond, 1200 * time.Millisecond}

func sum(a, b slice.Amounts) slice.Amounts {
	for i, n := range b {
		a[i] += n
	}
	return a
}

// limitsOf draws limits of all kinds that refill.
func limitsOf(r *rand.Rand) []limiter.Limit {
	all := []limiter.Limit{
		{Name: "bucket", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 50 + r.Int64N(2000), Window: 10 * time.Second, Burst: 20 + r.Int64N(500)},
		{Name: "sliding", Dimension: limiter.Requests, Algorithm: limiter.SlidingWindow, Amount: 20 + r.Int64N(500), Window: 4 * time.Second},
		{Name: "fixed", Dimension: limiter.InputTokens, Algorithm: limiter.FixedWindow, Amount: 100 + r.Int64N(3000), Window: 3 * time.Second},
		{Name: "tokens", Dimension: limiter.InputTokens, Algorithm: limiter.TokenBucket, Amount: 100 + r.Int64N(9000), Window: 5 * time.Second},
	}
	var limits []limiter.Limit
	for _, l := range all {
		if r.IntN(2) == 0 {
			limits = append(limits, l)
		}
	}
	if len(limits) == 0 {
		limits = all[:1]
	}
	return limits
}

// TestSlicesAdmitNothingMore lets holders and the owner decide at random, with messages
// that are late, lost or repeated and holders that pause. No limit admits more than it
// promises. When all slices are returned, the state is what the owner's calls and the
// returns would have left without any slice.
func TestSlicesAdmitNothingMore(t *testing.T) {
	var sliced, owned int64
	rapid.Check(t, func(t *rapid.T) {
		r := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1))
		limits := limitsOf(r)
		w := newWorld(limits, 1+r.IntN(3), true)
		delay := func() time.Duration { return delays[r.IntN(len(delays))] }
		for range 20 + r.IntN(300) {
			h := r.IntN(len(w.holders))
			switch cost := (slice.Amounts{requests: 1, input: r.Int64N(20)}); r.IntN(16) {
			case 0:
				w.advance(time.Duration(r.Int64N(int64(2 * time.Second))))
			case 1:
				w.paused[h] = w.now.Mono + int64(r.IntN(2))*int64(3*time.Second)
			case 2:
				w.holders[h].Recall()
			case 3, 4:
				w.flush(h, delay(), r.IntN(4) == 0, r.IntN(2) == 0)
			case 5, 6, 7, 8:
				w.ask(h, slice.Amounts{requests: 1 + r.Int64N(100), input: 1 + r.Int64N(1000)}, delay(), delay(), r.IntN(10) == 0)
				w.advance(delay())
			case 9:
				for range r.IntN(40) {
					w.call(-1, cost, false)
				}
			default:
				forward := r.IntN(8) == 0
				for range r.IntN(40) {
					w.call(h, cost, forward)
				}
			}
		}
		w.settle()
		if problem := exceeded(limits, w.calls); problem != "" {
			t.Fatal(problem)
		}
		if len(w.lent) > 0 {
			t.Fatalf("%d slices are lent after all were returned", len(w.lent))
		}
		var spent slice.Amounts
		calls := int64(0)
		for _, r := range w.returns {
			spent, calls = sum(spent, r.Spent), calls+r.Calls
		}
		if spent != w.taken || calls != w.sliced {
			t.Fatalf("holders return %v of %d calls, want all that they have spent, %v of %d", spent, calls, w.taken, w.sliced)
		}
		model := newEngine(limits)
		events := slices.Concat(w.own, w.log)
		slices.SortStableFunc(events, func(a, b entry) int { return int(a.at.Mono - b.at.Mono) })
		for _, e := range events {
			model.check(e.at, e.cost, true)
		}
		if diff := cmp.Diff(model.peek(w.now), w.peek(w.now)); diff != "" {
			t.Fatalf("state (-without slices +with):\n%s", diff)
		}
		sliced += w.sliced
		owned += int64(len(w.own))
	})
	if sliced < owned/20 {
		t.Errorf("holders decided %d calls and the owner %d, want enough to test slices", sliced, owned)
	}
}

// TestMarginIsNeeded: if a token bucket lends no more than the slice, it refills what the
// holder has not spent yet, and both can be spent together.
func TestMarginIsNeeded(t *testing.T) {
	limits := []limiter.Limit{{Name: "rpm", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1000, Window: 10 * time.Second, Burst: 100}}
	for _, margin := range []bool{false, true} {
		w := newWorld(limits, 1, margin)
		w.ask(0, slice.Amounts{requests: 50}, 0, 0, false)
		w.advance(900 * time.Millisecond) // the bucket refills 90
		for range 100 {
			w.call(0, slice.Amounts{requests: 1}, false)
		}
		for range 100 {
			w.call(-1, slice.Amounts{requests: 1}, false)
		}
		problem := exceeded(limits, w.calls)
		if margin == (problem != "") {
			t.Errorf("with a margin %t: %q, want a limit that is exceeded only without one", margin, problem)
		}
	}
}

// TestLostHolderCostsItsSlice: a slice that is not returned is charged in full at the end of
// its lease, once, and a late return changes nothing.
func TestLostHolderCostsItsSlice(t *testing.T) {
	limits := []limiter.Limit{{Name: "day", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 1000, Window: 24 * time.Hour}}
	w := newWorld(limits, 1, true)
	w.ask(0, slice.Amounts{requests: 50}, 0, 0, false)
	w.advance(10 * time.Millisecond)
	for range 7 {
		w.call(0, slice.Amounts{requests: 1}, false)
	}
	w.advance(2 * ttl)
	if used := 1000 - w.peek(w.now)[0].Remaining; used != 50 {
		t.Errorf("%d used after the lease, want the whole slice, 50", used)
	}
	w.flush(0, 0, false, true)
	w.advance(time.Second)
	if used := 1000 - w.peek(w.now)[0].Remaining; used != 50 {
		t.Errorf("%d used after a late return, want 50", used)
	}
	if due := w.holders[0].Due(w.now.Mono); len(due) != 0 {
		t.Errorf("the holder has to return %v, want nothing", due)
	}
}

// TestSliceEndsWithItsWindow: what is left of a slice of a calendar window cannot be spent
// in the next one, which has its whole amount.
func TestSliceEndsWithItsWindow(t *testing.T) {
	limits := []limiter.Limit{{Name: "hour", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 100, Window: time.Hour}}
	w := newWorld(limits, 1, true)
	w.advance(time.Hour - 100*time.Millisecond)
	w.ask(0, slice.Amounts{requests: 50}, 0, 0, false)
	w.advance(90 * time.Millisecond)
	w.call(0, slice.Amounts{requests: 1}, false)
	w.advance(20 * time.Millisecond)
	for range 60 {
		w.call(0, slice.Amounts{requests: 1}, false)
	}
	if w.sliced != 1 {
		t.Errorf("the holder decided %d calls, want the one before the window ended", w.sliced)
	}
	for range 200 {
		w.call(-1, slice.Amounts{requests: 1}, false)
	}
	if problem := exceeded(limits, w.calls); problem != "" {
		t.Error(problem)
	}
}

func TestHolder(t *testing.T) {
	h := &slice.Holder{}
	one := &slice.Amounts{requests: 1}
	if h.Take(0, one) {
		t.Error("Take() without a slice = true, want false")
	}
	if !h.Ask(100) || h.Ask(101) {
		t.Error("Ask() = false, or true again before an answer, want one request")
	}
	h.Granted(150, slice.Grant{ID: "a", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	if h.Take(200, &slice.Amounts{requests: 5}) || h.Take(200, &slice.Amounts{input: 1}) {
		t.Error("Take() of more than the slice has = true, want false")
	}
	if !h.Take(200, one) || h.Ask(200) {
		t.Error("a slice of which a quarter is spent answers nothing or is renewed, want neither")
	}
	if !h.Take(200, one) || !h.Ask(210) {
		t.Error("a slice of which half is spent is not renewed")
	}
	if !h.Take(220, one) {
		t.Error("Take() while a slice is renewed = false, want true")
	}
	h.Granted(230, slice.Grant{ID: "b", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	want := []slice.Return{{ID: "a", Spent: slice.Amounts{requests: 3}, Calls: 3}}
	if diff := cmp.Diff(want, h.Due(230)); diff != "" {
		t.Errorf("Due() (-want +got):\n%s", diff)
	}
	if !h.Take(1209, one) || h.Take(1210, one) {
		t.Error("a slice is over before its deadline, or after it, which counts from Ask")
	}
	want = append(want, slice.Return{ID: "b", Spent: slice.Amounts{requests: 1}, Calls: 1})
	if diff := cmp.Diff(want, h.Due(1210)); diff != "" {
		t.Errorf("Due() (-want +got):\n%s", diff)
	}
	h.Returned("a")
	h.Returned("a")
	if diff := cmp.Diff(want[1:], h.Due(1210)); diff != "" {
		t.Errorf("Due() after an acknowledgement (-want +got):\n%s", diff)
	}
	// A slice that comes after its deadline or after a recall is returned unspent.
	h.Ask(2000)
	h.Granted(3000, slice.Grant{ID: "c", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	h.Ask(3000)
	h.Recall()
	h.Granted(3001, slice.Grant{ID: "d", Amounts: slice.Amounts{requests: 4}, Lease: 1000})
	if h.Take(3001, one) {
		t.Error("Take() of a slice that is over = true, want false")
	}
	want = append(want[1:], slice.Return{ID: "c"}, slice.Return{ID: "d"})
	if diff := cmp.Diff(want, h.Due(3001)); diff != "" {
		t.Errorf("Due() (-want +got):\n%s", diff)
	}
}

func TestTerms(t *testing.T) {
	for _, c := range []struct {
		amount        int64
		window, lease time.Duration
		want          int64
	}{
		{1000, 10 * time.Second, time.Second, 100},
		{1, time.Hour, time.Second, 1},
		{0, time.Hour, time.Second, 0},
		{1 << 53, time.Nanosecond, 24 * time.Hour, math.MaxInt64},
	} {
		if got := slice.Margin(c.amount, c.window, c.lease); got != c.want {
			t.Errorf("Margin(%d, %v, %v) = %d, want %d", c.amount, c.window, c.lease, got, c.want)
		}
	}
	for _, c := range []struct{ ttl, left, holder, owner time.Duration }{
		{time.Second, 0, time.Second, 1020 * time.Millisecond},
		{time.Second, time.Hour, time.Second, 1020 * time.Millisecond},
		{time.Second, 102 * time.Millisecond, 100 * time.Millisecond, 102 * time.Millisecond},
	} {
		if holder, owner := slice.Lease(c.ttl, c.left); holder != c.holder || owner != c.owner {
			t.Errorf("Lease(%v, %v) = %v, %v, want %v, %v", c.ttl, c.left, holder, owner, c.holder, c.owner)
		}
	}
	for _, c := range []struct {
		left, capacity, share, typical int64
		holders                        int
		want                           int64
	}{
		{1000, 1000, 500, 1, 1, 250},
		{1000, 1000, 1000, 1, 1, 500},
		{1000, 1000, 1000, 1, 5, 100},
		{199, 1000, 1000, 1, 1, 0},
		{1000, 1000, 100, 13, 1, 0},
		{1000, 1000, 100, 12, 1, 50},
	} {
		if got := slice.Size(c.left, c.capacity, c.share, c.typical, c.holders); got != c.want {
			t.Errorf("Size(%v) = %d, want %d", c, got, c.want)
		}
	}
}

// BenchmarkTake is what a call costs that a holder decides.
func BenchmarkTake(b *testing.B) {
	h := &slice.Holder{}
	h.Ask(0)
	h.Granted(0, slice.Grant{ID: strings.Repeat("x", 32), Amounts: slice.Amounts{1 << 53, 1 << 53}, Lease: 1 << 62})
	cost := &slice.Amounts{1, 900}
	b.ReportAllocs()
	for b.Loop() {
		if !h.Take(1, cost) {
			b.Fatal("the slice is over")
		}
	}
}
