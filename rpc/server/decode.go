// SPDX-License-Identifier: Apache-2.0

package server

import (
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Requests are decoded here, because protobuf's decoder makes a piece of memory for each
// text, and three more for an item of a batch. What is unusual is left to that decoder, and
// so is what it rejects: its errors are what callers see.

// decodeRequest decodes a request into an empty message. It reports false for what is left to
// protobuf's decoder; then the message may have been changed. All texts of a request share
// one piece of memory, and those of an item of a batch.
func decodeRequest(encoded []byte, message any) bool {
	switch q := message.(type) {
	case *pb.CheckRequest:
		return decodeCheck(encoded, q)
	case *pb.ReserveRequest:
		return decodeFields(encoded, []any{
			1: &q.Key, 2: &q.Tier, 3: &q.Model, 4: &q.Requests, 5: &q.InputTokens, 6: &q.MaxOutputTokens,
			7: &q.MinOutputTokens, 8: &q.N, 10: &q.TtlSeconds, 11: &q.RequestId, 12: &q.ServiceTier,
			13: &q.EstimatedInput, 14: &q.KnownInputTokens, 16: &q.Priority,
		})
	case *pb.SettleRequest:
		return decodeFields(encoded, []any{
			1: &q.Key, 2: &q.RequestId, 3: &q.InputTokens, 4: &q.CachedInputTokens, 5: &q.OutputTokens, 7: &q.Final,
			8: &q.CacheWriteTokens, 9: &q.CacheWrite_1HTokens, 10: &q.Images, 11: &q.Searches, 12: &q.ServiceTier, 13: &q.Rejected,
		})
	case *pb.CancelRequest:
		return decodeFields(encoded, []any{1: &q.Key, 2: &q.RequestId})
	case *pb.PeekRequest:
		return decodeFields(encoded, []any{1: &q.Key, 2: &q.Tier, 3: &q.Model})
	case *pb.BatchRequest:
		return decodeBatch(encoded, 1, nil, &q.Items)
	case *pb.Batch:
		return decodeBatch(encoded, 3, []any{1: &q.Sequence, 2: (*fixed64)(&q.Ring), 4: &q.TakesDefinitions}, &q.Items)
	}
	return false
}

func decodeCheck(encoded []byte, q *pb.CheckRequest) bool {
	return decodeFields(encoded, []any{
		1: &q.Key, 2: &q.Tier, 3: &q.Model, 4: &q.Requests, 5: &q.InputTokens, 6: &q.OutputTokens,
		8: &q.RequestId, 9: &q.ServiceTier, 11: &q.Priority,
	})
}

// fixed64 is a number that is sent in eight bytes.
type fixed64 uint64

// decodeFields decodes a message whose field i goes to fields[i]: to a *string, to the check of
// a *checkItem, or to what decodeNumber decodes.
func decodeFields(encoded []byte, fields []any) bool {
	text := "" // encoded, once there is a text in it
	for at := 0; at < len(encoded); {
		number, kind, n := protowire.ConsumeTag(encoded[at:])
		if n < 0 || int(number) >= len(fields) {
			return false
		}
		at += n
		if kind != protowire.BytesType {
			if n = decodeNumber(encoded[at:], kind, fields[number]); n < 0 {
				return false
			}
			at += n
			continue
		}
		value, n := protowire.ConsumeBytes(encoded[at:])
		if n < 0 {
			return false
		}
		at += n
		switch to := fields[number].(type) {
		case *string:
			if !utf8.Valid(value) {
				return false
			}
			if text == "" {
				text = string(encoded)
			}
			*to = text[at-len(value) : at]
		case *checkItem:
			if to.call.Check != nil || !decodeCheck(value, &to.check) { // a second one would be merged
				return false
			}
			to.call.Check = &to.check
		default:
			return false
		}
	}
	return true
}

// decodeNumber decodes the value of a field, and returns its length, or -1 for what it does not
// decode.
func decodeNumber(encoded []byte, kind protowire.Type, to any) int {
	if kind == protowire.Fixed64Type {
		to, ok := to.(*fixed64)
		value, n := protowire.ConsumeFixed64(encoded)
		if !ok || n < 0 {
			return -1
		}
		*to = fixed64(value)
		return n
	}
	value, n := protowire.ConsumeVarint(encoded)
	if kind != protowire.VarintType || n < 0 {
		return -1
	}
	switch to := to.(type) {
	case *int64:
		*to = int64(value)
	case **int64:
		*to = new(int64(value))
	case *uint64:
		*to = value
	case *bool:
		*to = protowire.DecodeBool(value)
	case **bool:
		*to = new(protowire.DecodeBool(value))
	case *pb.Priority:
		*to = pb.Priority(int32(value))
	default:
		return -1
	}
	return n
}

// checkItem is a pb.Item with a check, in one piece.
type checkItem struct {
	item  pb.Item
	call  pb.Item_Check
	check pb.CheckRequest
}

// itemsAtOnce bounds how many items are made at once: 32 KiB, beyond which the allocator is
// slow.
const itemsAtOnce = 64

// decodeBatch decodes a batch whose items are in the field with a number.
func decodeBatch(encoded []byte, items protowire.Number, fields []any, to *[]*pb.Item) bool {
	count := 0
	for rest := encoded; len(rest) > 0; {
		number, _, n := protowire.ConsumeField(rest)
		if n < 0 {
			return false
		}
		if number == items {
			count++
		}
		rest = rest[n:]
	}
	list, room := make([]*pb.Item, 0, count), []checkItem(nil)
	for len(encoded) > 0 {
		number, kind, n := protowire.ConsumeTag(encoded)
		encoded = encoded[n:]
		switch {
		case number == items && kind == protowire.BytesType:
			var body []byte
			body, n = protowire.ConsumeBytes(encoded)
			if len(room) == 0 {
				room = make([]checkItem, min(count-len(list), itemsAtOnce))
			}
			item := &room[0].item
			if decodeCheckItem(body, &room[0]) {
				room = room[1:]
			} else if item = new(pb.Item); proto.Unmarshal(body, item) != nil {
				return false
			}
			list = append(list, item)
		case int(number) < len(fields):
			n = decodeNumber(encoded, kind, fields[number])
		default:
			return false
		}
		if n < 0 {
			return false
		}
		encoded = encoded[n:]
	}
	if len(list) > 0 {
		*to = list
	}
	return true
}

// decodeCheckItem decodes an item with a check. If it reports false, x is empty.
func decodeCheckItem(encoded []byte, x *checkItem) bool {
	if !decodeFields(encoded, []any{
		1: x, 6: &x.item.TimeoutNanos, 7: &x.item.Term, 8: &x.item.Replay, 10: (*fixed64)(&x.item.Attempt),
		14: &x.item.TakesSlice, 17: &x.item.WaitedNanos,
	}) || x.call.Check == nil {
		*x = checkItem{}
		return false
	}
	x.item.Call = &x.call
	return true
}
