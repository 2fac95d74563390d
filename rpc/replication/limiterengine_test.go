// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

// TestLimitsHoldWhileMembersComeAndGo: with the engine of the limiter, each key admits
// exactly its limit, although a member joins and another one is killed meanwhile.
func TestLimitsHoldWhileMembersComeAndGo(t *testing.T) {
	if raceEnabled {
		t.Skip("three members with 4,096 partitions each are too slow with the race detector")
	}
	const keys, limit = 40, 60
	c := &cluster{t: t, partitions: limiter.Partitions, protocol: continuity.Defaults(limiter.Partitions), limiter: true}
	c.protocol.MaxTransfers = 512
	c.begin("a", "b", "c")
	c.settle()
	var members atomic.Pointer[[]*member]
	see := func() {
		list := slices.Collect(maps.Values(c.members))
		members.Store(&list)
	}
	see()
	plans := sync.Map{} // by member
	plan := func(m *member) *limiter.Plan {
		set, err := m.limiter.Catalog().LimitSet([]limiter.Limit{
			{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.TokenBucket, Amount: limit, Window: 365 * 24 * time.Hour},
		})
		if err != nil {
			t.Error(err)
		}
		p := &limiter.Plan{Count: 1, Tier: "standard"}
		p.Levels[0] = limiter.Level{Tier: "standard", Limits: set}
		stored, _ := plans.LoadOrStore(m, p)
		return stored.(*limiter.Plan)
	}
	// check asks until there is an answer.
	check := func(ctx context.Context, key, id string) (limiter.Outcome, error) {
		partition := keypath.Partition(key, limiter.Partitions)
		for {
			for _, m := range *members.Load() {
				place := m.Place(partition)
				if !m.Decides(partition, m.Clock()) {
					continue
				}
				p := *plan(m)
				p.Levels[0].End = len(key)
				var d limiter.Decision
				if m.limiter.Check(m.now(), &limiter.Request{Key: key, ID: id, Plan: &p, Requests: 1}, &d) != nil {
					continue // it is closed
				}
				if d.Change > 0 {
					m.Changed(partition, true)
					attempt, cancel := context.WithTimeout(ctx, time.Second)
					err := m.waitSince(attempt, partition, place.Origin, d.Change)
					cancel()
					if err != nil {
						continue
					}
				}
				if m.Decides(partition, m.Clock()) {
					return d.Outcome, nil
				}
			}
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			time.Sleep(time.Millisecond)
		}
	}
	ctx := waittest.Context(t, 2*testWait)
	var admitted [keys]atomic.Int64
	var asked atomic.Int64
	var callers sync.WaitGroup
	for n := range 4 {
		callers.Go(func() {
			for i := n; i < keys*limit*3/2; i += 4 {
				k := i % keys
				outcome, err := check(ctx, fmt.Sprint("key-", k), fmt.Sprint("id-", i))
				if err != nil {
					t.Errorf("check %d: %v", i, err)
					return
				}
				if outcome == limiter.Allowed {
					admitted[k].Add(1)
				}
				asked.Add(1)
			}
		})
	}
	until := func(part int64) {
		waittest.Until(t, "calls", func() bool { return asked.Load() >= keys*limit*3/2*part/10 || t.Failed() })
	}
	until(2)
	c.start("d")
	c.show()
	see()
	until(4)
	c.settle()
	c.remove("b")
	see()
	until(6)
	c.show()
	until(8)
	callers.Wait()
	for k := range admitted {
		if n := admitted[k].Load(); n != limit {
			t.Errorf("key-%d: %d admitted, want %d", k, n, limit)
		}
	}
}
