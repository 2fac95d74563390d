// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"fmt"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

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

// describe shows a call in a few characters.
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
		if isFinal(call.Settle) {
			return fmt.Sprint("final ", call.Settle.GetOutputTokens())
		}
		return fmt.Sprint("progress ", call.Settle.GetOutputTokens())
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

// mustPut puts items and returns how many entries were needless.
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

var roomy = limits{entries: 1000, bytes: 1 << 20, underWay: 64, age: 10 * time.Minute}

// consistent recounts everything that a queue keeps twice.
func (q *queue) consistent() error {
	count, bytes, busy, probes, aged := 0, 0, 0, 0, 0
	for at, c := range q.chains {
		if len(c.entries) == 0 || c.address != at || c.lane == nil || q.lanes[c.lane.owner] != c.lane {
			return fmt.Errorf("chain %v: %d entries, address %v, lane %+v", at, len(c.entries), c.address, c.lane)
		}
		if c.turn == nil {
			busy++
		}
		for i, e := range c.entries {
			count++
			bytes += e.size
			if e.age != nil {
				aged++
			} else if i > 0 || c.turn != nil {
				return fmt.Errorf("chain %v: entry %d has no age and is not under way", at, i)
			}
			if i > 0 && e.at.Before(c.entries[i-1].at) {
				return fmt.Errorf("chain %v: entry %d is older than the one before", at, i)
			}
		}
	}
	if count != q.count || bytes != q.bytes || busy != q.underWay || aged != q.ages.Len() {
		return fmt.Errorf("%d entries, %d bytes, %d under way, %d with an age; want %d, %d, %d, %d",
			q.count, q.bytes, q.underWay, q.ages.Len(), count, bytes, busy, aged)
	}
	if q.count > q.limits.entries || q.bytes > q.limits.bytes || q.underWay > q.limits.underWay || q.probes > q.limits.underWay/2 {
		return fmt.Errorf("%d entries, %d bytes, %d under way, %d probes, limits %+v", q.count, q.bytes, q.underWay, q.probes, q.limits)
	}
	waiting, ready, ailing := 0, 0, 0
	busy = 0
	for owner, l := range q.lanes {
		waiting += l.chains.Len()
		busy += l.underWay
		mayStart := l.chains.Len() > 0 && l.failures == 0 && l.underWay < q.limits.underWay/lanesPerOutbox
		mayProbe := l.chains.Len() > 0 && l.failures > 0 && l.underWay == 0
		if l.owner != owner || l.chains.Len()+l.underWay == 0 || (l.ready != nil) != mayStart || (l.index > 0) != mayProbe {
			return fmt.Errorf("lane %q: %+v", owner, l)
		}
		if mayStart {
			ready++
		}
		if mayProbe {
			ailing++
			if q.ailing[l.index-1] != l {
				return fmt.Errorf("lane %q is not at %d of the heap", owner, l.index)
			}
		}
	}
	if waiting != len(q.chains)-q.underWay || busy != q.underWay || ready != q.ready.Len() || ailing != len(q.ailing) || probes > q.underWay {
		return fmt.Errorf("lanes have %d chains, %d under way, %d ready, %d ailing; queue %d, %d, %d, %d",
			waiting, busy, ready, ailing, len(q.chains)-q.underWay, q.underWay, q.ready.Len(), len(q.ailing))
	}
	return nil
}

func (q *queue) holds(key, id string) bool { return q.chains[address{root(key), id}] != nil }
