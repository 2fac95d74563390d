// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Lent returns the slice in a result, and the decision with which it came, with its limits in
// full. They share no memory with the encoded result and may be kept. The slice is nil if
// there is none, or the result cannot be decoded. That costs next to nothing for results
// without a slice.
func Lent(e Encoded) (*pb.Slice, *pb.Decision) {
	if len(e.Result) > maxAnswerBytes || !has(e.Result, resultSlice) {
		return nil, nil
	}
	r := &pb.Result{}
	if e.Message(r) != nil || r.GetSlice() == nil || len(r.GetDecision().GetLimits()) > maxLimits {
		return nil, nil
	}
	return r.GetSlice(), r.GetDecision()
}

// has reports whether an encoded message has a field. It does not look into the fields.
func has(message []byte, field protowire.Number) bool {
	for len(message) > 0 {
		number, _, n := protowire.ConsumeField(message)
		if n < 0 {
			return false
		}
		if number == field {
			return true
		}
		message = message[n:]
	}
	return false
}
