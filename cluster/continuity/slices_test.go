// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"math/rand/v2"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter/slice"
)

// lending returns a calm cluster of three members that lend slices, an owner, one of its
// partitions, and a client that has decided a call of 7 from a slice of it.
func lending(t *testing.T) (s *sim, owner *simNode, p int, h *simHolder, id uint64) {
	t.Helper()
	s = calm(t, 3)
	s.lending = &simLending{s: s, rng: rand.New(rand.NewPCG(7, 7))}
	h = s.lending.newClient()
	s.lending.clients = []*simHolder{h}
	p = s.ownedBy("n0")[0]
	h.ask(p)
	s.run(t, 50*time.Millisecond)
	id = sliceID(h.of[p].ID())
	if !h.of[p].Take(h.now(), []int64{7}) {
		t.Fatal("nothing was lent")
	}
	s.history.took(h, &simCall{id: 1 << 40, p: p, cost: 7}, id)
	return s, s.node("n0"), p, h, id
}

// TestSliceSurvivesItsOwner returns a slice to the heir of the owner that has lent it.
func TestSliceSurvivesItsOwner(t *testing.T) {
	s, owner, p, h, id := lending(t)
	owner.stop()
	s.until(t, 4*time.Second, "taken over and returned", func() bool { return s.decider(p) != nil && h.of[p].Unacknowledged() == 0 && !h.of[p].Live() })
	st := s.decider(p).stores[p]
	if c := st.charges[st.index[id]]; !c.settled || c.cost != 7 || st.level != 7 {
		t.Errorf("%s has %+v and the level %d, want a slice that was charged with 7", s.decider(p).id, c, st.level)
	}
	s.run(t, 0)
}

// TestLostHolderCostsItsSlice ends the holder of a slice: all of it is charged.
func TestLostHolderCostsItsSlice(t *testing.T) {
	s, owner, p, h, id := lending(t)
	h.ended = true
	s.run(t, slice.Kept(slice.ClientLease)*102/100)
	st := owner.stores[p]
	if c, want := st.charges[st.index[id]], s.history.parts[p].slices[id].amount; !c.settled || c.cost != want || st.level != want {
		t.Errorf("%s has %+v and the level %d, want a slice that was charged with %d", owner.id, c, st.level, want)
	}
}

// TestRecallBeforeDenial asks for what a member has in a slice: it is recalled, and nothing is
// denied.
func TestRecallBeforeDenial(t *testing.T) {
	s, owner, p, _, _ := lending(t)
	h := s.node("n1").holder
	h.ask(p)
	s.run(t, 20*time.Millisecond)
	left := simLimit - owner.stores[p].level
	verdict := notOwner
	owner.decide(p, 1<<41, left+1, true, func(v simVerdict) { verdict = v })
	s.run(t, recallWait-time.Millisecond)
	if !owner.stores[p].has(1 << 41) {
		t.Errorf("not charged after %v, verdict %d, but a slice could be recalled", recallWait, verdict)
	}
	s.until(t, time.Second, "admitted", func() bool { return verdict == admitted })
	verdict = notOwner
	owner.decide(p, 1<<42, simLimit, true, func(v simVerdict) { verdict = v })
	if verdict != denied {
		t.Errorf("verdict %d at once, want %d: nothing can be recalled from clients", verdict, denied)
	}
}
