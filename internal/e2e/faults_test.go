// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// a fault breaks one member of a cluster, and mends it.
type fault struct {
	name   string
	breaks func(*testing.T)
	heals  func(*testing.T)
}

// cluster is members under test.
type cluster struct {
	members
	client *client.Client // knows them all
}

// survive breaks a member and checks what the others and the client library
// make of it, until the cluster is one again.
func (c *cluster) survive(t *testing.T, broken *member, f fault) {
	t.Helper()
	others := c.but(broken)
	prefix := f.name
	c.awaitOneView(t, patience)
	theirs := c.keysOf(t, others[0], prefix+"-theirs", 16)
	theirs = append(theirs, c.keysOf(t, others[1], prefix+"-theirs", 16)...)
	lost := c.keysOf(t, broken, prefix+"-lost", 32)
	modes := c.keysOf(t, broken, prefix+"-mode", 3)
	exact := c.keysOf(t, others[0], prefix+"-exact", 1)[0]

	healthy := func() *load {
		return &load{callers: append(askers(others, "plenty"), follows(c.client, "plenty")), keys: theirs, workers: 2, rest: 4 * time.Millisecond}
	}
	healthy().runFor(t, 300*time.Millisecond) // connections are made
	before := healthy().runFor(t, 1500*time.Millisecond)

	// While the cluster learns of it.
	during := healthy().start(t)
	f.breaks(t)
	broke := time.Now()
	calls := (&load{callers: append(askers(others, "plenty"), follows(c.client, "plenty")), keys: lost, workers: 2, rest: 4 * time.Millisecond}).start(t)
	var group sync.WaitGroup
	for _, m := range others {
		group.Go(func() { wantDeclaredFallback(t, m, modes, len(c.members)) })
	}
	group.Wait()
	wantExactly(t, f.name+", while it is broken", append(askers(others, "exact"), follows(c.client, "exact")), exact)

	await(t, "the keys of "+broken.name+" have a new owner", func() bool {
		return calls.eachAnswers(func(r reply) bool { return r.owner != broken.name && r.route != client.Fallback })
	})
	noticed := time.Since(broke)
	all, undisturbed := calls.end(), during.end()
	t.Logf("keys of %s had a new owner after %v; meanwhile %v", broken.name, noticed.Round(10*time.Millisecond), all)
	all.wantAnswered(t, "keys of "+broken.name)
	if len(all.by(client.Fallback)) == 0 {
		t.Errorf("no call for a key of %s was decided in fallback", broken.name)
	}
	if noticed > 10*time.Second {
		t.Errorf("the keys of %s had a new owner after %v, want about 3 s", broken.name, noticed)
	}
	wantUndisturbed(t, "keys of others", before, undisturbed)
	others.awaitOneView(t, healing)

	// And when it is over.
	f.heals(t)
	broken.connect(t)
	c.awaitOneView(t, healing)
	c.awaitDecides(t, broken, lost)
	c.wantSameOwners(t, 2048)
}

// awaitDecides waits until a member decides for all of keys, whoever is asked,
// and the client library asks it directly.
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
			case time.Since(began) > healing:
				t.Fatalf("%v after %s is back, %s still says of %s: owner %q, route %s, %v", healing, owner.name, asked, keys[n], s.owner, s.route, s.err)
			default:
				time.Sleep(20 * time.Millisecond)
			}
		}
		if took := time.Since(began); took > time.Second {
			t.Logf("%s decides for its keys again through %s after %v", owner.name, asked, took.Round(10*time.Millisecond))
		}
	}
	for _, m := range c.members {
		wait(m.name, asks(m, "plenty"), func(r reply) bool { return r.route != client.Fallback })
	}
	wait("the client", follows(c.client, "plenty"), func(r reply) bool { return r.route == client.Local })
}

// wantDeclaredFallback asks a member for keys whose owner it cannot reach,
// under limits of each mode. All calls are under way at once, so that they end
// before the keys have a new owner.
func wantDeclaredFallback(t *testing.T, m *member, keys []string, roster int) {
	t.Helper()
	const calls = 20
	var group sync.WaitGroup
	answers := map[string]samples{}
	var mu sync.Mutex
	for i, tier := range []string{"share", "closed", "open"} {
		for range calls {
			group.Go(func() {
				s := ask(t.Context(), asks(m, tier), keys[i])
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
				t.Errorf("%s, unreachable: %s: the call failed after %v: %v", m.name, tier, s.took, s.err)
				continue
			case s.route != client.Fallback:
				t.Errorf("%s, unreachable: %s: the route is %s by %s after %v, want fallback", m.name, tier, s.route, s.owner, s.took)
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
