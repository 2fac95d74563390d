// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// TestReplicate: each change of a batch has its own result, whether it is answered, lost or
// too late, and the next batch is not answered by what the last one waited for.
func TestReplicate(t *testing.T) {
	c := newCluster(t, 8, "a", "b", "c")
	c.settle()
	ctx := waittest.Context(t, testWait)
	owner := c.members[c.deciders(3)[0]]
	batch := func(id string) (changes []Awaited) {
		var mine []int
		// A process that gets no processor for long has no leases for a while.
		waittest.Until(t, "some partitions of the owner", func() bool {
			mine = mine[:0]
			for p := range c.partitions {
				if owner.Decides(p, owner.Clock()) {
					mine = append(mine, p)
				}
			}
			return len(mine) >= 2
		})
		for _, p := range mine {
			seq, err := owner.engine.charge(p, id, 1)
			if err != nil {
				t.Fatal(err)
			}
			changes = append(changes, Awaited{Call: p, Partition: p, Origin: owner.Place(p).Origin, Seq: seq})
		}
		return changes
	}
	for i := range 20 {
		changes := batch(fmt.Sprint("all ", i))
		owner.Replicate(ctx, changes)
		for _, a := range changes {
			if owner.Place(a.Partition).Origin != a.Origin {
				continue // it has another owner, or had one
			}
			if a.Err != nil || owner.Acknowledged(a.Partition) < a.Seq {
				t.Fatalf("partition %d: %v, the heir has %d, want %d", a.Partition, a.Err, owner.Acknowledged(a.Partition), a.Seq)
			}
		}
		changes = batch(fmt.Sprint("some ", i))
		last := len(changes) - 1
		changes[0].Origin--
		changes[last].Seq += 1000
		short, cancel := context.WithTimeout(ctx, 20*time.Millisecond)
		owner.Replicate(short, changes)
		cancel()
		for n, a := range changes {
			switch {
			case n == 0 && !errors.Is(a.Err, ErrLost):
				t.Errorf("of an earlier time as the owner: %v, want ErrLost", a.Err)
			case n == last && !errors.Is(a.Err, context.DeadlineExceeded):
				t.Errorf("what nobody changed: %v, want the error of the context", a.Err)
			}
		}
		for p := range owner.parts {
			w := &owner.parts[p].waiting
			w.Lock()
			if n := len(w.list); n > 0 {
				t.Errorf("partition %d: %d changes are waited for, want none", p, n)
			}
			w.Unlock()
		}
	}
}
