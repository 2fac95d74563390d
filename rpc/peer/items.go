// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Requests belong to their callers, who may use one for many calls. What must be
// different in a request is different in a copy.

// keyOf returns the key of a call, empty if there is no call.
func keyOf(item *pb.Item) string {
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		return call.Check.GetKey()
	case *pb.Item_Reserve:
		return call.Reserve.GetKey()
	case *pb.Item_Settle:
		return call.Settle.GetKey()
	case *pb.Item_Cancel:
		return call.Cancel.GetKey()
	case *pb.Item_Peek:
		return call.Peek.GetKey()
	case *pb.Item_Count:
		return call.Count.GetKey()
	}
	return ""
}

// reservationOf returns the id of the reservation that a call ends or extends.
func reservationOf(item *pb.Item) string {
	switch call := item.GetCall().(type) {
	case *pb.Item_Settle:
		return call.Settle.GetRequestId()
	case *pb.Item_Cancel:
		return call.Cancel.GetRequestId()
	}
	return ""
}

// identify gives a check or a reserve an id, so that it is charged once however
// often it is sent.
func (r *Router) identify(item *pb.Item) {
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		if q := call.Check; q.GetRequestId() == "" {
			item.Call = &pb.Item_Check{Check: &pb.CheckRequest{
				Key: q.Key, Tier: q.Tier, Model: q.Model, Requests: q.Requests,
				InputTokens: q.InputTokens, OutputTokens: q.OutputTokens, Costs: q.Costs,
				RequestId: r.local.NewID(),
			}}
		}
	case *pb.Item_Reserve:
		if q := call.Reserve; q.GetRequestId() == "" {
			item.Call = &pb.Item_Reserve{Reserve: &pb.ReserveRequest{
				Key: q.Key, Tier: q.Tier, Model: q.Model, Requests: q.Requests,
				InputTokens: q.InputTokens, MaxOutputTokens: q.MaxOutputTokens, MinOutputTokens: q.MinOutputTokens,
				N: q.N, Costs: q.Costs, TtlSeconds: q.TtlSeconds,
				RequestId: r.local.NewID(),
			}}
		}
	}
}

// withReservation returns a settle or a cancel for another id.
func withReservation(item *pb.Item, id string) *pb.Item {
	switch call := item.GetCall().(type) {
	case *pb.Item_Settle:
		q := call.Settle
		return &pb.Item{Call: &pb.Item_Settle{Settle: &pb.SettleRequest{
			Key: q.GetKey(), RequestId: id, InputTokens: q.InputTokens, CachedInputTokens: q.CachedInputTokens,
			OutputTokens: q.OutputTokens, Costs: q.Costs, Final: q.Final,
		}}}
	case *pb.Item_Cancel:
		return &pb.Item{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: call.Cancel.GetKey(), RequestId: id}}}
	}
	return item
}

// kept returns a copy of a call that outlives it.
func kept(item *pb.Item, replay bool) *pb.Item {
	own := &pb.Item{Replay: replay}
	switch call := item.GetCall().(type) {
	case *pb.Item_Check:
		own.Call = &pb.Item_Check{Check: proto.CloneOf(call.Check)}
	case *pb.Item_Reserve:
		own.Call = &pb.Item_Reserve{Reserve: proto.CloneOf(call.Reserve)}
	case *pb.Item_Settle:
		own.Call = &pb.Item_Settle{Settle: proto.CloneOf(call.Settle)}
	case *pb.Item_Cancel:
		own.Call = &pb.Item_Cancel{Cancel: proto.CloneOf(call.Cancel)}
	case *pb.Item_Count:
		own.Call = &pb.Item_Count{Count: proto.CloneOf(call.Count)}
	}
	return own
}

// withdrawal returns what takes back a reserve that was sent, if item is one.
func withdrawal(item *pb.Item) (back *pb.Item, ok bool) {
	q := item.GetReserve()
	if q == nil || item.GetAttempt() == 0 {
		return nil, false
	}
	return &pb.Item{
		Call:    &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: q.GetKey(), RequestId: q.GetRequestId()}},
		Attempt: item.GetAttempt(),
	}, true
}
