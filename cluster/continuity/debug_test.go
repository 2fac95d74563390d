package continuity

import "testing"

func TestDebug(t *testing.T) {
	s := runSim(uint64(*first), noBug, true)
	t.Log(s.report(100000))
	for _, n := range s.nodes {
		m := n.m
		w, ok := m.wantedRoster()
		t.Logf("%s leaving %v ready %v settled %d roster %v votesFrom %v vote %+v change %+v wanted %v %v", n.id, m.leaving, m.ready, m.settled, m.roster, m.votesFrom, m.rosterVote, m.rosterChange, w, ok)
		for _, p := range m.peers {
			t.Logf("   %s state %d inview %v stays %v contact %v", p.ID, p.state, p.inView, p.stays, m.now-p.contact)
		}
	}
}
