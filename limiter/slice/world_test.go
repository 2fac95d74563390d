// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

var noon = limiter.Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}

// holder holds slices for calls of one kind. Its clock runs speed/1000 times as fast as that
// of the owner.
type holder struct {
	speed    int64
	paused   int64 // until when it does nothing, by the clock of the owner
	loan     *limiter.Loan
	deadline int64
	taken    int64 // calls of the loan
	asking   bool
	returns  []returned
}

type returned struct {
	id    string
	calls int64
}

func (h *holder) now(w *world) int64 { return w.now.Mono / 1000 * h.speed }

// take decides a call from memory.
func (h *holder) take(w *world) bool {
	if h.loan != nil && h.now(w) >= h.deadline {
		h.end()
	}
	if h.loan == nil || h.taken == h.loan.Calls {
		return false
	}
	h.taken++
	return true
}

// end ends the slice, which is to be returned.
func (h *holder) end() {
	if h.loan != nil {
		h.returns = append(h.returns, returned{h.loan.ID, h.taken})
		h.loan, h.taken = nil, 0
	}
}

// granted begins a slice that was asked for at a time, unless it is over.
func (h *holder) granted(w *world, loan *limiter.Loan, askedAt int64) {
	h.end()
	h.loan, h.deadline = loan, askedAt+int64(loan.Lease)
	if h.now(w) >= h.deadline {
		h.end()
	}
}

// message is on its way from or to a holder.
type message struct {
	at      int64 // when it arrives
	deliver func()
}

// world is an owner and holders, and messages between them that are late, lost or repeated.
type world struct {
	*owner
	of       call // what the holders' calls cost
	now      limiter.Time
	holders  []*holder
	messages []message
	calls    []entry // all that were admitted
	own      []entry // by the owner
	sliced   int64   // calls that were decided by holders
}

func newWorld(limits []limiter.Limit, of call, holders int, f fault) *world {
	w := &world{owner: &owner{engine: newEngine(limits), fault: f}, of: of, now: noon}
	for range holders {
		w.holders = append(w.holders, &holder{speed: 1000})
	}
	w.check(w.now, call{}, false) // creates the record
	return w
}

// advance delivers the messages of a time that passes, in their order.
func (w *world) advance(d time.Duration) {
	end := w.now.Add(d)
	for {
		next := -1
		for i := range w.messages {
			if w.messages[i].at <= end.Mono && (next < 0 || w.messages[i].at < w.messages[next].at) {
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

// call lets a holder decide a call, or the owner if the holder cannot and forwards it.
func (w *world) call(h *holder, forward bool) {
	if h.paused <= w.now.Mono && h.take(w) {
		w.calls = append(w.calls, entry{w.now, w.of})
		w.sliced++
		return
	}
	if forward {
		w.decide(w.of)
	}
}

// decide lets the owner decide a call.
func (w *world) decide(c call) {
	if w.check(w.now, c, false) {
		w.calls = append(w.calls, entry{w.now, c})
		w.own = append(w.own, entry{w.now, c})
	}
}

// ask lets a holder ask for a slice. A lost answer may come late, or never.
func (w *world) ask(h *holder, share int64, there, back time.Duration, lost bool) {
	if h.paused > w.now.Mono || h.asking {
		return
	}
	h.asking = true
	asked := h.now(w)
	w.send(there, func() {
		loan := w.lend(w.now, w.of, share, len(w.holders))
		h.asking = !lost
		if lost && w.next%2 == 0 {
			return
		}
		w.send(back, func() {
			h.asking = false
			if loan != nil {
				h.granted(w, loan, asked)
			}
		})
	})
}

// flush sends what a holder has to return.
func (w *world) flush(h *holder, delay time.Duration, lost, twice bool) {
	if h.paused > w.now.Mono || lost {
		return
	}
	for _, r := range h.returns {
		arrive := func() {
			w.returned(w.now, r.id, r.calls)
			h.returns = slices.DeleteFunc(h.returns, func(o returned) bool { return o == r })
		}
		w.send(delay, arrive)
		if twice {
			w.send(2*delay, arrive)
		}
	}
}

// settle waits until all slices are returned or over.
func (w *world) settle() {
	for _, h := range w.holders {
		h.paused = 0
		h.end()
		w.flush(h, time.Millisecond, false, false)
	}
	w.advance(4 * time.Second) // what is on its way arrives, and may be lent
	for _, h := range w.holders {
		h.end()
		w.flush(h, 0, false, true)
	}
	w.advance(4 * time.Second)
}

// delays are how long messages take.
var delays = []time.Duration{0, 0, 0, time.Millisecond, time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond, 20 * time.Millisecond, 200 * time.Millisecond, 1200 * time.Millisecond}

// limitsOf draws limits of all kinds that are lent.
func limitsOf(r *rand.Rand, f fault) []limiter.Limit {
	pick := func(windows ...time.Duration) time.Duration { return windows[r.IntN(len(windows))] }
	all := []limiter.Limit{
		{Name: "sliding-tokens", Dimension: limiter.InputTokens, Algorithm: limiter.SlidingWindow, Amount: 100 + r.Int64N(2000), Window: pick(300*time.Millisecond, 2*time.Second)},
		{Name: "bucket", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 50 + r.Int64N(1000), Window: 10 * time.Second, Burst: 100 + r.Int64N(500)},
		{Name: "sliding", Dimension: limiter.Requests, Algorithm: limiter.SlidingWindow, Amount: 20 + r.Int64N(500), Window: pick(500*time.Millisecond, 4*time.Second)},
		{Name: "fixed", Dimension: limiter.InputTokens, Algorithm: limiter.FixedWindow, Amount: 100 + r.Int64N(2000), Window: pick(700*time.Millisecond, 3*time.Second)},
		{Name: "tokens", Dimension: limiter.InputTokens, Algorithm: limiter.TokenBucket, Amount: 100 + r.Int64N(2000), Window: 5 * time.Second},
	}
	switch f {
	case asOfLoan: // in which reservations are not charged as of the loan, or have no margin
		return all[:1]
	case noMargin:
		return all[1:2]
	case lateLease: // which shows at the end of a window
		return all[3:4]
	}
	limits := slices.DeleteFunc(slices.Clone(all), func(limiter.Limit) bool { return r.IntN(2) == 0 })
	if len(limits) == 0 {
		limits = all[:2]
	}
	return limits
}

// run lets holders and the owner decide at random, with messages that are late, lost or
// repeated, holders that pause or have clocks of another speed, and another owner at times.
func run(seed uint64, f fault) *world {
	r := rand.New(rand.NewPCG(seed, 1))
	w := newWorld(limitsOf(r, f), call{requests: 1, input: r.Int64N(20)}, 1+r.IntN(3), f)
	for _, h := range w.holders {
		h.speed = 981 + r.Int64N(40)
	}
	delay := func() time.Duration { return delays[r.IntN(len(delays))] }
	for range 20 + r.IntN(300) {
		h := w.holders[r.IntN(len(w.holders))]
		switch r.IntN(16) {
		case 0:
			w.advance(time.Duration(r.Int64N(int64(2 * time.Second))))
		case 1:
			h.paused = w.now.Mono + int64(r.IntN(2))*int64(3*time.Second)
		case 2:
			if h.end(); r.IntN(4) == 0 {
				w.move(w.now)
			}
		case 3, 4:
			w.flush(h, delay(), r.IntN(4) == 0, r.IntN(2) == 0)
		case 5, 6, 7, 8:
			w.ask(h, 300+r.Int64N(701), delay(), delay(), r.IntN(10) == 0)
			w.advance(delay())
		case 9:
			for range r.IntN(300) {
				w.decide(call{requests: 1, input: r.Int64N(30)})
			}
		default:
			forward := r.IntN(4) == 0
			for range r.IntN(100) {
				w.call(h, forward)
			}
			if r.IntN(2) == 0 {
				h.end()
				w.flush(h, delay(), r.IntN(8) == 0, r.IntN(4) == 0)
			}
		}
	}
	w.settle()
	return w
}

// TestSlicesAdmitNothingMore: whatever happens to holders and messages, no limit admits more
// than it promises. When all slices are returned or over, the state is what the calls of the
// owner and the charges of slices would have left without any slice.
func TestSlicesAdmitNothingMore(t *testing.T) {
	check := func(t rapid.TB, seed uint64) *world {
		w := run(seed, noFault)
		if problem := exceeded(w.limits, w.calls); problem != "" {
			t.Fatal(problem)
		}
		model := newEngine(w.limits)
		events := slices.Concat(w.own, w.log)
		slices.SortStableFunc(events, func(a, b entry) int { return int(a.at.Mono - b.at.Mono) })
		charged := int64(0)
		for _, e := range events {
			charged += e.requests
			model.check(e.at, e.call, true)
		}
		if diff := cmp.Diff(model.peek(w.now), w.peek(w.now)); diff != "" {
			t.Fatalf("state (-without slices +with):\n%s", diff)
		}
		s := w.Stats()
		if s.Slices > 0 || len(w.lent) > 0 || s.IDs > 0 {
			t.Fatalf("%d slices and %d ids are left after all were returned", s.Slices, s.IDs)
		}
		admitted := int64(len(w.calls))
		if charged < admitted || w.expired == 0 && charged != admitted {
			t.Fatalf("%d calls were charged and %d admitted, and %d slices expired", charged, admitted, w.expired)
		}
		return w
	}
	// What the worlds try is counted in the same ones at each run.
	const worlds = 20
	var sliced, owned, returns, expired int64
	for seed := range uint64(worlds) {
		w := check(t, seed)
		sliced, owned = sliced+w.sliced, owned+int64(len(w.own))
		returns, expired = returns+w.ended, expired+w.expired
	}
	if sliced < owned/50 || returns < worlds/4 || expired < worlds/4 {
		t.Errorf("holders decided %d calls and the owner %d, and %d slices were returned and %d expired, want enough to test slices", sliced, owned, returns, expired)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.Uint64().Draw(t, "seed")) })
}

// TestFaultsAreFound checks that the worlds of TestSlicesAdmitNothingMore would find an owner
// that does not charge the margin, that charges returns as of when the slice was lent, or
// that lets a slice be spent beyond its lease.
func TestFaultsAreFound(t *testing.T) {
	for f, name := range map[fault]string{noMargin: "no margin", asOfLoan: "returns as of the loan", lateLease: "a late lease"} {
		found := false
		for seed := uint64(0); !found && seed < 500; seed++ {
			w := run(seed, f)
			found = exceeded(w.limits, w.calls) != ""
		}
		if !found {
			t.Errorf("%s: no limit admits more than it promises, want a test that finds the fault", name)
		}
	}
}

// TestMarginIsNeeded: if a token bucket is charged no more than the slice, it refills what the
// holder has not spent yet, and both can be spent together.
func TestMarginIsNeeded(t *testing.T) {
	limits := []limiter.Limit{{Name: "rpm", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: 1000, Window: 100 * time.Second, Burst: 200}}
	for _, f := range []fault{noFault, noMargin} {
		w := newWorld(limits, call{requests: 1}, 1, f)
		w.ask(w.holders[0], 1000, 0, 0, false)
		w.advance(900 * time.Millisecond) // the bucket refills 9
		for range 200 {
			w.call(w.holders[0], false)
			w.decide(call{requests: 1})
		}
		problem := exceeded(limits, w.calls)
		if (f == noFault) == (problem != "") || w.sliced == 0 {
			t.Errorf("fault %d: %q, want a limit that is exceeded only without a margin", f, problem)
		}
	}
}

// TestLostHolderCostsItsSlice: a slice that is not returned is charged in full at the end of
// its lease, once, and a late return changes nothing.
func TestLostHolderCostsItsSlice(t *testing.T) {
	limits := []limiter.Limit{{Name: "day", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 1000, Window: 24 * time.Hour}}
	w := newWorld(limits, call{requests: 1}, 1, noFault)
	h := w.holders[0]
	w.ask(h, 100, 0, 0, false)
	w.advance(10 * time.Millisecond)
	for range 7 {
		w.call(h, false)
	}
	w.advance(4 * time.Second)
	if used := 1000 - w.peek(w.now)[0].Remaining; used != 50 {
		t.Errorf("%d used after the lease, want the whole slice, 50", used)
	}
	h.end()
	w.flush(h, 0, false, true)
	w.advance(time.Second)
	if used := 1000 - w.peek(w.now)[0].Remaining; used != 50 {
		t.Errorf("%d used after a late return, want 50", used)
	}
}

// TestSliceEndsWithItsWindow: what is left of a slice of a calendar window cannot be spent
// in the next one, which has its whole amount.
func TestSliceEndsWithItsWindow(t *testing.T) {
	limits := []limiter.Limit{{Name: "hour", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 100, Window: time.Hour}}
	w := newWorld(limits, call{requests: 1}, 1, noFault)
	h := w.holders[0]
	w.advance(time.Hour - 100*time.Millisecond)
	w.ask(h, 1000, 0, 0, false)
	w.advance(70 * time.Millisecond)
	w.call(h, false)
	w.advance(40 * time.Millisecond)
	for range 60 {
		w.call(h, false)
	}
	if w.sliced != 1 {
		t.Errorf("the holder decided %d calls, want the one before the window ended", w.sliced)
	}
	for range 200 {
		w.decide(call{requests: 1})
	}
	if admitted := len(w.own); admitted != 100 {
		t.Errorf("the next window admits %d calls, want its whole amount", admitted)
	}
	if problem := exceeded(limits, w.calls); problem != "" {
		t.Error(problem)
	}
	if s := w.Stats(); s.Slices != 0 || s.SlicesExpired != 1 {
		t.Errorf("Stats() = %+v, want one slice that expired", s)
	}
}
