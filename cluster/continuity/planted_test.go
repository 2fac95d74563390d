// SPDX-License-Identifier: Apache-2.0

package continuity

// bug is an error that is planted on purpose.
type bug uint8

const (
	noBug            bug = iota
	dropsDirtySet        // deltas have no records
	skipsSeal            // the owner decides while it is sealed
	acksBeforeApply      // copies are acknowledged before they are stored
	votesTwice           // a voter forgets what it promised
	forgetsVotes         // a voter votes right after it has started
	ignoresLease         // the owner does not look at the clock before it decides
	acceptsOldTerm       // a late announcement of an old term is believed
	takesOverEarly       // the heir does not wait until its grant is over
	leaseFromReceipt     // the owner counts the lease from the acknowledgement
	answersEarly         // large charges do not wait for the heir
	servesEmpty          // a successor is given the partition before it has the copy
	refundsTwice         // a settle that comes twice corrects twice
	settlesEarly         // a settle is acknowledged before the heir has it
	reportsNothing       // an owner that was cut off does not report what it answered
	replacedIsDead       // a boot counts as dead as soon as a newer one of its member is known
	lendsEarly           // a slice is lent before the heir has its charge
	returnsTwice         // a return that comes twice gives back twice
	dropsKept            // an owner does not charge the calls that are kept when a slice ends
	endsSlicesEarly      // an owner ends a slice when its holder may not spend it any more
	keepsLists           // a heartbeat is asked for and granted by its number whatever has changed
	forgetsReturns       // a return that comes again is acknowledged before the heir has the first one
)

// plant breaks the machine before a step.
func (s *sim) plant(n *simNode, e Event) {
	switch s.broken {
	case votesTwice:
		if r, ok := e.(Received); ok {
			for _, x := range r.Message.Entries {
				if x.Kind == Prepare || x.Kind == Accept {
					p := &n.m.parts[x.Partition]
					p.promised = min(p.promised, x.Ballot)
				}
			}
		}
	case replacedIsDead:
		for i := range n.m.parts {
			for _, id := range []ID{n.m.parts[i].known.Owner, n.m.parts[i].known.Heir} {
				if p := n.m.peer(id.Name); p != nil && p.Boot > id.Boot {
					p.noteDead(id.Boot)
				}
			}
		}
	case takesOverEarly:
		for i := range n.m.parts {
			n.m.parts[i].granted = 0
		}
	case keepsLists:
		for i := range n.m.peers {
			n.keepList(n.m.peers[i].asks)
			n.keepList(n.m.peers[i].grants)
		}
	}
}

// keepList takes back the end of a list.
func (n *simNode) keepList(l *beatList) {
	switch {
	case l == nil:
	case l.number != 0:
		n.numbers[l] = l.number
	default:
		l.number = n.numbers[l]
		for _, i := range l.partitions {
			if p := &n.m.parts[i]; p.beats == nil {
				p.beats = l
			}
		}
	}
}

// plantAfter breaks the machine after a step.
func (s *sim) plantAfter(n *simNode, e Event) {
	r, ok := e.(Received)
	if !ok {
		return
	}
	for _, g := range r.Message.Grants {
		if p := &n.m.parts[g.Partition]; s.broken == leaseFromReceipt && p.known.Owner == n.id && p.known.Term == g.Term && !p.sticky() {
			p.leaseUntil = n.clock() + s.o.Lease
			n.until[g.Partition] = n.m.decidesUntil(int(g.Partition))
		}
	}
	for _, x := range r.Message.Entries {
		if x.Partition < 0 {
			continue
		}
		if p := n.m.peer(r.Message.From.Name); s.broken == leaseFromReceipt && x.Kind == GrantAll && x.Flag && p != nil && !p.asks.ended() {
			p.asks.at = n.clock()
		}
		p := &n.m.parts[x.Partition]
		if s.broken == acceptsOldTerm && x.Kind == Known && x.Value.Term < p.known.Term && x.Value.Owner == n.id {
			p.known = x.Value
			n.until[x.Partition] = n.m.decidesUntil(x.Partition)
		}
	}
	for _, a := range r.Message.Acks {
		if p := &n.m.parts[a.Partition]; s.broken == servesEmpty && p.export != nil && p.export.transfer == a.Transfer {
			p.export.complete, p.export.seq = true, p.copy.Seq
		}
	}
}

// mayDecide is what the host asks before it decides.
func (n *simNode) mayDecide(p int) bool {
	switch part := &n.m.parts[p]; {
	case n.s.broken == skipsSeal && part.sealed:
		return part.known.Owner == n.id
	case n.s.broken == ignoresLease:
		return n.m.Decides(p, n.m.now)
	}
	return n.m.Decides(p, n.clock())
}

// plantedBugs has every bug with its name and a seed that finds it, which is tried
// first.
var plantedBugs = []struct {
	name string
	bug  bug
	seed int
}{
	{"drops the dirty set", dropsDirtySet, 0},
	{"skips the seal", skipsSeal, 10},
	{"acknowledges before it applies", acksBeforeApply, 0},
	{"votes twice in a term", votesTwice, 104},
	{"ignores the lease after a pause", ignoresLease, 59},
	{"accepts an old term", acceptsOldTerm, 275},
	{"takes over before the grant is over", takesOverEarly, 0},
	{"counts the lease from the receipt", leaseFromReceipt, 182},
	{"answers before the heir has it", answersEarly, 4},
	{"hands over before the copy is complete", servesEmpty, 0},
	{"acknowledges settles before the heir has them", settlesEarly, 9},
	{"corrects twice", refundsTwice, 1},
	{"reports nothing", reportsNothing, 4},
	{"takes a replaced boot for dead", replacedIsDead, 72},
	{"lends before the heir has the slice", lendsEarly, 51},
	{"takes a return twice", returnsTwice, 4},
	{"drops what is kept", dropsKept, 4},
	{"ends slices with their holders", endsSlicesEarly, 4},
	{"goes on with a heartbeat after a change", keepsLists, 0},
	{"acknowledges repeated returns early", forgetsReturns, 49},
}
