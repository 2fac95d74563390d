// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
)

// TestLeaverIsAddedAgain: a member that has left, and that the others add before enough of
// them know, may not stop before it has left again.
func TestLeaverIsAddedAgain(t *testing.T) {
	now := time.Hour
	host, err := New(Options{
		Name: "a", Boot: 1, Engine: newFakeEngine(1), Protocol: continuity.Defaults(1),
		Now: func() limiter.Time { return limiter.Time{Mono: 1} }, Clock: func() time.Duration { return now },
	})
	if err != nil {
		t.Fatal(err)
	}
	l, b := host.loop, continuity.ID{Name: "b", Boot: 1}
	hear := func(epoch uint64, names ...string) {
		roster := continuity.Roster{Epoch: epoch, Names: names}
		l.step(continuity.Received{Message: continuity.Message{From: b, To: l.self, Epoch: epoch, Entries: []continuity.Entry{{Kind: continuity.RosterIs, Roster: roster}}}})
		l.leave.heard(b.Name, epoch)
		l.leave.tick(l)
	}
	l.step(continuity.View{Members: []continuity.Member{{ID: l.self, State: continuity.Leaving}, {ID: b, State: continuity.Serving}}})
	hear(1, "b", "c")
	if !l.leave.pending() {
		t.Fatal("it has not left, or one of two is enough")
	}
	hear(2, "a", "b", "c")
	now += 2 * announceTimeout
	l.leave.tick(l)
	select {
	case <-host.Left():
		t.Fatal("it may stop while it is in the roster")
	default:
	}
	hear(3, "b")
	select {
	case <-host.Left():
	default:
		t.Error("it may not stop after it has left again")
	}
}
