// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
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
			ps.wantOneCount(t, "nodes", viaNodes(ps.members, "exact"), 10)
			ps.wantOneCount(t, "client", []caller{viaClient(ps.client, "exact")}, 10)
			ps.wantOneReservation(t)

			t.Run("a short freeze", func(t *testing.T) { ps.surviveShortFreeze(t, broken, process) })
			t.Run("frozen", func(t *testing.T) {
				ps.survive(t, broken, fault{name: "frozen", inject: process.freeze, repair: process.thaw})
			})
			t.Run("killed", func(t *testing.T) {
				ps.survive(t, broken, fault{name: "killed", inject: process.kill, repair: process.start, proven: true})
			})
			t.Run("a fast restart", func(t *testing.T) { ps.surviveFastRestart(t, broken, process) })
			t.Run("a clean stop", func(t *testing.T) { ps.surviveStop(t, broken, process) })
		})
	}
}

// surviveShortFreeze freezes a member for less than the detection time of a crash.
// Calls admitted in fallback meanwhile are charged to it afterwards, once.
func (ps *processes) surviveShortFreeze(t *testing.T, broken *member, process *process) {
	const calls = 5 // fewer than a share of 5 members
	key := ps.keysOf(t, broken, "short", 1)[0]
	ps.awaitOneView(t, waittest.Limit)
	process.freeze(t)
	all := make(chan sample, calls)
	for range calls {
		go func() { all <- ask(t.Context(), viaNode(ps.members[0], "share"), key) }()
	}
	for range calls {
		if s := <-all; s.err != nil || !s.allowed || s.route != client.Fallback {
			t.Errorf("a call for a frozen owner = %+v, want allowed in fallback", s)
		}
	}
	process.thaw(t)
	ps.awaitOneView(t, healTimeout)
	waittest.Until(t, fmt.Sprintf("%s to have the %d charges made in fallback", broken.name, calls), func() bool {
		return broken.remaining(t, key, "share", "share") <= shareLimit-calls
	})
	if left := broken.remaining(t, key, "share", "share"); left != shareLimit-calls {
		t.Errorf("after %d calls of %d, %d are left: each must count once", calls, shareLimit, left)
	}
}

// surviveStop stops a member with SIGTERM. It leaves the ring before its process
// ends, so that its keys have a new owner at once.
func (ps *processes) surviveStop(t *testing.T, leaving *member, process *process) {
	others := ps.but(leaving)
	ps.awaitOneView(t, waittest.Limit)
	keys := ps.keysOf(t, leaving, "stop", 32)
	calls := (&load{callers: append(viaNodes(others, "plenty"), viaClient(ps.client, "plenty")), keys: keys, workers: 2, pause: 4 * time.Millisecond}).start(t)
	waittest.Until(t, "an answer for each caller", func() bool { return calls.allLatest(func(r reply) bool { return r.owner == leaving.name }) })
	stopping := time.Now()
	process.stop(t)
	if took := time.Since(stopping); took > 20*time.Second {
		t.Errorf("%s ended %v after SIGTERM, want a few seconds:\n%s", leaving.name, took.Round(time.Millisecond), process.log.tail(60))
	}
	if took := others.awaitOneView(t, waittest.Limit); took > time.Second {
		t.Errorf("the others saw the stop %v after the process had ended, want before: it left", took)
	}
	for until := time.Now().Add(3 * time.Second); time.Now().Before(until); time.Sleep(50 * time.Millisecond) {
		if err := others.oneView(t.Context()); err != nil {
			t.Errorf("after %s has left: %v, want it to stay absent", leaving.name, err)
			break
		}
	}
	all := calls.end()
	t.Logf("keys of %s while it leaves: %v", leaving.name, all)
	all.wantAnswered(t, "keys of "+leaving.name)
	// The members learn of it one after the other and disagree meanwhile.
	if n, window := len(all.by(client.Fallback)), all.by(client.Fallback).window(); window > time.Second {
		t.Errorf("%d of %d calls for keys of %s were decided in fallback over %v while it left, want at most a second", n, len(all), leaving.name, window)
	}
	process.start(t)
	ready(t, leaving.http)
	leaving.connect(t)
	ps.awaitOneView(t, healTimeout)
}

// surviveFastRestart restarts a killed member before the crash is detected. It comes
// back empty with its old name, and must be in the ring of all members.
func (ps *processes) surviveFastRestart(t *testing.T, broken *member, process *process) {
	key := ps.keysOf(t, broken, "fast", 1)[0]
	before := ps.members[0].bootOf(t.Context(), broken.name)
	process.kill(t)
	process.start(t)
	ps.awaitRestart(t, broken, before)
	ready(t, broken.http)
	ps.awaitOneView(t, healTimeout)
	ps.awaitDecides(t, broken, []string{key})
	wantExactly(t, "after a fast restart", append(viaNodes(ps.members, "exact"), viaClient(ps.client, "exact")), key)
}
