// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// address is where the owner files a call: calls of the same one keep their
// order.
type address struct{ root, id string }

// addressOf returns the address of a call, or why the outbox can't keep it.
func addressOf(item *pb.Item) (address, error) {
	var key, id string
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		key, id = call.Check.GetKey(), call.Check.GetRequestId()
	case *pb.Item_Reserve:
		key, id = call.Reserve.GetKey(), call.Reserve.GetRequestId()
	case *pb.Item_Settle:
		key, id = call.Settle.GetKey(), call.Settle.GetRequestId()
	case *pb.Item_Cancel:
		key, id = call.Cancel.GetKey(), call.Cancel.GetRequestId()
	case *pb.Item_Count:
		key, id = call.Count.GetKey(), call.Count.GetRequestId()
	default:
		return address{}, fmt.Errorf("call: must be check, reserve, settle, cancel or count, got %T", call)
	}
	if id == "" {
		return address{}, errors.New("request_id: must not be empty")
	}
	return address{root(key), id}, nil
}

func root(key string) string {
	r, _, _ := strings.Cut(key, "/")
	return r
}

func rootOf(item *pb.Item) string {
	at, err := addressOf(item)
	if err != nil {
		return ""
	}
	return at.root
}

// verdict is what a new call means for the one that waits before it.
type verdict uint8

const (
	apart   verdict = iota // both are delivered
	repeat                 // the new one says nothing more
	replace                // the waiting one says nothing that the new one does not
	join                   // one call can say what both say
)

// compare asks what the owner would make of two calls of one request id. It says
// apart unless leaving one out is certain to make no difference, whatever the
// owner knows of the reservation.
func compare(waiting, next *pb.Item) verdict {
	if waiting.GetReplay() != next.GetReplay() || waiting.GetAttempt() != next.GetAttempt() {
		return apart
	}
	a, b := waiting.GetSettle(), next.GetSettle()
	switch {
	case sameCall(waiting, next):
		return repeat
	case a == nil || b == nil || a.GetKey() != b.GetKey() || isFinal(a):
		// A second final with other numbers is for the owner to refuse.
		return apart
	case isFinal(b):
		if supersedes(b, a) {
			return replace
		}
	case joinable(a, b):
		return join
	}
	return apart
}

// sameCall compares what the owner looks at.
func sameCall(a, b *pb.Item) bool {
	switch call := a.GetCall().(type) {
	case *pb.Item_Check:
		return b.GetCheck() != nil && proto.Equal(call.Check, b.GetCheck())
	case *pb.Item_Reserve:
		return b.GetReserve() != nil && proto.Equal(call.Reserve, b.GetReserve())
	case *pb.Item_Settle:
		return b.GetSettle() != nil && proto.Equal(call.Settle, b.GetSettle())
	case *pb.Item_Cancel:
		return b.GetCancel() != nil && proto.Equal(call.Cancel, b.GetCancel())
	case *pb.Item_Count:
		return b.GetCount() != nil && proto.Equal(call.Count, b.GetCount())
	}
	return false
}

// isFinal: absent means true.
func isFinal(s *pb.SettleRequest) bool { return s.Final == nil || *s.Final }

// supersedes reports whether a final settle says everything that progress does.
// An output or a cost that it leaves out is that of the last progress. Nor may
// the owner refuse the final and take the progress.
func supersedes(final, progress *pb.SettleRequest) bool {
	return (final.OutputTokens != nil || progress.OutputTokens == nil) && sameDimensions(final, progress) && inRange(final) &&
		(final.GetCachedInputTokens() == 0 || final.InputTokens != nil && final.GetCachedInputTokens() <= final.GetInputTokens())
}

// joinable reports whether the highest numbers of two reports of progress are
// what the owner would come to from both. Not if one has an input or a cost that
// the other leaves out: that stands for a number which only the owner knows. Not
// if their cached input differs: more of it lowers a price, and the owner
// refuses more than the input.
func joinable(a, b *pb.SettleRequest) bool {
	return (a.InputTokens == nil) == (b.InputTokens == nil) && a.GetCachedInputTokens() == b.GetCachedInputTokens() &&
		sameDimensions(a, b) && inRange(a) && inRange(b)
}

// sameDimensions reports whether two settles name the same costs.
func sameDimensions(a, b *pb.SettleRequest) bool {
	if len(a.GetCosts()) != len(b.GetCosts()) {
		return false
	}
	for dimension := range a.GetCosts() {
		if _, ok := b.GetCosts()[dimension]; !ok {
			return false
		}
	}
	return true
}

// maxAmount is the largest that the owner takes, 2^53.
const maxAmount = 1 << 53

// inRange reports whether the owner would take the numbers: joining must not
// spoil good ones.
func inRange(s *pb.SettleRequest) bool {
	good := func(n int64) bool { return n >= 0 && n <= maxAmount }
	for _, n := range s.GetCosts() {
		if !good(n) {
			return false
		}
	}
	return good(s.GetInputTokens()) && good(s.GetCachedInputTokens()) && good(s.GetOutputTokens())
}

// joined returns what two joinable reports of progress say together. It changes
// neither.
func joined(waiting, next *pb.Item) *pb.Item {
	a, b := waiting.GetSettle(), next.GetSettle()
	s := proto.CloneOf(b)
	s.InputTokens = highest(a.InputTokens, b.InputTokens)
	s.OutputTokens = highest(a.OutputTokens, b.OutputTokens)
	for dimension, n := range a.GetCosts() {
		s.Costs[dimension] = max(s.Costs[dimension], n)
	}
	return &pb.Item{Call: &pb.Item_Settle{Settle: s}, Term: next.GetTerm(), TimeoutNanos: next.GetTimeoutNanos(), Replay: next.GetReplay()}
}

func highest(a, b *int64) *int64 {
	if a == nil || b != nil && *b >= *a {
		return b
	}
	return a
}
