// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/pb"
)

// callID identifies a call at its owner. Calls with the same one keep their order.
type callID struct{ root, id string }

// callIDOf returns the callID of a call, or why the outbox cannot hold it.
func callIDOf(item *pb.Item) (callID, error) {
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
		return callID{}, fmt.Errorf("call: must be check, reserve, settle, cancel or count, got %T", call)
	}
	if id == "" {
		return callID{}, errors.New("request_id: must not be empty")
	}
	return callID{keypath.Root(key), id}, nil
}

func rootOf(item *pb.Item) string {
	id, err := callIDOf(item)
	if err != nil {
		return ""
	}
	return id.root
}

// relation is how a new call relates to the one that waits before it.
type relation uint8

const (
	separate   relation = iota // deliver both
	identical                  // the new one adds nothing
	superseded                 // the new one replaces the waiting one
	combinable                 // one call can replace both
)

// compare returns how two calls with one request id relate. It returns separate
// unless merging them is certain to make no difference at the owner, whatever the
// state of the reservation.
func compare(waiting, next *pb.Item) relation {
	if waiting.GetReplay() != next.GetReplay() || waiting.GetAttempt() != next.GetAttempt() {
		return separate
	}
	a, b := waiting.GetSettle(), next.GetSettle()
	switch {
	case sameCall(waiting, next):
		return identical
	case a != nil && b != nil && a.Reservation == nil && b.Reservation != nil && sameButReservation(a, b):
		return superseded
	case a == nil || b == nil || a.GetKey() != b.GetKey() || isFinal(a):
		// The owner rejects a second final settle with other numbers.
		return separate
	case isFinal(b):
		if supersedes(b, a) {
			return superseded
		}
	case canCombine(a, b):
		return combinable
	}
	return separate
}

// sameButReservation reports whether b is a with a reservation.
func sameButReservation(a, b *pb.SettleRequest) bool {
	with := proto.CloneOf(a)
	with.Reservation = b.Reservation
	return proto.Equal(with, b)
}

// sameCall reports whether two calls are equal for the owner.
func sameCall(a, b *pb.Item) bool {
	return proto.Equal(&pb.Item{Call: a.GetCall()}, &pb.Item{Call: b.GetCall()})
}

// isFinal reports whether s is final, which is the default.
func isFinal(s *pb.SettleRequest) bool { return s.Final == nil || *s.Final }

// supersedes reports whether progress makes no difference once final is applied: the
// owner takes an output or a cost that final leaves out from the last progress, and
// it must not reject final where it would accept progress, because it does not know the
// reservation, among other reasons.
func supersedes(final, progress *pb.SettleRequest) bool {
	return (final.Reservation != nil || progress.Reservation == nil) && (final.OutputTokens != nil || progress.OutputTokens == nil) && sameDimensions(final, progress) && inRange(final) &&
		(final.GetCachedInputTokens() == 0 || final.InputTokens != nil && final.GetCachedInputTokens() <= final.GetInputTokens())
}

// canCombine reports whether the highest numbers of two progress reports have the
// same effect as both reports. That is not certain if only one of them has an input
// or a certain cost, because the owner fills in what is absent, nor if their cached
// input differs, because more of it lowers the price and the owner rejects more of it
// than there is input.
func canCombine(a, b *pb.SettleRequest) bool {
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

// inRange reports whether the owner accepts the numbers of s. A valid report must not
// be combined with an invalid one.
func inRange(s *pb.SettleRequest) bool {
	ok := func(n int64) bool { return n >= 0 && n <= amount.Max }
	for _, n := range s.GetCosts() {
		if !ok(n) {
			return false
		}
	}
	return ok(s.GetInputTokens()) && ok(s.GetCachedInputTokens()) && ok(s.GetOutputTokens())
}

// combine returns one progress report in place of two. It changes neither.
func combine(waiting, next *pb.Item) *pb.Item {
	a, b := waiting.GetSettle(), next.GetSettle()
	s := proto.CloneOf(b)
	s.InputTokens = highest(a.InputTokens, b.InputTokens)
	s.OutputTokens = highest(a.OutputTokens, b.OutputTokens)
	if s.Reservation == nil {
		s.Reservation = a.GetReservation()
	}
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
