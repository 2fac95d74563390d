// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/pb"
)

func check(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key, RequestId: id}}, Replay: true}
}

func count(key, id string, hits int64) *pb.Item {
	return &pb.Item{Call: &pb.Item_Count{Count: &pb.CountRequest{Key: key, RequestId: id, Hits: hits}}, Replay: true}
}

func reserve(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Reserve{Reserve: &pb.ReserveRequest{Key: key, RequestId: id}}, Replay: true}
}

func cancel(key, id string) *pb.Item {
	return &pb.Item{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: key, RequestId: id}}}
}

func settle(s *pb.SettleRequest) *pb.Item { return &pb.Item{Call: &pb.Item_Settle{Settle: s}} }

// progress and final report output only.
func progress(key, id string, output int64) *pb.Item {
	return settle(&pb.SettleRequest{Key: key, RequestId: id, OutputTokens: &output, Final: new(bool)})
}

func final(key, id string, output int64) *pb.Item {
	return settle(&pb.SettleRequest{Key: key, RequestId: id, OutputTokens: &output})
}

// bringing adds its reservation to a settle.
func bringing(item *pb.Item) *pb.Item {
	s := item.GetSettle()
	s.Reservation = &pb.ReserveRequest{Key: s.Key, RequestId: s.RequestId}
	return item
}

// describe returns a call as short text.
func describe(item *pb.Item) string {
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		return "check"
	case *pb.Item_Reserve:
		return "reserve"
	case *pb.Item_Cancel:
		return "cancel"
	case *pb.Item_Count:
		return fmt.Sprint("count ", call.Count.GetHits())
	case *pb.Item_Settle:
		of := ""
		if call.Settle.Reservation != nil {
			of = " of a reserve"
		}
		if isFinal(call.Settle) {
			return fmt.Sprint("final ", call.Settle.GetOutputTokens(), of)
		}
		return fmt.Sprint("progress ", call.Settle.GetOutputTokens(), of)
	}
	return "?"
}

func describeAll(items []*pb.Item) string {
	var words []string
	for _, item := range items {
		words = append(words, describe(item))
	}
	return strings.Join(words, ", ")
}

// mustPut puts items and returns how many entries were merged.
func mustPut(t testing.TB, q *queue, now time.Time, items ...*pb.Item) (merged int) {
	t.Helper()
	for _, item := range items {
		n, err := q.put(now, item)
		if err != nil {
			t.Fatalf("put %s: %v", describe(item), err)
		}
		merged += n
	}
	return merged
}

// testQueue returns a queue whose owners are the roots.
func testQueue(l limits) *queue {
	return newQueue(l, rootOf, rand.New(rand.NewPCG(1, 2)))
}

var roomy = limits{entries: 1000, bytes: 1 << 20, inFlight: 64, age: 10 * time.Minute}

// consistent checks the redundant state of a queue.
func (q *queue) consistent() error {
	count, bytes, busy, probes, aged := 0, 0, 0, 0, 0
	for at, c := range q.chains {
		if len(c.entries) == 0 || c.id != at || c.owner == nil || q.owners[c.owner.name] != c.owner {
			return fmt.Errorf("chain %v: %d entries, id %v, owner %+v", at, len(c.entries), c.id, c.owner)
		}
		if c.waiting == nil {
			busy++
		}
		for i, e := range c.entries {
			count++
			bytes += e.size
			if e.age != nil {
				aged++
			} else if i > 0 || c.waiting != nil {
				return fmt.Errorf("chain %v: entry %d has no age and is not in flight", at, i)
			}
			if i > 0 && e.at.Before(c.entries[i-1].at) {
				return fmt.Errorf("chain %v: entry %d is older than the one before", at, i)
			}
		}
	}
	if count != q.count || bytes != q.bytes || busy != q.inFlight || aged != q.byAge.Len() {
		return fmt.Errorf("%d entries, %d bytes, %d in flight, %d with an age; want %d, %d, %d, %d",
			q.count, q.bytes, q.inFlight, q.byAge.Len(), count, bytes, busy, aged)
	}
	if q.count > q.limits.entries || q.bytes > q.limits.bytes || q.inFlight > q.limits.inFlight || q.probes > q.limits.inFlight/2 {
		return fmt.Errorf("%d entries, %d bytes, %d in flight, %d probes, limits %+v", q.count, q.bytes, q.inFlight, q.probes, q.limits)
	}
	waiting, ready, failing := 0, 0, 0
	busy = 0
	for name, o := range q.owners {
		waiting += o.chains.Len()
		busy += o.inFlight
		mayStart := o.chains.Len() > 0 && o.failures == 0 && o.inFlight < q.limits.inFlight/ownerShare
		mayProbe := o.chains.Len() > 0 && o.failures > 0 && o.inFlight == 0
		if o.name != name || o.chains.Len()+o.inFlight == 0 || (o.ready != nil) != mayStart || (o.heapIndex > 0) != mayProbe {
			return fmt.Errorf("owner %q: %+v", name, o)
		}
		if mayStart {
			ready++
		}
		if mayProbe {
			failing++
			if q.failing[o.heapIndex-1] != o {
				return fmt.Errorf("owner %q is not at %d of the heap", name, o.heapIndex)
			}
		}
	}
	if waiting != len(q.chains)-q.inFlight || busy != q.inFlight || ready != q.ready.Len() || failing != len(q.failing) || probes > q.inFlight {
		return fmt.Errorf("owners have %d chains, %d in flight, %d ready, %d failing; queue %d, %d, %d, %d",
			waiting, busy, ready, failing, len(q.chains)-q.inFlight, q.inFlight, q.ready.Len(), len(q.failing))
	}
	return nil
}

func (q *queue) holds(key, id string) bool { return q.chains[callID{keypath.Root(key), id}] != nil }
