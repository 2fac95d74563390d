// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
)

// fault is a fault of one member, and its repair.
type fault struct {
	name   string
	inject func(*testing.T)
	repair func(*testing.T)
	// proven: the others find that the process is gone, and take over at once.
	proven bool
}

// cluster is a cluster under test.
type cluster struct {
	members
	client *client.Client // of all members
}

// survive injects a fault into a member, checks the other members and the client
// library meanwhile, and repairs it.
func (c *cluster) survive(t *testing.T, broken *member, f fault) {
	t.Helper()
	others := c.but(broken)
	prefix := f.name
	c.awaitOneView(t, waittest.Limit)
	// Charges to keys of which the broken member is the heir wait for the next heir.
	healthyKeys := c.keysApart(t, others[0], broken, prefix+"-theirs", 16)
	healthyKeys = append(healthyKeys, c.keysApart(t, others[1], broken, prefix+"-theirs", 16)...)
	brokenKeys := c.keysOf(t, broken, prefix+"-lost", 32)
	modes := c.keysOf(t, broken, prefix+"-mode", 3)
	exact := c.keysOf(t, others[0], prefix+"-exact", 1)[0]

	healthy := func() *load {
		return &load{callers: append(viaNodes(others, "plenty"), viaClient(c.client, "plenty")), keys: healthyKeys, workers: 2, pause: 4 * time.Millisecond}
	}
	healthy().runFor(t, 300*time.Millisecond) // to establish connections
	before := healthy().runFor(t, 1500*time.Millisecond)

	// Before and while the fault is detected.
	during := healthy().start(t)
	f.inject(t)
	injected := time.Now()
	calls := (&load{callers: append(viaNodes(others, "plenty"), viaClient(c.client, "plenty")), keys: brokenKeys, workers: 2, pause: 4 * time.Millisecond}).start(t)
	var group sync.WaitGroup
	for _, m := range others {
		if !f.proven { // else the keys soon have a new owner
			group.Go(func() { wantDeclaredFallback(t, m, modes, len(c.members)) })
		}
	}
	group.Wait()
	wantExactly(t, f.name+", while it is broken", append(viaNodes(others, "exact"), viaClient(c.client, "exact")), exact)

	waittest.Until(t, "a new owner of the keys of "+broken.name, func() bool {
		return calls.allLatest(func(r reply) bool { return r.owner != broken.name && r.route != client.Fallback })
	})
	noticed := time.Since(injected)
	all, undisturbed := calls.end(), during.end()
	t.Logf("keys of %s had a new owner after %v; meanwhile %v", broken.name, noticed.Round(10*time.Millisecond), all)
	all.wantAnswered(t, "keys of "+broken.name)
	if len(all.by(client.Fallback)) == 0 && !f.proven {
		t.Errorf("no call for a key of %s was decided in fallback", broken.name)
	}
	within, about := 10*time.Second, 2*time.Second
	if f.proven {
		within, about = 3*time.Second, 500*time.Millisecond
	}
	if noticed > within {
		t.Errorf("the keys of %s had a new owner after %v, want about %v", broken.name, noticed, about)
	}
	wantUndisturbed(t, "keys of others", before, undisturbed)
	others.awaitOneView(t, healTimeout)

	// After the repair.
	f.repair(t)
	broken.connect(t)
	c.awaitOneView(t, healTimeout)
	c.awaitDecides(t, broken, brokenKeys)
	c.wantSameOwners(t, 2048)
}

// awaitDecides waits until all members forward keys to their owner, and the client
// library calls it directly.
func (c *cluster) awaitDecides(t *testing.T, owner *member, keys []string) {
	t.Helper()
	wait := func(asked string, call caller, decided func(reply) bool) {
		t.Helper()
		began := time.Now()
		for n := 0; n < len(keys); {
			s := ask(t.Context(), call, keys[n])
			switch {
			case s.err == nil && s.owner == owner.name && decided(s.reply):
				n++
			case time.Since(began) > healTimeout:
				t.Fatalf("%v after %s is back, %s still says of %s: owner %q, route %s, %v", healTimeout, owner.name, asked, keys[n], s.owner, s.route, s.err)
			default:
				time.Sleep(20 * time.Millisecond)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Logf("%s decides for its keys again through %s after %v", owner.name, asked, took.Round(10*time.Millisecond))
		}
	}
	for _, m := range c.members {
		wait(m.name, viaNode(m, "plenty"), func(r reply) bool { return r.route != client.Fallback })
	}
	wait("the client", viaClient(c.client, "plenty"), func(r reply) bool { return r.route == client.Local })
}

// wantDeclaredFallback checks keys whose owner a member cannot reach, under limits
// of each mode. All calls are concurrent, so that they end before the keys have a
// new owner.
func wantDeclaredFallback(t *testing.T, m *member, keys []string, roster int) {
	t.Helper()
	const calls = 20
	var group sync.WaitGroup
	answers := map[string]samples{}
	var mu sync.Mutex
	for i, tier := range []string{"share", "closed", "open"} {
		for range calls {
			group.Go(func() {
				s := ask(t.Context(), viaNode(m, tier), keys[i])
				mu.Lock()
				defer mu.Unlock()
				answers[tier] = append(answers[tier], s)
			})
		}
	}
	group.Wait()
	for tier, want := range map[string]int{"share": shareLimit / roster, "closed": 0, "open": calls} {
		got := 0
		for _, s := range answers[tier] {
			switch {
			case s.err != nil:
				t.Errorf("%s, unreachable: %s: the call failed after %v: %v", m.name, tier, s.latency, s.err)
				continue
			case s.route != client.Fallback:
				t.Errorf("%s, unreachable: %s: the route is %s by %s after %v, want fallback", m.name, tier, s.route, s.owner, s.latency)
			case tier == "closed" && (s.reason != string(client.OwnerUnreachable) || s.retry != time.Second):
				t.Errorf("%s, unreachable: closed: reason %q, retry after %v, want owner_unreachable and 1s", m.name, s.reason, s.retry)
			}
			if s.allowed {
				got++
			}
		}
		if got != want {
			t.Errorf("%s, unreachable: %s: %d of %d calls were admitted, want %d: %v", m.name, tier, got, calls, want, answers[tier])
		}
	}
}
