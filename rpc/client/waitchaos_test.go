// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/peer"
)

// chaosPolicy has limits for which calls wait, and one that counts what was charged.
const chaosPolicy = `
tiers:
  slots:
    limits:
      - { dimension: concurrent, limit: SLOTS, unreachable: closed, queue: { max_wait: 2s, max_depth: 100 } }
      - { name: daily, dimension: requests, limit: 1_000_000, window: day, unreachable: closed }
  turns:
    limits:
      - { dimension: requests, limit: 5, window: 100ms, unreachable: closed, queue: { max_wait: 1s, max_depth: 100 } }
      - { name: daily, dimension: requests, limit: 1_000_000, window: day, unreachable: closed }
default_tier: slots
`

// chaosSlots is the number of slots of a key; one more by the other policy.
const chaosSlots = 3

// chaosKey is a key and what its callers know of it.
type chaosKey struct {
	name, tier             string
	held, admitted, denied atomic.Int64
}

// admit counts a call that was admitted. It reports whether too many slots are held.
func (k *chaosKey) admit() bool {
	k.admitted.Add(1)
	return k.tier == "slots" && k.held.Add(1) > chaosSlots+1
}

// Owners change at random while many calls wait. No limit is exceeded, each call is charged once or,
// if its caller has gone, not at all, and in the end all slots are free.
func TestWaitersWhileOwnersChange(t *testing.T) {
	if testing.Short() {
		t.Skip("several members with all partitions in one process take too long under the race detector")
	}
	t.Run("callers go", func(t *testing.T) { waitersWhileOwnersChange(t, true) })
	// A check that was charged by another policy is not refunded: its caller stays. It may still
	// be denied, if its owner changes after it has charged it.
	t.Run("policies change", func(t *testing.T) { waitersWhileOwnersChange(t, false) })
}

func waitersWhileOwnersChange(t *testing.T, samePolicy bool) {
	began := time.Now()
	now := func() limiter.Time {
		return limiter.Time{Mono: int64(time.Since(began) + time.Hour), Wall: time.Now().UnixNano()}
	}
	texts := []string{strings.Replace(chaosPolicy, "SLOTS", fmt.Sprint(chaosSlots), 1), strings.Replace(chaosPolicy, "SLOTS", fmt.Sprint(chaosSlots+1), 1)}
	names := []string{"node1", "node2", "node3"}
	nodes := map[string]*routed{}
	for i, name := range names {
		nodes[name] = startRoutedBy(t, name, uint64(i+1), now, texts...)
	}
	serving(t, nodes, names...)
	for _, n := range nodes {
		n.owners.Bootstrap(names)
	}
	awaitSafe(t, nodes)
	clients := []*client.Client{dialCluster(t, nodes, "node1", false), dialCluster(t, nodes, "node3", true)}
	var keys []*chaosKey
	for i := range 6 {
		keys = append(keys, &chaosKey{name: fmt.Sprint("slots", i), tier: "slots"}, &chaosKey{name: fmt.Sprint("turns", i), tier: "turns"})
	}

	const length = 4 * time.Second
	stop := time.Now().Add(length)
	var running sync.WaitGroup
	var longest atomic.Int64
	var waited atomic.Int64
	for i := range 96 {
		running.Go(func() {
			for n := 0; time.Now().Before(stop); n++ {
				k := keys[rand.IntN(len(keys))]
				ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
				plain := i%4 == 1 // a client that withdraws nothing
				if rand.IntN(5) == 0 && !plain && (samePolicy || k.tier == "slots") {
					time.AfterFunc(time.Duration(rand.Int64N(int64(300*time.Millisecond))), cancel)
				}
				sent := time.Now()
				d, settle, err := callOnce(ctx, clients, nodes[names[i%3]].router, i%4, k, fmt.Sprintf("%d-%d", i, n))
				if took := int64(time.Since(sent)); took > longest.Load() {
					longest.Store(took)
				}
				switch {
				case err != nil && ctx.Err() == nil:
					t.Errorf("%s: %v", k.name, err)
				case err == nil && !d.Allowed():
					k.denied.Add(1)
				case err == nil:
					if k.admit() {
						t.Errorf("%s: more than %d slots are held", k.name, chaosSlots+1)
					}
					if d.Waited > 0 {
						waited.Add(1)
					}
					if settle != nil {
						time.Sleep(time.Duration(rand.Int64N(int64(30 * time.Millisecond))))
						k.held.Add(-1)
						if err := settle(t.Context()); err != nil {
							t.Errorf("%s: settle: %v", k.name, err)
						}
					}
				}
				cancel()
			}
		})
	}
	running.Go(func() {
		for left := 0; time.Now().Before(stop); left++ {
			time.Sleep(time.Duration(100+rand.IntN(300)) * time.Millisecond)
			away := names[rand.IntN(len(names))] // as if it were joining: one that leaves never comes back in the same boot
			top := peer.Topology{Roster: len(names)}
			for _, name := range names {
				if name == away && left%2 == 0 {
					top.Joining = append(top.Joining, nodes[name].member)
				} else {
					top.Serving = append(top.Serving, nodes[name].member)
				}
			}
			for _, n := range nodes {
				if err := n.router.SetTopology(top); err != nil {
					t.Error(err)
				}
				if !samePolicy {
					n.policy.Store(n.policies[rand.IntN(len(n.policies))])
					n.router.PolicyChanged()
				}
			}
		}
	})
	running.Wait()
	serving(t, nodes, names...)
	for _, c := range clients {
		if err := c.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	for _, k := range keys {
		var used map[string]int64
		want := map[string]int64{"daily": k.admitted.Load()}
		if k.tier == "slots" {
			want["concurrent"] = 0
		}
		right := func() bool {
			s, err := clients[0].Peek(t.Context(), client.Query{Key: k.name, Tier: k.tier})
			used = map[string]int64{}
			for _, l := range s.Limits {
				used[l.Name] = l.Capacity - l.Remaining + l.Debt
			}
			same := err == nil
			for name, n := range want {
				more := used[name] - n
				kept := !samePolicy && k.tier == "turns" && more > 0 && more <= k.denied.Load()
				same = same && (more == 0 || kept)
			}
			return same
		}
		end := time.Now().Add(8 * time.Second)
		for !right() && time.Now().Before(end) {
			time.Sleep(10 * time.Millisecond)
		}
		if !right() {
			t.Errorf("%s: used is %v, want %v", k.name, used, want)
		}
	}
	if d := time.Duration(longest.Load()); d > 6*time.Second {
		t.Errorf("a call was answered after %v", d)
	}
	t.Logf("%d calls waited and were admitted; the latest answer came after %v", waited.Load(), time.Duration(longest.Load()).Round(time.Millisecond))
	if waited.Load() == 0 {
		t.Error("no call waited")
	}
}

// callOnce sends a check or a reserve by a client, or to a member itself. settle is nil for a check.
func callOnce(ctx context.Context, clients []*client.Client, member *peer.Router, how int, k *chaosKey, id string) (d client.Decision, settle func(context.Context) error, err error) {
	if how < len(clients) {
		c := clients[how]
		if k.tier == "turns" {
			d, err := c.Check(ctx, client.Call{Key: k.name, Tier: k.tier})
			return d, nil, err
		}
		r, err := c.Reserve(ctx, client.Estimate{Key: k.name, Tier: k.tier})
		if err != nil {
			return client.Decision{}, nil, err
		}
		return r.Decision, func(ctx context.Context) error {
			_, err := r.Settle(ctx, client.Usage{})
			return err
		}, nil
	}
	if k.tier == "turns" {
		p, err := member.Check(ctx, &pb.CheckRequest{Key: k.name, Tier: k.tier})
		return decisionOf(p), nil, err
	}
	p, err := member.Reserve(ctx, &pb.ReserveRequest{Key: k.name, Tier: k.tier, RequestId: id})
	return decisionOf(p), func(ctx context.Context) error {
		s, err := member.Settle(ctx, &pb.SettleRequest{Key: k.name, RequestId: p.GetRequestId()})
		if err == nil && s.GetStatus() != pb.ReservationStatus_RESERVATION_STATUS_SETTLED {
			return errors.New(s.GetStatus().String())
		}
		return err
	}, err
}

func decisionOf(p *pb.Decision) client.Decision {
	d := client.Decision{Outcome: client.Denied, Waited: p.GetWaited().AsDuration()}
	if p.GetOutcome() == pb.Outcome_OUTCOME_ALLOWED {
		d.Outcome = client.Allowed
	}
	return d
}
