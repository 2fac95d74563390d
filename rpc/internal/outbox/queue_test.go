// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/rpc/pb"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// TestOneAtATimeInOrder: calls of one id are delivered in order, others meanwhile.
func TestOneAtATimeInOrder(t *testing.T) {
	q := testQueue(roomy)
	mustPut(t, q, start, reserve("acme/a", "1"), progress("acme/a", "1", 5), cancel("acme/a", "1"), reserve("acme/b", "2"))
	p := q.next(start)
	if len(p.attempts) != 2 || describe(p.attempts[0].item) != "reserve" || !q.holds("acme/x", "1") || q.holds("globex", "1") {
		t.Fatalf("%d attempts, want the reserves of both ids", len(p.attempts))
	}
	var order []string
	for a := p.attempts[0]; ; {
		order = append(order, describe(a.item))
		if again := q.next(start); len(again.attempts) > 0 {
			t.Fatalf("%s starts while %s is in flight", describe(again.attempts[0].item), describe(a.item))
		}
		q.complete(start, a, answered)
		p = q.next(start)
		if len(p.attempts) == 0 {
			break
		}
		a = p.attempts[0]
	}
	if got, want := strings.Join(order, ", "), "reserve, progress 5, cancel"; got != want {
		t.Errorf("delivered %s, want %s", got, want)
	}
	if q.len() != 1 || q.holds("acme", "1") {
		t.Errorf("%d entries are left, want the other reserve only", q.len())
	}
}

// TestDeadOwner: how often an owner that fails is asked, and that others are not
// affected.
func TestDeadOwner(t *testing.T) {
	q := testQueue(roomy)
	for i := range 100 {
		mustPut(t, q, start, check("dead", fmt.Sprint(i)))
	}
	p := q.next(start)
	if want := roomy.inFlight / ownerShare; len(p.attempts) != want {
		t.Fatalf("%d attempts at one owner, want %d", len(p.attempts), want)
	}
	mustPut(t, q, start, check("live", "1"))
	live := q.next(start).attempts
	if len(live) != 1 {
		t.Fatalf("%d attempts at another owner, want 1", len(live))
	}
	q.complete(start, live[0], answered)
	for _, a := range p.attempts {
		q.complete(start, a, failed)
	}

	now := start
	var waits []time.Duration
	for range 10 {
		p = q.next(now)
		if len(p.attempts) > 0 || p.wake.IsZero() {
			t.Fatalf("%d attempts at %s, wake %s, want to wait", len(p.attempts), now.Sub(start), p.wake)
		}
		waits = append(waits, p.wake.Sub(now))
		if early := q.next(p.wake.Add(-1)); len(early.attempts) > 0 {
			t.Fatal("an attempt before the wait is over")
		}
		now = p.wake
		probe := q.next(now).attempts
		if len(probe) != 1 {
			t.Fatalf("%d attempts after %s, want one probe", len(probe), waits)
		}
		mustPut(t, q, now, check("live", fmt.Sprint(now)))
		if other := q.next(now).attempts; len(other) != 1 || other[0].chain.id.root != "live" {
			t.Fatalf("%d attempts at the owner that works, want 1", len(other))
		} else {
			q.complete(now, other[0], answered)
		}
		q.complete(now, probe[0], failed)
	}
	for i, w := range waits {
		low, high := minBackoff, 2*minBackoff
		for range i {
			low, high = min(2*low, maxBackoff/2), min(2*high, maxBackoff)
		}
		if w < low || w > high {
			t.Errorf("wait %d is %s, want %s to %s", i, w, low, high)
		}
	}

	exact := 0
	for i, w := range waits {
		if w == min(minBackoff<<(i+1), maxBackoff) {
			exact++
		}
	}
	if exact > 2 {
		t.Errorf("waits %v: %d are the longest possible, want jitter", waits, exact)
	}

	q.retryNow(now)
	probe := q.next(now).attempts
	if len(probe) != 1 {
		t.Fatalf("%d attempts after a kick, want 1", len(probe))
	}
	q.complete(now, probe[0], answered)
	if got := len(q.next(now).attempts); got != roomy.inFlight/ownerShare {
		t.Errorf("%d attempts when the owner is back, want all that it may have", got)
	}
	if err := q.consistent(); err != nil {
		t.Error(err)
	}
}

// TestOwnersTakeTurns: one with many calls does not come before the others.
func TestOwnersTakeTurns(t *testing.T) {
	q := testQueue(limits{entries: 100, bytes: 1 << 20, inFlight: 16, age: time.Minute})
	for _, root := range []string{"a", "b", "c"} {
		for i := range 5 {
			mustPut(t, q, start, check(root, fmt.Sprint(i)))
		}
	}
	var order strings.Builder
	for _, a := range q.next(start).attempts {
		order.WriteString(a.chain.id.root + a.chain.id.id + " ")
	}
	if got, want := order.String(), "a0 b0 c0 a1 b1 c1 a2 b2 c2 a3 b3 c3 "; got != want {
		t.Errorf("attempts %s, want %s", got, want)
	}
}

// TestRetryNowDuringProbe: the probe started before, so its failure adds no backoff.
func TestRetryNowDuringProbe(t *testing.T) {
	q := testQueue(roomy)
	mustPut(t, q, start, check("dead", "1"))
	now := start
	for range 8 {
		p := q.next(now)
		if len(p.attempts) == 0 {
			now = p.wake
			p = q.next(now)
		}
		q.complete(now, p.attempts[0], failed)
	}
	now = q.next(now).wake
	probe := q.next(now).attempts[0]
	q.retryNow(now)
	q.complete(now, probe, failed)
	if p := q.next(now); len(p.attempts) != 1 {
		t.Errorf("after a kick the next attempt is in %s, want now", p.wake.Sub(now))
	}
}

// TestManyDeadOwners: attempts remain for the owners that work.
func TestManyDeadOwners(t *testing.T) {
	q := testQueue(roomy)
	for i := range 200 {
		mustPut(t, q, start, check(fmt.Sprintf("dead%d", i), "1"))
	}
	now := start
	for p := q.next(now); len(p.attempts) > 0; p = q.next(now) {
		for _, a := range p.attempts {
			q.complete(now, a, failed)
		}
	}
	now = now.Add(time.Second)
	hang := q.next(now)
	if len(hang.attempts) != roomy.inFlight/2 {
		t.Fatalf("%d probes, want half of the attempts", len(hang.attempts))
	}
	mustPut(t, q, now, check("live", "1"))
	if p := q.next(now); len(p.attempts) != 1 {
		t.Errorf("%d attempts at the owner that works, want 1", len(p.attempts))
	}
	if err := q.consistent(); err != nil {
		t.Error(err)
	}
}

// TestOwnerMoves: calls that wait for a dead owner go to the one in the current
// ring.
func TestOwnerMoves(t *testing.T) {
	owner := "dead"
	q := newQueue(roomy, func(*pb.Item) string { return owner }, rand.New(rand.NewPCG(1, 2)))
	for i := range 50 {
		mustPut(t, q, start, check("acme", fmt.Sprint(i)))
	}
	for _, a := range q.next(start).attempts {
		q.complete(start, a, failed)
	}
	owner = "heir"
	if p := q.next(start); len(p.attempts) != 0 {
		t.Fatalf("%d attempts without a kick, want none yet", len(p.attempts))
	}
	q.retryNow(start)
	if p := q.next(start); len(p.attempts) != roomy.inFlight/ownerShare {
		t.Errorf("%d attempts at the heir, want all that it may have", len(p.attempts))
	}
	if len(q.owners) != 1 || q.owners["heir"] == nil {
		t.Errorf("owners %v, want the heir only", q.owners)
	}
	if err := q.consistent(); err != nil {
		t.Error(err)
	}
}

func TestExpiry(t *testing.T) {
	q := testQueue(roomy)
	later := start.Add(time.Minute)
	mustPut(t, q, start, check("a", "1"), check("a", "2"), reserve("a", "3"), cancel("a", "3"))
	mustPut(t, q, later, final("a", "3", 1), check("a", "4"))
	p := q.next(later)
	if want := start.Add(roomy.age); !p.wake.Equal(want) || len(p.attempts) != 4 {
		t.Fatalf("%d attempts, wake in %s, want 4 and %s", len(p.attempts), p.wake.Sub(start), want.Sub(start))
	}
	if q.complete(later, p.attempts[0], failed) {
		t.Error("an entry that failed in time is too old")
	}
	end := start.Add(roomy.age)
	p2 := q.next(end) // 1 waits for its turn; 2 and 3's reserve are in flight; 3's cancel is behind it
	if got := describeAll(p2.expired); got != "check, cancel" {
		t.Errorf("too old: %s, want the check that waits and the cancel", got)
	}
	if err := q.consistent(); err != nil {
		t.Fatal(err)
	}
	if q.complete(end, p.attempts[1], answered) || !q.complete(end, p.attempts[2], failed) {
		t.Error("in flight and too old: want dropped if it fails, and not if it is answered")
	}
	if q.complete(end, p.attempts[3], failed) {
		t.Error("the last check is dropped before its time")
	}
	if q.len() != 2 || !q.holds("a", "3") || !q.holds("a", "4") {
		t.Errorf("%d entries are left, want the final and the last check", q.len())
	}
	if got := describeAll(q.next(later.Add(roomy.age)).expired); got != "final 1, check" {
		t.Errorf("too old in the end: %s", got)
	}
	if err := q.consistent(); err != nil || q.len() != 0 || len(q.owners) != 0 || len(q.chains) != 0 {
		t.Errorf("left: %d entries, %d owners, %d chains, %v", q.len(), len(q.owners), len(q.chains), err)
	}
}

// TestFullChangesNothing, whichever limit is reached.
func TestFullChangesNothing(t *testing.T) {
	size := proto.Size(progress("a", "1", 1)) + overhead
	for name, l := range map[string]limits{
		"entries": {entries: 3, bytes: 1 << 20, inFlight: 4, age: time.Minute},
		"bytes":   {entries: 100, bytes: 3*size + size/2, inFlight: 4, age: time.Minute},
	} {
		t.Run(name, func(t *testing.T) {
			q := testQueue(l)
			mustPut(t, q, start, progress("a", "1", 1), progress("b", "1", 1), check("c", "1"))
			before, bytes := q.len(), q.bytes
			for _, item := range []*pb.Item{check("d", "1"), cancel("a", "1")} {
				if _, err := q.put(start, item); !errors.Is(err, ErrFull) {
					t.Errorf("put %s = %v, want ErrFull", describe(item), err)
				}
			}
			if q.len() != before || q.bytes != bytes || q.holds("d", "1") || q.consistent() != nil {
				t.Errorf("%d entries, %d bytes, want %d and %d; %v", q.len(), q.bytes, before, bytes, q.consistent())
			}
			if merged := mustPut(t, q, start, final("a", "1", 2), progress("b", "1", 7)); merged != 2 {
				t.Errorf("%d entries merged, want 2: they need no room", merged)
			}
			for _, a := range q.next(start).attempts {
				q.complete(start, a, answered)
			}
			mustPut(t, q, start, check("d", "1"))
		})
	}
}

func TestInvalidCalls(t *testing.T) {
	q := testQueue(roomy)
	for name, item := range map[string]*pb.Item{
		"call":       {},
		"peek":       {Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: "a"}}},
		"request_id": check("a", ""),
	} {
		if _, err := q.put(start, item); err == nil || q.len() != 0 {
			t.Errorf("%s: put = %v, %d entries, want an error and none", name, err, q.len())
		}
	}
	if _, err := q.put(start, nil); err == nil {
		t.Error("put of nothing: no error")
	}
}

// TestQueueInvariants drives a queue through random histories. Each call is delivered
// in its order, one at a time per id, or expires; counts and limits hold after every
// step; and no call waits for ever.
func TestQueueInvariants(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		l := limits{entries: rapid.IntRange(5, 40).Draw(rt, "entries"), bytes: 1 << 20, inFlight: rapid.IntRange(4, 12).Draw(rt, "in flight"), age: time.Minute}
		owners := map[string]string{}
		for _, r := range []string{"a", "b", "c"} {
			owners[r] = r
		}
		q := newQueue(l, func(item *pb.Item) string { return owners[rootOf(item)] }, rand.New(rand.NewPCG(1, 2)))
		now := start
		want := map[callID][]*pb.Item{} // in order
		var inFlight []attempt
		drop := func(item *pb.Item) {
			at, _ := callIDOf(item)
			i := slices.Index(want[at], item)
			if i < 0 {
				rt.Fatalf("%s of %v: nobody waits for it", describe(item), at)
			}
			want[at] = slices.Delete(want[at], i, i+1)
		}
		step := func() {
			p := q.next(now)
			for _, item := range p.expired {
				drop(item)
			}
			for _, a := range p.attempts {
				if first := want[a.chain.id][0]; a.item != first {
					rt.Fatalf("%s is delivered before %s", describe(a.item), describe(first))
				}
				if slices.ContainsFunc(inFlight, func(b attempt) bool { return b.chain == a.chain }) {
					rt.Fatalf("two calls of %v at once", a.chain.id)
				}
				inFlight = append(inFlight, a)
			}
			if err := q.consistent(); err != nil {
				rt.Fatal(err)
			}
		}
		land := func(i int, came outcome) {
			a := inFlight[i]
			inFlight = slices.Delete(inFlight, i, i+1)
			if expired := q.complete(now, a, came); expired || came == answered {
				drop(a.item)
			}
		}
		for range rapid.IntRange(1, 120).Draw(rt, "steps") {
			switch rapid.IntRange(0, 9).Draw(rt, "what") {
			case 0, 1, 2, 3:
				// No two equal calls in a row, and no settles: nothing is merged.
				at := callID{rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "root"), rapid.SampledFrom([]string{"1", "2", "3"}).Draw(rt, "id")}
				item := reserve(at.root, at.id)
				if n := len(want[at]); n > 0 && want[at][n-1].GetReserve() != nil {
					item = cancel(at.root, at.id)
				}
				if _, err := q.put(now, item); err == nil {
					want[at] = append(want[at], item)
				} else if q.len() < l.entries {
					rt.Fatalf("put: %v with %d of %d entries", err, q.len(), l.entries)
				}
			case 4, 5, 6:
				if len(inFlight) > 0 {
					land(rapid.IntRange(0, len(inFlight)-1).Draw(rt, "attempt"), rapid.SampledFrom([]outcome{answered, failed, failed, interrupted}).Draw(rt, "outcome"))
				}
			case 7:
				now = now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(rt, "ms")) * time.Millisecond)
			case 8:
				q.retryNow(now)
			case 9:
				owners[rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "root")] = rapid.SampledFrom([]string{"a", "b", "c"}).Draw(rt, "owner")
			}
			step()
		}
		for range 200 { // everybody answers from now on
			for len(inFlight) > 0 {
				land(0, answered)
			}
			step()
			if len(inFlight) == 0 && q.len() > 0 {
				wake := q.next(now).wake
				if wake.Before(now) {
					rt.Fatalf("%d entries wait for %s, which is past", q.len(), now.Sub(wake))
				}
				now = wake
				step()
			}
		}
		if q.len() != 0 || len(q.owners) != 0 || len(q.chains) != 0 {
			rt.Errorf("%d entries, %d owners, %d chains are left", q.len(), len(q.owners), len(q.chains))
		}
		for at, items := range want {
			if len(items) > 0 {
				rt.Errorf("%v was never told of: %s", at, describeAll(items))
			}
		}
	})
}
