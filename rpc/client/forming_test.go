// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// Calls while a cluster forms, when owners have no heirs yet, are charged as often as they
// are admitted.
func TestCallsWhileAClusterForms(t *testing.T) {
	names := []string{"node1", "node2", "node3"}
	nodes := map[string]*routed{}
	for i, name := range names {
		nodes[name] = startRouted(t, name, uint64(i+1))
	}
	serving(t, nodes, names...)
	c := dialCluster(t, nodes, "node1", false)
	for _, n := range nodes {
		n.owners.Bootstrap(names)
	}
	var mu sync.Mutex
	admitted, failed := map[string]int64{}, 0
	var callers sync.WaitGroup
	stop := time.Now().Add(4 * time.Second)
	for i := range 64 {
		callers.Go(func() {
			for j := 0; time.Now().Before(stop); j++ {
				key := fmt.Sprint("org", (i*7+j)%50)
				ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
				d, err := c.Check(ctx, client.Call{Key: key, Tier: "million"})
				cancel()
				mu.Lock()
				if err != nil {
					failed++
				} else if d.Allowed() {
					admitted[key]++
				}
				mu.Unlock()
				time.Sleep(20 * time.Millisecond)
			}
		})
	}
	callers.Wait()
	t.Logf("%d failed", failed)
	awaitSafe(t, nodes)
	for key, want := range admitted {
		var got int64
		for until := time.Now().Add(5 * time.Second); got != want && time.Now().Before(until); time.Sleep(10 * time.Millisecond) {
			seen, err := c.Peek(t.Context(), client.Query{Key: key, Tier: "million"})
			if err != nil {
				t.Fatal(err)
			}
			got = seen.Limits[0].Limit - seen.Limits[0].Remaining
		}
		if got != want {
			t.Errorf("%s: %d used, want the %d admitted", key, got, want)
		}
	}
}
