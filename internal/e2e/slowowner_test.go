// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"testing"
	"time"
)

// TestSlowOwner freezes a member for 300 ms of each second. It answers in between, so the
// calls for its keys wait for it, and the others have no more to do than before. Callers
// that ask other members instead let those ask the slow one again.
func TestSlowOwner(t *testing.T) {
	ps := startProcesses(t, 3)
	slow := ps.run[2]
	ps.wantSlowOwnerAlone(t, ps.members[2], func(stop <-chan struct{}) {
		for tick := time.NewTicker(time.Second); ; {
			slow.freeze(t)
			time.Sleep(300 * time.Millisecond)
			slow.thaw(t)
			select {
			case <-tick.C:
			case <-stop:
				tick.Stop()
				return
			}
		}
	})
}

// wantSlowOwnerAlone makes a member slow for 10 s, and compares calls for its keys and for
// those of others with before. Disturb returns after stop is closed.
func (c *cluster) wantSlowOwnerAlone(t *testing.T, slow *member, disturb func(stop <-chan struct{})) {
	t.Helper()
	const (
		rate    = 1000
		begin   = 4 * time.Second
		end     = begin + 10*time.Second
		length  = end + 2*time.Second
		timeout = time.Second
		// A client may always retry its first failures.
		firstRetries = 100
	)
	others := c.but(slow)
	moved := others.metric(t, "bucketring_ring_moves_total")
	forwarded, fallbacks := others.metric(t, "bucketring_forward_items_sum"), others.metric(t, "bucketring_fallbacks_total")
	load := c.startOffer(t, "keys=uniform:10k tiers=plenty=1 tokens=fixed:9+1", rate, length, timeout)
	load.sleepUntil(begin)
	stop, done := make(chan struct{}), make(chan struct{})
	go func() { defer close(done); disturb(stop) }()
	load.sleepUntil(end)
	close(stop)
	<-done
	load.wait(t)
	forwarded = others.metric(t, "bucketring_forward_items_sum") - forwarded
	fallbacks = others.metric(t, "bucketring_fallbacks_total") - fallbacks

	owners := map[string]string{}
	all := load.due(0, length)
	var keys []string
	for _, call := range all {
		if _, seen := owners[call.key]; !seen {
			owners[call.key] = ""
			keys = append(keys, call.key)
		}
	}
	heirs := map[string]string{} // of charges to these keys, the owner waits for the heir
	for i, l := range others[0].locations(t, keys) {
		owners[keys[i]], heirs[keys[i]] = l.GetOwner(), l.GetHeir()
	}
	theirs := func(call *offeredCall) bool { return owners[call.key] != slow.name && heirs[call.key] != slow.name }
	ours := func(call *offeredCall) bool { return owners[call.key] == slow.name }
	quiet, during := load.due(time.Second, begin).of(theirs), load.due(begin, end).of(theirs)
	own, allOwn := load.due(begin, end).of(ours), len(all.of(ours))
	inherited := load.due(begin, end).of(func(call *offeredCall) bool { return heirs[call.key] == slow.name })
	if got := inherited.answered(); got < len(inherited)*9/10 {
		t.Errorf("%d of %d calls for keys of which the slow member is the heir are answered, want nearly all", got, len(inherited))
	}
	t.Logf("keys of others, before: %v", quiet)
	t.Logf("keys of others, during: %v", during)
	t.Logf("keys of the slow member, during: %v", own)
	t.Logf("of %d calls for keys of the slow member, others forwarded %.0f and decided %.0f without it", allOwn, forwarded, fallbacks)
	if n := len(during) - during.answered(); n > 0 {
		t.Errorf("%d of %d calls for keys of other members have no answer, want all answered", n, len(during))
	}
	if got, most := during.quantile(990), 5*quiet.quantile(990)+50*time.Millisecond; got > most {
		t.Errorf("p99 for keys of other members is %v, want at most %v (before: %v)", got, most, quiet.quantile(990))
	}
	if got := own.answered(); got < len(own)*8/10 {
		t.Errorf("%d of %d calls for keys of the slow member are answered, want nearly all: callers wait %v", got, len(own), timeout)
	}
	if most, asked := float64(firstRetries+allOwn/10), max(forwarded, fallbacks); asked > most {
		t.Errorf("other members were asked %.0f of %d calls in place of their owner, want at most a tenth and the first %d", asked, allOwn, firstRetries)
	}
	if n := others.metric(t, "bucketring_ring_moves_total") - moved; n != 0 {
		t.Errorf("%.0f partitions changed their owner, want none: the member is slow and not gone", n)
	}
}
