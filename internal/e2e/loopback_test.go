// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// TestProcesses runs clusters of the static binary on the loopback address, and
// kills, freezes and restarts members.
func TestProcesses(t *testing.T) {
	for _, n := range []int{3, 5} {
		t.Run(fmt.Sprintf("%d nodes", n), func(t *testing.T) {
			ps := startProcesses(t, n)
			last := n - 1
			broken, process := ps.members[last], ps.run[last]

			ps.wantBalance(t)
			ps.wantSameOwners(t, 10_000)
			ps.wantOneCount(t, "nodes", askers(ps.members, "exact"), 10)
			ps.wantOneCount(t, "client", []caller{follows(ps.client, "exact")}, 10)
			ps.wantOneReservation(t)

			t.Run("a short freeze", func(t *testing.T) { ps.surviveShortFreeze(t, broken, process) })
			t.Run("frozen", func(t *testing.T) {
				ps.survive(t, broken, fault{name: "frozen", breaks: process.freeze, heals: process.thaw})
			})
			t.Run("killed", func(t *testing.T) {
				ps.survive(t, broken, fault{name: "killed", breaks: process.kill, heals: process.start})
			})
			t.Run("a fast restart", func(t *testing.T) { ps.surviveFastRestart(t, broken, process) })
			t.Run("a clean stop", func(t *testing.T) { ps.surviveStop(t, broken, process) })
		})
	}
}

// surviveShortFreeze freezes a member for less time than it takes to be missed.
// What was admitted meanwhile is charged to it afterwards, once.
func (ps *processes) surviveShortFreeze(t *testing.T, broken *member, process *process) {
	const calls = 5 // fewer than a share of 5 members
	key := ps.keysOf(t, broken, "short", 1)[0]
	ps.awaitOneView(t, patience)
	process.freeze(t)
	all := make(chan sample, calls)
	for range calls {
		go func() { all <- ask(t.Context(), asks(ps.members[0], "share"), key) }()
	}
	for range calls {
		if s := <-all; s.err != nil || !s.allowed || s.route != client.Fallback {
			t.Errorf("a call for a frozen owner = %+v, want allowed in fallback", s)
		}
	}
	process.thaw(t)
	ps.awaitOneView(t, healing)
	await(t, fmt.Sprintf("%s has the %d charges that were made without it", broken.name, calls), func() bool {
		return broken.remaining(t, key, "share", "share") <= shareLimit-calls
	})
	if left := broken.remaining(t, key, "share", "share"); left != shareLimit-calls {
		t.Errorf("after %d calls of %d, %d are left: each must count once", calls, shareLimit, left)
	}
}

// surviveStop ends a member as an operator does. It leaves the ring before it
// goes, so that its keys have a new owner at once, and it stays away.
func (ps *processes) surviveStop(t *testing.T, leaving *member, process *process) {
	others := ps.but(leaving)
	ps.awaitOneView(t, patience)
	keys := ps.keysOf(t, leaving, "stop", 32)
	calls := (&load{callers: append(askers(others, "plenty"), follows(ps.client, "plenty")), keys: keys, workers: 2, rest: 4 * time.Millisecond}).start(t)
	await(t, "all callers have an answer", func() bool { return calls.eachAnswers(func(r reply) bool { return r.owner == leaving.name }) })
	process.stop(t)
	if took := others.awaitOneView(t, patience); took > time.Second {
		t.Errorf("the others saw the stop %v after the process had ended, want before: it said goodbye", took)
	}
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err := others.oneView(t.Context()); err != nil {
			t.Errorf("after %s has left: %v, want it to stay away", leaving.name, err)
			break
		}
	}
	all := calls.end()
	t.Logf("keys of %s while it leaves: %v", leaving.name, all)
	all.wantAnswered(t, "keys of "+leaving.name)
	// The members learn of it one after the other, and disagree for that long.
	if n, window := len(all.by(client.Fallback)), all.by(client.Fallback).window(); window > time.Second {
		t.Errorf("%d of %d calls for keys of %s were decided in fallback over %v while it left, want at most a second", n, len(all), leaving.name, window)
	}
	process.start(t)
	ready(t, leaving.http)
	leaving.connect(t)
	ps.awaitOneView(t, healing)
}

// surviveFastRestart kills a member and starts it again before it is missed. It
// comes back empty under its old name, and must be in the ring of all.
func (ps *processes) surviveFastRestart(t *testing.T, broken *member, process *process) {
	key := ps.keysOf(t, broken, "fast", 1)[0]
	before := ps.members[0].bootOf(t.Context(), broken.name)
	process.kill(t)
	process.start(t)
	ps.awaitRestart(t, broken, before)
	ready(t, broken.http)
	ps.awaitOneView(t, healing)
	ps.awaitDecides(t, broken, []string{key})
	wantExactly(t, "after a fast restart", append(askers(ps.members, "exact"), follows(ps.client, "exact")), key)
}
