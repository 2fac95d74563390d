// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

func TestCallsGoToEveryNodeInTurn(t *testing.T) {
	run(t, client.Options{}, []string{"a", "b", "c"}, func(t scene) {
		for range 12 {
			check(t)
		}
		for addr, n := range t.nodes {
			if got := len(n.seen()); got != 4 {
				t.Errorf("%s was asked %d times, want 4", addr, got)
			}
		}
	})
}

func TestNodeDiesAndComesBack(t *testing.T) {
	run(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		check(t)
		t.nodes["a"].kill()
		start := time.Now()
		for range 100 {
			check(t)
		}
		wantTook(t, start, 0) // a broken connection costs no time
		if got := len(t.charged()); got != 101 {
			t.Errorf("charged %d calls, want 101", got)
		}

		t.nodes["a"].start()
		before := len(t.nodes["a"].seen())
		time.Sleep(10 * time.Second) // virtual: reconnected, no longer suspected
		for range 100 {
			check(t)
		}
		if got := len(t.nodes["a"].seen()) - before; got != 50 {
			t.Errorf("a was asked %d times of 100 after it came back, want 50", got)
		}
	})
}

func TestAllNodesDieAndComeBack(t *testing.T) {
	run(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		t.stop()
		start := time.Now()
		_, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"})
		wantUnreachable(t, err)
		if took := time.Since(start); took > 100*time.Millisecond {
			t.Errorf("Check() with every node down took %v, want a quick error", took)
		}
		time.Sleep(time.Hour)
		for _, n := range t.nodes {
			n.start()
		}
		time.Sleep(3 * time.Second) // the longest wait for a new connection
		check(t)
	})
}

// A node that is connected but silent costs one call its share of the deadline;
// later calls avoid it.
func TestSilentNodeIsAvoided(t *testing.T) {
	run(t, client.Options{}, []string{"a", "b"}, func(t scene) {
		t.nodes["a"].behave(silent)
		check(t)
		check(t)
		for range 3 {
			asked, start := len(t.nodes["a"].seen()), time.Now()
			for range 100 {
				check(t)
			}
			wantTook(t, start, 0)
			if got := len(t.nodes["a"].seen()); got != asked {
				t.Errorf("a was asked %d times while suspected, want 0", got-asked)
			}
			time.Sleep(6 * time.Second) // no longer suspected: one of many calls tries
			var wg sync.WaitGroup
			for range 100 {
				wg.Go(func() { check(t) })
			}
			wg.Wait()
			if got := len(t.nodes["a"].seen()) - asked; got != 1 {
				t.Errorf("a was asked by %d of 100 calls at once, want 1", got)
			}
		}
	})
}
