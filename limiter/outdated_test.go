// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"testing"
	"time"
)

// endings are how a reservation of a key ends, before the heir hears of it.
var endings = map[string]func(n *readNode){
	"settled":   func(n *readNode) { n.settle(0) },
	"cancelled": func(n *readNode) { n.cancel(0) },
	"withdrawn": func(n *readNode) {
		_, err := n.owner.Withdraw(n.now, readKey(0), "r0", 7)
		n.must(err)
	},
	"forgotten": func(n *readNode) { // the lease expires, and then the id is forgotten
		n.later(DefaultTTL)
		n.owner.Sweep(n.now, 2*Partitions)
		n.later(endedRetention)
	},
}

// TestOwnerRemovesRecord lets a reservation end, and the owner remove the record that it
// charged, before the heir hears of either. The copy must not keep what the reservation
// charged, or the marks of its charges.
func TestOwnerRemovesRecord(t *testing.T) {
	for name, end := range endings {
		for _, again := range []string{"not used again", "used again", "its handle is used again"} {
			t.Run(fmt.Sprintf("%s, %s", name, again), func(t *testing.T) {
				n := newReadNode(t)
				limits := []Limit{
					{Name: "t", Dimension: Tokens, Algorithm: TokenBucket, Amount: 1000, Window: time.Minute},
					{Name: "slots", Dimension: Concurrent, Algorithm: Concurrency, Amount: 1},
				}
				var err error
				n.set, err = n.owner.catalog.LimitSet(limits)
				n.must(err)
				r := n.request(0, "r0", n.set)
				r.Attempt = 7
				n.must(n.owner.Reserve(n.now, r, &Decision{}))
				n.apply(n.atOnce(0))
				after := n.heir.Seq(n.part)
				end(n)
				n.later(time.Minute)
				n.owner.Sweep(n.now, 2*Partitions)
				if s := n.owner.Stats(); s.Keys != 0 {
					t.Fatalf("the owner has %d records, want none", s.Keys)
				}
				keys := 0
				switch again {
				case "used again":
					n.reserveAs(0, "again")
					keys = 1
				case "its handle is used again":
					n.reserveAs(1, "again")
					keys = 1
				}
				run := n.heir.BeginSnapshot(n.now, n.part) // has the copy as it was before
				n.apply(n.atOnce(after))
				run.Finish()
				data := n.heir.Snapshot(n.now, n.part, nil)
				if s := n.heir.Stats(); s.CopiedKeys != keys {
					t.Errorf("the copy has %d records, want %d", s.CopiedKeys, keys)
				}
				for what, data := range map[string][]byte{"during": run.s.out, "after": data} {
					if err := New(Options{}).Restore(n.now, n.part, data, nil); err != nil {
						t.Errorf("Restore of a snapshot %s the message = %v", what, err)
					}
				}
				n.heir.Open(n.part, n.owner.Close(n.part))
				set, err := n.heir.catalog.LimitSet(limits)
				n.must(err)
				var d Decision
				n.must(n.heir.Reserve(n.now, n.request(0, "next", set), &d))
				if want := again != "used again"; (d.Outcome == Allowed) != want {
					t.Errorf("the only slot of a key is free: %v, want %v", !want, want)
				}
				n.heir.shards[n.part].check(t)
			})
		}
	}
}

// TestOwnerKeepsRecord checks that a record stays whose reservations a message has, while
// another reservation ended whose record the owner removed.
func TestOwnerKeepsRecord(t *testing.T) {
	n := newReadNode(t)
	n.reserve(0)
	n.reserve(1)
	n.apply(n.atOnce(0))
	after := n.heir.Seq(n.part)
	n.reserve(1) // a repeat, which changes the reservation and not its record
	n.cancel(0)
	n.later(20 * time.Second)
	n.owner.Sweep(n.now, 2*Partitions)
	n.apply(n.atOnce(after))
	n.heir.shards[n.part].check(t)
	wantSameState(t, "the copy", n.state(n.heir, 2), n.state(n.owner, 2))
	if s := n.heir.Stats(); s.CopiedKeys != 1 {
		t.Errorf("the copy has %d records, want 1", s.CopiedKeys)
	}
}
