// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"slices"
	"time"
)

// announceTimeout is how long a member that has left waits for others to know.
const announceTimeout = 5 * time.Second

// leave is the end of a member that leaves. It may stop after a majority of the roster
// without it has said that it has this roster: if nobody had, the others would count on its
// vote until they forget it.
type leave struct {
	epoch uint64 // of the roster without this member; 0: it has not left
	until time.Duration
	knows map[string]bool
	done  bool
}

func (v *leave) begin(l *loop) {
	*v = leave{epoch: l.m.Roster().Epoch, until: l.clock() + announceTimeout, knows: map[string]bool{}, done: v.done}
}

// heard takes note of the roster of another member.
func (v *leave) heard(name string, epoch uint64) {
	if v.epoch > 0 && epoch >= v.epoch {
		v.knows[name] = true
	}
}

// pending reports whether this member has left, and waits for others to know.
func (v *leave) pending() bool { return v.epoch > 0 && !v.done }

// tick ends the departure when enough members know.
func (v *leave) tick(l *loop) {
	if !v.pending() {
		return
	}
	roster, n := l.m.Roster().Names, 0
	if slices.Contains(roster, l.self.Name) {
		v.epoch = 0 // the others have added it meanwhile: it leaves again
		return
	}
	for _, name := range roster {
		if v.knows[name] {
			n++
		}
	}
	late := l.clock() >= v.until
	if n < len(roster)/2+1 && !late {
		return
	}
	v.done = true
	close(l.left)
	if n < len(roster)/2+1 {
		l.log.Warn("this member has left the roster, and others may not know", "roster", roster, "informed", n)
		return
	}
	l.log.Info("this member has handed over all partitions and left the roster", "roster", roster)
}
