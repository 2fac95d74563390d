// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/bucketring/bucketring/rpc/pb"
)

// The numbers of the fields that framing reads or writes. The .proto is the only
// place that states them.
var (
	batchItems  = number(&pb.Batch{}, "items")
	itemTimeout = number(&pb.Item{}, "timeout_nanos")

	answersSequence = number(&pb.Answers{}, "sequence")
	answersResults  = number(&pb.Answers{}, "results")
	batchResults    = number(&pb.BatchResponse{}, "results")

	peerBatch   = number(&pb.PeerMessage{}, "batch")
	peerAnswers = number(&pb.PeerAnswer{}, "answers")

	resultDecision   = number(&pb.Result{}, "decision")
	resultSettlement = number(&pb.Result{}, "settlement")
	resultLimits     = number(&pb.Result{}, "limits")
	resultError      = number(&pb.Result{}, "error")
	resultTerm       = number(&pb.Result{}, "term")
	resultSlice      = number(&pb.Result{}, "slice")

	errorRetryAfter = number(&pb.Error{}, "retry_after_ms")

	answersDefinitions = number(&pb.Answers{}, "definitions")
	resultValues       = number(&pb.Result{}, "values")
)

// number panics if m has no such field.
func number(m proto.Message, name protoreflect.Name) protowire.Number {
	return m.ProtoReflect().Descriptor().Fields().ByName(name).Number()
}
