// SPDX-License-Identifier: Apache-2.0

package slice_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
)

// reserveFault is a mistake of a holder of slices for reserves, which the tests must find.
type reserveFault int

const (
	noReserveFault reserveFault = iota
	keepsNothing                // returns slices without the reservations that are open
	frees                       // a settle frees twice what is not used
)

// reserveWorld is an owner and holders that answer reserves from slices, and settle and cancel
// there, with messages that are late, lost or repeated.
type reserveWorld struct {
	*engine
	rand     *rand.Rand
	fault    reserveFault
	now      limiter.Time
	next     int
	holders  []*reserver
	messages []message
	entries  []entry      // reserves that were admitted, at their times, with what they cost in the end
	owned    []*admitted  // reservations that the owner made
	settled  map[int]bool // entries that were settled or cancelled

	sliced, corrected, kept, moved int64
}

// admitted is a reserve that was admitted.
type admitted struct {
	request *limiter.Request
	costs   []int64
	entry   int   // its index
	due     int64 // end of its lease, by the clock of the owner
}

// reserver holds slices for reserves.
type reserver struct {
	holder  slice.Holder
	tariff  *limiter.Tariff
	open    []*admitted
	returns []*keptReturn
	speed   int64 // of its clock, in thousandths
	paused  int64
}

type keptReturn struct {
	slice.Return
	kept []*admitted
	then []*limiter.Usage // settles that wait for the acknowledgement
}

func (h *reserver) now(w *reserveWorld) int64 { return w.now.Mono / 1000 * h.speed }

// advance delivers the messages of a time that passes, in their order.
func (w *reserveWorld) advance(d time.Duration) {
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
		m.deliver()
	}
	w.now = end
}

func (w *reserveWorld) send(delay time.Duration, deliver func()) {
	w.messages = append(w.messages, message{w.now.Mono + int64(delay), deliver})
}

// reserveRequest draws a reserve.
func (w *reserveWorld) reserveRequest() *limiter.Request {
	w.next++
	r := w.request(call{1, w.rand.Int64N(12), 0})
	r.OutputTokens = max(0, w.rand.Int64N(24)-8)
	r.ID, r.TTL = fmt.Sprint("r", w.next), time.Duration(1+w.rand.IntN(20))*time.Second
	return r
}

// admit notes a reserve that was admitted.
func (w *reserveWorld) admit(r *limiter.Request, costs []int64) *admitted {
	w.entries = append(w.entries, entry{w.now, call{r.Requests, r.InputTokens, r.OutputTokens}})
	return &admitted{r, costs, len(w.entries) - 1, w.now.Mono + int64(r.TTL)}
}

// reserveAtOwner lets the owner decide a reserve.
func (w *reserveWorld) reserveAtOwner(r *limiter.Request) bool {
	var d limiter.Decision
	if err := w.Reserve(w.now, r, &d); err != nil {
		panic(err)
	}
	if d.Outcome != limiter.Allowed {
		return false
	}
	w.owned = append(w.owned, w.admit(r, nil))
	return true
}

// ask lets a holder send a reserve that asks for a slice.
func (w *reserveWorld) ask(h *reserver, share int64, there, back time.Duration, lost bool) {
	if h.paused > w.now.Mono || !h.holder.Ask(h.now(w)) {
		h.collect(w)
		return
	}
	h.collect(w)
	asked := h.now(w)
	w.send(there, func() {
		r := w.reserveRequest()
		l := &limiter.Loan{ID: "slice-" + r.ID, Share: share, Holders: len(w.holders), Reserve: true}
		var d limiter.Decision
		ok := false
		if w.reserveAtOwner(r) {
			var err error
			if ok, err = w.Lend(w.now, r, l, &d); err != nil {
				panic(err)
			}
		}
		if lost {
			h.holder.Refused()
			return
		}
		w.send(back, func() {
			if !ok {
				h.holder.Refused()
				return
			}
			costs := make([]int64, len(l.Amounts))
			if _, err := l.Tariff.Reserve(r, costs); err != nil {
				panic(err)
			}
			taken := h.holder.Granted(h.now(w), &slice.Grant{ID: l.ID, Amounts: l.Amounts, Costs: costs, Lease: int64(l.Lease), AskedAt: asked})
			h.collect(w) // the slice before has ended
			if taken {
				h.tariff = l.Tariff
			}
		})
	})
}

// collect notes the returns of slices that have ended, with their open reservations.
func (h *reserver) collect(w *reserveWorld) {
	for _, r := range h.holder.Due(h.now(w)) {
		if slices.ContainsFunc(h.returns, func(o *keptReturn) bool { return o.ID == r.ID }) {
			continue
		}
		k := &keptReturn{Return: r}
		if r.Calls > 0 {
			k.kept, h.open = h.open, nil
		}
		if w.fault == keepsNothing {
			k.kept = nil
		}
		h.returns = append(h.returns, k)
	}
}

// reserve answers a reserve from the slice, or forwards it.
func (w *reserveWorld) reserve(h *reserver, forward bool) {
	r := w.reserveRequest()
	if h.paused <= w.now.Mono && h.holder.Live() && len(h.open) < limiter.MaxKept {
		costs := make([]int64, h.tariff.Limits())
		if _, err := h.tariff.Reserve(r, costs); err != nil {
			panic(err)
		}
		if h.holder.Reserve(h.now(w), costs) {
			h.open = append(h.open, w.admit(r, costs))
			w.sliced++
			return
		}
	}
	h.collect(w)
	if forward {
		w.reserveAtOwner(r)
	}
}

// usage draws what a reserve has used: not more than was reserved.
func (w *reserveWorld) usage(a *admitted) *limiter.Usage {
	used := &w.entries[a.entry].call
	used.input, used.output = w.rand.Int64N(used.input+1), w.rand.Int64N(used.output+1)
	w.settled[a.entry] = true
	return &limiter.Usage{Key: key, ID: a.request.ID, InputTokens: used.input, OutputTokens: used.output, Final: true}
}

// settle settles or cancels an open reservation of a slice there, or returns the slice and
// lets the owner settle it.
func (w *reserveWorld) settle(h *reserver) {
	if h.collect(w); len(h.open) == 0 || h.paused > w.now.Mono {
		return
	}
	i := w.rand.IntN(len(h.open))
	a := h.open[i]
	if a.due <= w.now.Mono {
		return
	}
	actual := make([]int64, len(a.costs))
	u := w.usage(a)
	if w.rand.IntN(4) == 0 { // a cancel
		w.entries[a.entry].call, u = call{}, nil
	} else if _, err := h.tariff.Settle(a.request, u, a.costs, actual); err != nil {
		panic(err)
	}
	if w.fault == frees {
		for j := range actual {
			actual[j] = max(0, 2*actual[j]-a.costs[j])
		}
	}
	if u == nil || w.rand.IntN(3) > 0 {
		if !h.holder.Correct(h.now(w), a.costs, actual) {
			panic("Correct() of less than was reserved = false")
		}
		h.open = slices.Delete(h.open, i, i+1)
		w.corrected++
		return
	}
	h.holder.End()
	h.collect(w)
	last := h.returns[len(h.returns)-1]
	last.then = append(last.then, u)
}

// settleOwned settles a reservation that the owner made.
func (w *reserveWorld) settleOwned() {
	if len(w.owned) == 0 {
		return
	}
	i := w.rand.IntN(len(w.owned))
	a := w.owned[i]
	w.owned = slices.Delete(w.owned, i, i+1)
	if a.due <= w.now.Mono {
		return
	}
	w.settleAtOwner(w.usage(a))
}

// settleAtOwner sends a settle to the owner. It may have lost the reservation with its slice,
// which was charged in full then.
func (w *reserveWorld) settleAtOwner(u *limiter.Usage) {
	var d limiter.Decision
	if err := w.Settle(w.now, u, &d); err != nil && !errors.Is(err, limiter.ErrUnknownReservation) {
		panic(err)
	}
}

// flush sends what a holder has to return.
func (w *reserveWorld) flush(h *reserver, delay time.Duration, lost, twice bool) {
	if h.collect(w); h.paused > w.now.Mono || lost {
		return
	}
	for _, r := range h.returns {
		var kept []limiter.Kept
		for _, a := range r.kept {
			kept = append(kept, limiter.Kept{Request: a.request, Costs: a.costs, Granted: a.request.OutputTokens, Left: time.Duration(a.due - w.now.Mono)})
		}
		arrive := func() {
			var d limiter.Decision
			switch err := w.Return(w.now, key, r.ID, r.Spent, kept, limiter.Used{}, &d); {
			case err == nil:
				w.kept += int64(len(kept))
			case !errors.Is(err, limiter.ErrUnknownReservation):
				panic(err)
			}
			for _, u := range r.then {
				w.settleAtOwner(u)
			}
			r.then = nil
			h.holder.Returned(r.ID)
			h.returns = slices.DeleteFunc(h.returns, func(o *keptReturn) bool { return o.ID == r.ID })
		}
		w.send(delay, arrive)
		if twice {
			w.send(2*delay, arrive)
		}
	}
}

// move continues with another engine, which has the state of the one before.
func (w *reserveWorld) move() {
	next := newEngine(w.limits)
	part := limiter.PartitionOf(key)
	if err := next.Restore(w.now, part, w.Snapshot(w.now, part, nil), time.LoadLocation); err != nil {
		panic(err)
	}
	w.engine = next
	w.moved++
}

// runReserves lets holders and the owner decide at random.
func runReserves(seed uint64, f reserveFault) *reserveWorld {
	r := rand.New(rand.NewPCG(seed, 2))
	limits := limitsOf(r, noFault)
	limits = append(limits, limiter.Limit{Name: "output", Dimension: limiter.OutputTokens, Algorithm: limiter.FixedWindow, Amount: 500 + r.Int64N(3000), Window: 3 * time.Second})
	for i := range limits {
		limits[i].Amount, limits[i].Burst = 2*limits[i].Amount, 2*limits[i].Burst
	}
	w := &reserveWorld{engine: newEngine(limits), rand: r, fault: f, now: noon, settled: map[int]bool{}}
	for range 1 + r.IntN(3) {
		w.holders = append(w.holders, &reserver{speed: 981 + r.Int64N(40)})
	}
	delay := func() time.Duration { return delays[r.IntN(len(delays))] }
	for range 20 + r.IntN(300) {
		h := w.holders[r.IntN(len(w.holders))]
		switch r.IntN(18) {
		case 0:
			w.advance(time.Duration(r.Int64N(int64(2 * time.Second))))
		case 1:
			h.paused = w.now.Mono + int64(r.IntN(2))*int64(3*time.Second)
		case 2:
			if h.holder.Recall(h.now(w)); r.IntN(6) == 0 {
				w.move()
			}
		case 3, 4:
			w.flush(h, delay(), r.IntN(4) == 0, r.IntN(2) == 0)
		case 5, 6, 7, 8:
			w.ask(h, 300+r.Int64N(701), delay(), delay(), r.IntN(10) == 0)
			w.advance(delay())
		case 9:
			for range r.IntN(60) {
				w.reserveAtOwner(w.reserveRequest())
			}
		case 10:
			for range r.IntN(20) {
				w.settleOwned()
			}
		case 11, 12:
			for range r.IntN(20) {
				w.settle(h)
			}
		default:
			forward := r.IntN(4) == 0
			for range r.IntN(50) {
				if w.reserve(h, forward); r.IntN(3) == 0 {
					w.settle(h)
				}
			}
		}
	}
	w.finish()
	return w
}

// finish waits until all slices are returned or over, and all leases, too. What was not
// settled has used its input.
func (w *reserveWorld) finish() {
	for range 3 {
		for _, h := range w.holders {
			h.paused = 0
			h.holder.Recall(h.now(w))
			w.flush(h, time.Millisecond, false, false)
		}
		w.advance(10 * time.Second)
	}
	for range 1 + len(w.entries)/64 { // as many leases end in one call
		w.peek(w.now)
	}
	for i := range w.entries {
		if !w.settled[i] {
			w.entries[i].output = 0
		}
	}
}

// TestReservesFromSlicesAdmitNothingMore: whatever happens to holders and messages, no limit
// admits more than it promises, if each call uses no more than it has reserved.
func TestReservesFromSlicesAdmitNothingMore(t *testing.T) {
	check := func(t rapid.TB, seed uint64) *reserveWorld {
		w := runReserves(seed, noReserveFault)
		if problem := exceeded(w.limits, w.entries); problem != "" {
			t.Fatal(problem)
		}
		if s := w.Stats(); s.Slices > 0 || s.Reservations > 0 || len(s.Overrun) > 0 {
			t.Fatalf("Stats() = %+v, want no slices, and no reservations", s)
		}
		return w
	}
	// What the worlds try is counted in the same ones at each run.
	const worlds = 20
	var sliced, corrected, kept int64
	for seed := range uint64(worlds) {
		w := check(t, seed)
		sliced, corrected, kept = sliced+w.sliced, corrected+w.corrected, kept+w.kept
	}
	if sliced < 10*worlds || corrected < 2*worlds || kept < worlds {
		t.Errorf("%d worlds: %d reserves from slices, of which %d were settled there and %d kept, want enough to test", worlds, sliced, corrected, kept)
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.Uint64().Draw(t, "seed")) })
}

// TestFaultsOfReservesAreFound: the worlds would find holders that make such mistakes.
func TestFaultsOfReservesAreFound(t *testing.T) {
	for f, name := range map[reserveFault]string{keepsNothing: "nothing is kept", frees: "a settle frees too much"} {
		found := false
		for seed := uint64(0); !found && seed < 500; seed++ {
			w := runReserves(seed, f)
			found = exceeded(w.limits, w.entries) != ""
		}
		if !found {
			t.Errorf("%s: no limit admits more than it promises, want a test that finds the fault", name)
		}
	}
}
