// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
)

// TestClusterReservesFromSlices: two clients reserve from slices of one key, and settle, report
// progress and cancel at once and later. What the owner was charged in the end is what the calls
// used, to the token, and what is open.
func TestClusterReservesFromSlices(t *testing.T) {
	names := []string{"node1", "node2", "node3"}
	nodes := startCluster(t, names...)
	clients := []*client.Client{dialCluster(t, nodes, "node1", false), dialCluster(t, nodes, "node2", false)}
	const key = "org/busy"
	var requests, tokens, fromSlice atomic.Int64
	var callers sync.WaitGroup
	for i := range 16 {
		callers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(i), 1))
			c := clients[i%2]
			var open []*client.Reservation
			for j := 0; j < 500 || fromSlice.Load() < 1000 && j < 20_000; j++ {
				output := r.Int64N(100)
				res, err := c.Reserve(t.Context(), client.Estimate{Key: key, Tier: "lent", InputTokens: 20, MaxOutputTokens: &output, TTL: time.Hour})
				if err != nil || res.Denied() {
					t.Errorf("Reserve() = %v, %v, want an allowed call", res, err)
					return
				}
				requests.Add(1)
				tokens.Add(20 + output)
				if res.Route == client.Slice {
					fromSlice.Add(1)
				}
				if open = append(open, res); len(open) < 40 {
					continue
				}
				at := r.IntN(len(open))
				res = open[at]
				open[at] = open[len(open)-1]
				open = open[:len(open)-1]
				reserved := res.Limits[1].Cost
				used := r.Int64N(150)
				switch r.IntN(8) {
				case 0:
					err = res.Cancel(t.Context())
					requests.Add(-1)
					tokens.Add(-reserved)
				case 1:
					err = res.SettleLater(client.Usage{OutputTokens: &used})
					tokens.Add(20 + used - reserved)
				case 2:
					if _, err = res.Progress(t.Context(), client.Usage{OutputTokens: &used}); err != nil {
						break
					}
					_, err = res.Settle(t.Context(), client.Usage{})
					tokens.Add(20 + used - reserved)
				case 3: // it stays open
				default:
					_, err = res.Settle(t.Context(), client.Usage{OutputTokens: &used})
					tokens.Add(20 + used - reserved)
				}
				if err != nil {
					t.Errorf("a call for %s by the route %s failed: %v", res.RequestID, res.Route, err)
				}
			}
		})
	}
	callers.Wait()
	var status string
	for _, c := range clients {
		if err := c.Flush(waittest.Context(t, waittest.Limit)); err != nil {
			t.Errorf("Flush() = %v", err)
		}
		if err := c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		s := c.Status().Slices
		if status += fmt.Sprintf("%+v ", s); s.Open != 0 || s.Kept == 0 || s.Settled == 0 || s.LostReturns != 0 {
			t.Errorf("Status() = %+v, want reservations settled in memory and kept by the owner", s)
		}
	}
	// A slice that came with an answer which the owner could not confirm in time is lost.
	lost := 0
	for _, n := range nodes {
		lost += n.router.Status().Slices.Lent
	}
	t.Logf("%d of %d reserves from slices, %d slices lost: %s", fromSlice.Load(), requests.Load(), lost, status)
	seen, err := dialCluster(t, nodes, "node3", false).Peek(t.Context(), client.Query{Key: key, Tier: "lent"})
	if err != nil {
		t.Fatal(err)
	}
	for i, want := range []int64{requests.Load(), tokens.Load()} {
		if l := seen.Limits[i]; l.Limit-l.Remaining < want || lost == 0 && l.Limit-l.Remaining != want {
			t.Errorf("%d used of %s with %d slices lost, want %d", l.Limit-l.Remaining, l.Name, lost, want)
		}
	}
}
