// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strconv"
	"testing"
	"time"

	gocmp "github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// books compare an engine that lends slices for reserves with the books: an engine that
// lends nothing and is charged what was spent, held, settled, cancelled and expired, when the
// owner of the slices hears of it.
type books struct {
	t       *rapid.T
	rand    *rand.Rand
	catalog *Catalog
	owner   *Engine
	heir    *Engine // has a copy of the owner's state
	copied  uint64  // the last change that heir has
	model   *Engine
	now     Time
	plan    *Plan
	next    int
	lent    []*heldSlice
	open    []*Request // reservations that both engines have, or had

	kept, settled, lost int
}

// heldSlice is a slice at its holder.
type heldSlice struct {
	id       string
	tariff   *Tariff
	of       *Request // with which it came
	calls    int64
	left     []int64
	spent    []int64
	used     Request // the calls that were settled, together
	reserved []*heldReservation
	until    int64 // end of the owner's lease
}

type heldReservation struct {
	request *Request
	costs   []int64
	due     int64
}

const booksKey = "r/alice"

func newBooks(t *rapid.T) *books {
	b := &books{t: t, rand: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), catalog: NewCatalog(), now: Time{Mono: 1e9, Wall: time.Date(2026, 3, 4, 12, 0, 0, 0, time.UTC).UnixNano()}}
	b.owner, b.model = New(Options{Catalog: b.catalog}), New(Options{Catalog: b.catalog})
	estimate := Estimate{Mode: EstimateMode(b.draw(0, 2)), Output: 30}
	// Prices are whole numbers, so that the cost of all calls is the sum of their costs.
	b.plan = &Plan{
		Tier: "t", Version: 7, Count: 2, DefaultOutput: 20,
		Rates: Rates{Priced: true, InputPrice: 1e6, CachedInputPrice: 1e6, CacheWritePrice: 1e6, CacheWrite1hPrice: 1e6, OutputPrice: 3e6, RequestFee: 2, Weights: Weights{1e6, 1e6, 2e6}},
	}
	b.plan.Levels[0] = Level{End: 1, Tier: "t", Limits: b.set("root"), Estimate: estimate}
	b.plan.Levels[1] = Level{End: len(booksKey), Tier: "t", Limits: b.set("key"), Model: b.set("model"), Estimate: estimate}
	b.check(&b.now, &Request{}) // creates the records
	b.newHeir()
	return b
}

// set draws limits that no charge fills, so that none is dropped as debt.
func (b *books) set(level string) *LimitSet {
	var limits []Limit
	for i, d := range []Dimension{Requests, Tokens, InputTokens, OutputTokens, Spend, "images"} {
		if b.draw(0, 2) == 0 {
			continue
		}
		limits = append(limits, Limit{
			Name: level + strconv.Itoa(i), Dimension: d, Algorithm: Algorithm(b.draw(1, 3)),
			Amount: 4e6, Burst: 0, Window: pick(b, 700*time.Millisecond, 4*time.Second, time.Minute),
		})
	}
	s, err := b.catalog.LimitSet(limits)
	if err != nil {
		b.t.Fatal(err)
	}
	return s
}

// draw returns a number from lo to hi.
func (b *books) draw(lo, hi int64) int64 { return lo + b.rand.Int64N(hi-lo+1) }

// pick returns one of a list.
func pick[T any](b *books, list ...T) T { return list[b.rand.IntN(len(list))] }

func (b *books) request() *Request {
	b.next++
	r := &Request{
		Key: booksKey, Model: "m", Plan: b.plan, ID: strconv.Itoa(b.next), Requests: b.draw(0, 2), InputTokens: b.draw(0, 50), OutputTokens: b.draw(-1, 60),
		Choices: b.draw(0, 2), TTL: time.Duration(b.draw(1, 9)) * time.Second,
	}
	if n := b.draw(0, 5); n > 0 {
		r.Costs = []Cost{{"images", n}}
	}
	return r
}

// check charges the numbers of r to the model, or to both engines if there is no time.
func (b *books) check(at *Time, r *Request) {
	q := *r
	q.Key, q.Model, q.Plan, q.ID, q.Force = booksKey, "m", b.plan, "", true
	var d Decision
	if err := b.model.Check(*at, &q, &d); err != nil || d.Outcome != Allowed {
		b.t.Fatalf("Check() = %s, %v", d.Outcome, err)
	}
	if at == &b.now {
		if err := b.owner.Check(*at, &q, &d); err != nil || d.Outcome != Allowed {
			b.t.Fatalf("Check() = %s, %v", d.Outcome, err)
		}
	}
}

// tick lets both engines end leases as of a time.
func (b *books) tick(at Time) {
	var d Decision
	for _, e := range []*Engine{b.owner, b.model} {
		e.Peek(at, &Request{Key: booksKey, Model: "m", Plan: b.plan}, &d)
	}
}

// pass lets time pass. What slices whose lease is over have not returned counts as spent in
// full at its end.
func (b *books) pass(d time.Duration) {
	end := b.now.Add(d)
	for len(b.lent) > 0 {
		until := slices.MinFunc(b.lent, func(x, y *heldSlice) int { return cmp.Compare(x.until, y.until) }).until
		if until > end.Mono {
			break
		}
		at := b.now.Add(time.Duration(until - 1 - b.now.Mono))
		b.tick(at)
		b.lent = slices.DeleteFunc(b.lent, func(s *heldSlice) bool {
			if s.until == until {
				b.check(&at, b.whole(s))
				b.lost++
			}
			return s.until == until
		})
		b.now = at.Add(1)
		b.tick(b.now)
	}
	b.now = end
	b.tick(b.now)
}

// whole returns what all of a slice costs.
func (b *books) whole(s *heldSlice) *Request {
	all := *s.of
	all.Requests, all.InputTokens, all.OutputTokens = all.Requests*s.calls, all.InputTokens*s.calls, b.estimated(s.of)*s.calls
	all.Costs = nil
	if n, ok := customCost(s.of.Costs, "images"); ok {
		all.Costs = []Cost{{"images", n * s.calls}}
	}
	return &all
}

// estimated returns the output that a reserve is charged for.
func (b *books) estimated(r *Request) int64 {
	output := r.OutputTokens
	if output < 0 {
		output = b.plan.DefaultOutput
	}
	n, err := b.plan.Levels[0].Estimate.amounts(0, output, max(r.Choices, 1))
	if err != nil {
		b.t.Fatal(err)
	}
	return n.output
}

func (b *books) lend() {
	r := b.request()
	l := &Loan{ID: "slice:" + r.ID, Share: b.draw(1, 1000), Holders: 1 + int(b.draw(0, 2)), Rate: b.draw(0, 200), Reserve: true}
	var d Decision
	ok, err := b.owner.Lend(b.now, r, l, &d)
	if err != nil {
		b.t.Fatalf("Lend() = %v", err)
	}
	if !ok {
		return
	}
	tariff, err := ReadTariff(l.Tariff.Append(nil))
	if err != nil {
		b.t.Fatalf("ReadTariff() = %v", err)
	}
	_, entry := b.shard().findEntry(b.shard().accounts.find(b.root()), idKeyOf(b.root(), l.ID))
	b.lent = append(b.lent, &heldSlice{
		id: l.ID, tariff: tariff, of: r, calls: l.Calls, left: slices.Clone(l.Amounts), spent: make([]int64, len(l.Amounts)), until: entry.due,
	})
}

func (b *books) root() uint64  { _, root := b.owner.lockless(booksKey); return root }
func (b *books) shard() *shard { s, _ := b.owner.lockless(booksKey); return s }
func (e *Engine) lockless(key string) (*shard, uint64) {
	s, root := e.lock(key)
	s.Unlock()
	return s, root
}

// slice draws a slice, or returns nil.
func (b *books) slice() *heldSlice {
	if len(b.lent) == 0 {
		return nil
	}
	return pick(b, b.lent...)
}

// reserve makes a reservation from a slice, if there is room.
func (b *books) reserve(s *heldSlice) {
	r := b.request()
	costs := make([]int64, len(s.left))
	if _, err := s.tariff.Reserve(r, costs); err != nil {
		b.t.Fatalf("Tariff.Reserve() = %v", err)
	}
	for i, n := range costs {
		if n > s.left[i] {
			return
		}
	}
	if len(s.reserved) == MaxKept {
		return
	}
	for i, n := range costs {
		s.left[i] -= n
	}
	s.reserved = append(s.reserved, &heldReservation{r, costs, b.now.Mono + int64(r.TTL)})
}

func (b *books) usage(r *Request) *Usage {
	u := &Usage{Key: booksKey, ID: r.ID, InputTokens: b.draw(-1, 70), OutputTokens: b.draw(0, 90), Final: true}
	if b.draw(0, 1) == 1 {
		u.Costs = []Cost{{"images", b.draw(0, 7)}}
	}
	return u
}

// settle settles a reservation of a slice there, if it fits, or returns the slice and lets the
// owner settle it.
func (b *books) settle(s *heldSlice) {
	if len(s.reserved) == 0 {
		return
	}
	h := pick(b, s.reserved...)
	if h.due <= b.now.Mono {
		return
	}
	u, used := b.usage(h.request), make([]int64, len(s.left))
	if _, err := s.tariff.Settle(h.request, u, h.costs, used); err != nil {
		b.t.Fatalf("Tariff.Settle() = %v", err)
	}
	for i, n := range used {
		if n > s.left[i]+h.costs[i] {
			b.giveBack(s)
			b.settleBoth(u)
			return
		}
	}
	for i, n := range used {
		s.left[i] += h.costs[i] - n
		s.spent[i] += n
	}
	s.used.Requests += h.request.Requests
	s.used.InputTokens += max(u.InputTokens, 0)
	if u.InputTokens < 0 {
		s.used.InputTokens += h.request.InputTokens
	}
	s.used.OutputTokens += u.OutputTokens
	images, ok := customCost(u.Costs, "images")
	if !ok {
		images, _ = customCost(h.request.Costs, "images")
	}
	before, _ := customCost(s.used.Costs, "images")
	s.used.Costs = []Cost{{"images", before + images}}
	s.forget(h)
	b.settled++
}

func (s *heldSlice) forget(h *heldReservation) {
	s.reserved = slices.DeleteFunc(s.reserved, func(o *heldReservation) bool { return o == h })
}

// cancel cancels a reservation of a slice there.
func (b *books) cancel(s *heldSlice) {
	if len(s.reserved) == 0 {
		return
	}
	h := pick(b, s.reserved...)
	for i, n := range h.costs {
		s.left[i] += n
	}
	s.forget(h)
}

// retried lets the owner have a reserve that a slice answered, too.
func (b *books) retried(s *heldSlice) {
	if len(s.reserved) > 0 {
		b.reserveBoth(pick(b, s.reserved...).request, 0)
	}
}

// giveBack returns a slice.
func (b *books) giveBack(s *heldSlice) {
	b.lent = slices.DeleteFunc(b.lent, func(o *heldSlice) bool { return o == s })
	var kept []Kept
	var d Decision
	b.check2(&s.used)
	for _, h := range s.reserved {
		left := time.Duration(h.due - b.now.Mono)
		kept = append(kept, Kept{Request: h.request, Costs: h.costs, Granted: max(h.request.OutputTokens, 0), Left: left})
		if h.request.OutputTokens < 0 {
			kept[len(kept)-1].Granted = b.plan.DefaultOutput
		}
	}
	if err := b.owner.Return(b.now, booksKey, s.id, s.spent, kept, Used{}, &d); err != nil {
		b.t.Fatalf("Return(%v of %+v) = %v", s.spent, s, err)
	}
	for _, k := range kept {
		b.reserveModel(k.Request, k.Left)
		b.kept++
	}
	if err := b.owner.Return(b.now, booksKey, s.id, s.spent, kept, Used{}, &d); !errors.Is(err, ErrUnknownReservation) {
		b.t.Fatalf("Return() again = %v", err)
	}
}

// check2 charges the model.
func (b *books) check2(r *Request) { at := b.now; b.check(&at, r) }

// reserveModel makes a reservation that is kept in the model. Its lease is what is left of it,
// but progress extends it by the whole.
func (b *books) reserveModel(r *Request, left time.Duration) {
	q := *r
	q.Force = true
	var d Decision
	err := b.model.Reserve(b.now, &q, &d)
	if errors.Is(err, ErrConflict) {
		return // the owner had it, and it was cancelled there
	}
	if err != nil || d.Outcome != Allowed {
		b.t.Fatalf("Reserve() = %s, %v", d.Outcome, err)
	}
	if d.Replayed {
		return // the owner had it
	}
	b.open = append(b.open, r)
	s, root := b.model.lockless(booksKey)
	_, entry := s.findEntry(s.accounts.find(root), idKeyOf(root, r.ID))
	entry.due = b.now.Mono + int64(max(left, 0))
	s.heapFix(int(entry.next))
	s.nextDue = min(s.nextDue, entry.due)
	if left <= 0 {
		b.tick(b.now)
	}
}

// reserveBoth makes a reservation at both engines.
func (b *books) reserveBoth(r *Request, _ time.Duration) {
	q := *r
	q.Force = true
	var d [2]Decision
	for i, e := range []*Engine{b.owner, b.model} {
		if err := e.Reserve(b.now, &q, &d[i]); err != nil && !errors.Is(err, ErrConflict) || err == nil && d[i].Outcome != Allowed {
			b.t.Fatalf("Reserve() = %s, %v", d[i].Outcome, err)
		} else if err != nil {
			d[i].Replayed = true
		}
	}
	if d[0].Replayed != d[1].Replayed {
		b.t.Fatalf("Reserve(%s) is replayed: %v by the owner, %v by the model", r.ID, d[0].Replayed, d[1].Replayed)
	}
	if !d[0].Replayed {
		b.open = append(b.open, r)
	}
}

func (b *books) settleBoth(u *Usage) {
	var d [2]Decision
	var errs [2]string
	for i, e := range []*Engine{b.owner, b.model} {
		errs[i] = fmt.Sprint(e.Settle(b.now, u, &d[i]))
	}
	if errs[0] != errs[1] || d[0].Status != d[1].Status {
		b.t.Fatalf("Settle(%+v) = %s, %s, want %s, %s", *u, errs[0], d[0].Status, errs[1], d[1].Status)
	}
	b.same(d)
}

// same fails unless both decisions have the same charges.
func (b *books) same(d [2]Decision) {
	var costs [2][][3]any
	for i := range d {
		for _, st := range d[i].Limits {
			costs[i] = append(costs[i], [3]any{st.Name, st.Cost, st.Reserved})
		}
	}
	if diff := gocmp.Diff(costs[1], costs[0]); diff != "" {
		b.t.Fatalf("charges (-books +slices):\n%s", diff)
	}
}

// ordinary makes a call of an ordinary reservation at both engines.
func (b *books) ordinary() {
	if len(b.open) == 0 {
		b.reserveBoth(b.request(), 0)
		return
	}
	r := pick(b, b.open[max(0, len(b.open)-20):]...)
	switch b.draw(0, 5) {
	case 0:
		b.reserveBoth(r, 0) // again
	case 1:
		b.reserveBoth(b.request(), 0)
	case 2:
		u := b.usage(r)
		u.Final = false
		b.settleBoth(u)
	case 3:
		b.settleBoth(b.usage(r))
	case 4:
		var errs [2]string
		var d [2]Decision
		for i, e := range []*Engine{b.owner, b.model} {
			errs[i] = fmt.Sprint(e.Cancel(b.now, booksKey, r.ID, &d[i]))
		}
		if errs[0] != errs[1] {
			b.t.Fatalf("Cancel(%s) = %s, want %s", r.ID, errs[0], errs[1])
		}
		b.same(d)
	case 5:
		q := b.request()
		q.OutputTokens = max(q.OutputTokens, 0)
		b.check(&b.now, q)
	}
}

// move moves the state of the owner to another engine.
func (b *books) move() {
	next := New(Options{Catalog: b.catalog})
	if err := next.Restore(b.now, booksPartition, b.owner.Snapshot(b.now, booksPartition, nil), nil); err != nil {
		b.t.Fatalf("Restore() = %v", err)
	}
	b.owner = next
	b.newHeir()
}

var booksPartition = PartitionOf(booksKey)

// newHeir copies the state of the owner to an heir.
func (b *books) newHeir() {
	b.owner.Track(booksPartition, true)
	b.heir = New(Options{Catalog: b.catalog})
	b.heir.Close(booksPartition)
	data, seq := b.owner.SnapshotAt(b.now, booksPartition, nil)
	if err := b.heir.ApplyFull(b.now, booksPartition, data, nil); err != nil {
		b.t.Fatalf("ApplyFull() = %v", err)
	}
	b.copied = seq
}

// replicate sends the heir what has changed.
func (b *books) replicate() {
	var w StateWriter
	through, ok := b.owner.AppendChanges(b.now, booksPartition, b.copied, &w)
	if !ok {
		b.t.Fatalf("AppendChanges(%d) = false", b.copied)
	}
	r, err := b.heir.ReadChanges(w.Message(), nil)
	if err != nil {
		b.t.Fatalf("ReadChanges() = %v", err)
	}
	for r.Next() {
		if err := b.heir.Apply(b.now, r); err != nil {
			b.t.Fatalf("Apply() = %v", err)
		}
	}
	if r.Err() != nil {
		b.t.Fatalf("Err() = %v", r.Err())
	}
	b.copied = through
	b.owner.ForgetChanges(booksPartition, through)
	b.heir.shards[booksPartition].check(b.t)
}

// takeOver lets the heir decide from now on.
func (b *books) takeOver() {
	b.replicate()
	b.owner = b.heir
	b.owner.Open(booksPartition, b.copied)
	b.newHeir()
}

// compare fails unless both engines have the same usage. No slice may be lent.
func (b *books) compare() {
	var d [2]Decision
	for i, e := range []*Engine{b.owner, b.model} {
		e.Peek(b.now, &Request{Key: booksKey, Model: "m", Plan: b.plan}, &d[i])
		if over := e.Stats().Overrun; len(over) > 0 {
			b.t.Fatalf("%v is not charged: the test draws too much", over)
		}
	}
	if diff := gocmp.Diff(d[1].Limits, d[0].Limits); diff != "" {
		b.t.Fatalf("limits (-books +slices):\n%s", diff)
	}
	if got, want := b.owner.Stats(), b.model.Stats(); got.Reservations != want.Reservations || got.Slices > 0 {
		b.t.Fatalf("%d reservations and %d slices, want %d and none", got.Reservations, got.Slices, want.Reservations)
	}
}

func (b *books) step() {
	switch s := b.slice(); b.draw(0, 15) {
	case 0, 1:
		b.lend()
	case 2:
		b.ordinary()
	case 3:
		switch b.draw(0, 19) {
		case 0:
			b.move()
		case 1, 2:
			b.takeOver()
		default:
			b.replicate()
		}
	case 4:
		b.pass(time.Duration(b.draw(0, int64(pick(b, time.Millisecond, time.Second, 6*time.Second)))))
	default:
		if s == nil {
			b.lend()
		} else {
			b.atSlice(s)
		}
	}
}

func (b *books) atSlice(s *heldSlice) {
	switch b.draw(0, 11) {
	case 0:
		b.cancel(s)
	case 1:
		b.giveBack(s)
	case 2:
		b.retried(s)
	case 3, 4:
		b.settle(s)
	default:
		b.reserve(s)
	}
}

// TestBooksOfSlices: whatever is reserved, settled and cancelled from slices for reserves or
// at the owner, and whenever slices are returned or lost, the usage of each limit is that of
// the books.
func TestBooksOfSlices(t *testing.T) {
	var kept, settled, lost int
	check := func(t *rapid.T) {
		b := newBooks(t)
		for range b.draw(10, 300) {
			b.step()
			b.shard().check(t)
		}
		for len(b.lent) > 0 {
			b.giveBack(b.lent[0])
		}
		b.shard().check(t)
		b.compare()
		for range 3 {
			b.pass(4 * time.Second)
			b.compare()
			b.ordinary()
		}
		b.pass(20 * time.Minute)
		b.compare()
		kept, settled, lost = kept+b.kept, settled+b.settled, lost+b.lost
	}
	for range 10 { // usually one is enough
		if rapid.Check(t, check); kept >= 20 && settled >= 10 && lost >= 3 {
			break
		}
	}
	if kept < 20 || settled < 10 || lost < 3 {
		t.Errorf("%d reservations were kept and %d settled from slices, and %d slices lost, want enough to test", kept, settled, lost)
	}
}
