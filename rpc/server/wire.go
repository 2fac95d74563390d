// SPDX-License-Identifier: Apache-2.0

package server

import (
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// What a stream is answered is written by hand, straight from the engine's
// decisions: messages that are made only to be encoded cost more than deciding.
// The bytes are those of the .proto; a test compares them with the generated
// code's, field by field.

// Tags of fields: the number and how it is encoded, in one byte.
const (
	asVarint = byte(protowire.VarintType)
	asBytes  = byte(protowire.BytesType)

	answersResult = 3<<3 | asBytes

	resultDecision   = 1<<3 | asBytes
	resultSettlement = 2<<3 | asBytes
	resultLimits     = 3<<3 | asBytes
	resultTerm       = 6<<3 | asVarint
	resultCounted    = 7<<3 | asBytes

	decisionOutcome  = 1<<3 | asVarint
	decisionReason   = 2<<3 | asVarint
	decisionID       = 3<<3 | asBytes
	decisionTier     = 4<<3 | asBytes
	decisionGranted  = 5<<3 | asVarint
	decisionRetry    = 6<<3 | asBytes
	decisionBinding  = 7<<3 | asVarint
	decisionLimit    = 8<<3 | asBytes
	decisionVersion  = 9<<3 | asBytes
	decisionOwner    = 10<<3 | asBytes
	decisionRoute    = 11<<3 | asVarint
	decisionReplayed = 12<<3 | asVarint

	settlementID      = 1<<3 | asBytes
	settlementStatus  = 2<<3 | asVarint
	settlementTier    = 3<<3 | asBytes
	settlementLimit   = 4<<3 | asBytes
	settlementVersion = 5<<3 | asBytes
	settlementOwner   = 6<<3 | asBytes
	settlementRoute   = 7<<3 | asVarint

	seenTier    = 1<<3 | asBytes
	seenLimit   = 2<<3 | asBytes
	seenVersion = 3<<3 | asBytes
	seenOwner   = 4<<3 | asBytes
	seenRoute   = 5<<3 | asVarint

	limitName      = 1<<3 | asBytes
	limitDimension = 2<<3 | asBytes
	limitScope     = 3<<3 | asBytes
	limitAlgorithm = 4<<3 | asBytes
	limitLimit     = 5<<3 | asVarint
	limitRemaining = 6<<3 | asVarint
	limitDebt      = 7<<3 | asVarint
	limitReset     = 8<<3 | asBytes
	limitWindow    = 9<<3 | asBytes
	limitCost      = 10<<3 | asVarint
	limitShadow    = 11<<3 | asVarint
	limitExceeded  = 12<<3 | asVarint
	limitCapacity  = 13<<3 | asVarint

	countedLimit    = 1<<3 | asVarint
	countedUsed     = 2<<3 | asVarint
	countedFull     = 3<<3 | asVarint
	countedEnd      = 4<<3 | asVarint
	countedReset    = 5<<3 | asVarint
	countedOwner    = 6<<3 | asBytes
	countedRoute    = 7<<3 | asVarint
	countedReplayed = 8<<3 | asVarint

	timeSeconds = 1<<3 | asVarint // of a Duration and of a Timestamp
	timeNanos   = 2<<3 | asVarint
)

// How many bytes lengths mostly take: of an answer, and of one of its limits.
const (
	ofAnswer = 2
	ofLimit  = 1
)

// appendResult appends r, as a field of Answers.
func appendResult(b []byte, r *pb.Result) []byte {
	b, at := begin(b, answersResult, ofAnswer)
	b, err := proto.MarshalOptions{}.MarshalAppend(b, r)
	if err != nil {
		// Text that is not UTF-8, which every way in refuses. The caller gets an
		// answer that is none, the others theirs.
		return finish(b[:at+ofAnswer], at, ofAnswer)
	}
	return finish(b, at, ofAnswer)
}

// appendAnswer appends what came of x, as a result in a field of Answers.
func (s *Service) appendAnswer(b []byte, x *scratch, term uint64) []byte {
	b, result := begin(b, answersResult, ofAnswer)
	switch x.kind {
	case call.Settle, call.Cancel:
		var at int
		b, at = begin(b, resultSettlement, ofAnswer)
		b = finish(s.appendSettlement(b, x), at, ofAnswer)
	case call.Peek:
		var at int
		b, at = begin(b, resultLimits, ofAnswer)
		b = finish(s.appendSeen(b, x), at, ofAnswer)
	case call.Count:
		var at int
		b, at = begin(b, resultCounted, ofAnswer)
		b = finish(s.appendCounted(b, x), at, ofAnswer)
	default:
		var at int
		b, at = begin(b, resultDecision, ofAnswer)
		b = finish(s.appendDecision(b, x), at, ofAnswer)
	}
	b = appendNumber(b, resultTerm, term)
	return finish(b, result, ofAnswer)
}

// appendDecision writes what fill makes.
func (s *Service) appendDecision(b []byte, x *scratch) []byte {
	d := &x.decision
	b = appendNumber(b, decisionOutcome, uint64(outcome(d.Outcome)))
	b = appendNumber(b, decisionReason, uint64(reason(d.Reason)))
	b = appendText(b, decisionID, x.request.ID)
	b = appendText(b, decisionTier, d.Tier)
	if x.kind == call.Reserve && d.Outcome != limiter.Denied {
		b = protowire.AppendVarint(append(b, decisionGranted), uint64(d.GrantedOutputTokens))
	}
	if d.Outcome == limiter.Denied && d.RetryAfter >= 0 {
		b = appendTime(b, decisionRetry, int64(d.RetryAfter))
	}
	if d.Binding >= 0 && d.Binding < len(d.Limits) {
		b = protowire.AppendVarint(append(b, decisionBinding), uint64(d.Binding))
	}
	b = appendLimits(b, decisionLimit, d.Limits)
	b = appendText(b, decisionVersion, s.versionOf(d.PolicyVersion))
	b = appendText(b, decisionOwner, s.owner)
	b = appendNumber(b, decisionRoute, uint64(s.route))
	return appendTrue(b, decisionReplayed, d.Replayed)
}

// appendSettlement writes what fillSettlement makes.
func (s *Service) appendSettlement(b []byte, x *scratch) []byte {
	d := &x.decision
	b = appendText(b, settlementID, x.callerID)
	b = appendNumber(b, settlementStatus, uint64(status(d.Status)))
	b = appendText(b, settlementTier, d.Tier)
	b = appendLimits(b, settlementLimit, d.Limits)
	b = appendText(b, settlementVersion, s.versionOf(d.PolicyVersion))
	b = appendText(b, settlementOwner, s.owner)
	return appendNumber(b, settlementRoute, uint64(s.route))
}

// appendSeen writes what fillSeen makes.
func (s *Service) appendSeen(b []byte, x *scratch) []byte {
	d := &x.decision
	b = appendText(b, seenTier, d.Tier)
	b = appendLimits(b, seenLimit, d.Limits)
	b = appendText(b, seenVersion, s.versionOf(d.PolicyVersion))
	b = appendText(b, seenOwner, s.owner)
	return appendNumber(b, seenRoute, uint64(s.route))
}

// appendLimits writes what limits makes.
func appendLimits(b []byte, tag byte, states []limiter.LimitState) []byte {
	for i := range states {
		l := &states[i]
		var at int
		b, at = begin(b, tag, ofLimit)
		b = appendText(b, limitName, l.Name)
		b = appendText(b, limitDimension, string(l.Dimension))
		b = appendText(b, limitScope, l.Scope)
		b = appendText(b, limitAlgorithm, l.Algorithm.String())
		b = appendNumber(b, limitLimit, uint64(l.Limit))
		b = appendNumber(b, limitRemaining, uint64(l.Remaining))
		b = appendNumber(b, limitDebt, uint64(l.Debt))
		if l.ResetAt > 0 {
			b = appendTime(b, limitReset, l.ResetAt)
		}
		if l.Window > 0 {
			b = appendTime(b, limitWindow, int64(l.Window))
		}
		b = appendNumber(b, limitCost, uint64(l.Cost))
		b = appendTrue(b, limitShadow, l.Shadow)
		b = appendTrue(b, limitExceeded, l.Exceeded)
		b = appendNumber(b, limitCapacity, uint64(l.Capacity))
		b = finish(b, at, ofLimit)
	}
	return b
}

// begin appends the tag of a message, and room for its length.
func begin(b []byte, tag byte, room int) (_ []byte, at int) {
	b = append(b, tag, 0, 0)[:len(b)+1+room]
	return b, len(b) - room
}

// finish sets the length of the message that begin began, whose body is all that
// follows, and moves the body if the length takes another number of bytes.
func finish(b []byte, at, room int) []byte {
	n := len(b) - at - room
	if takes := protowire.SizeVarint(uint64(n)); takes != room {
		for range takes - room {
			b = append(b, 0)
		}
		copy(b[at+takes:], b[at+room:at+room+n])
		b = b[:at+takes+n]
	}
	protowire.AppendVarint(b[:at], uint64(n))
	return b
}

// Numbers, texts and truths that are zero are not written.

func appendNumber(b []byte, tag byte, n uint64) []byte {
	if n == 0 {
		return b
	}
	return protowire.AppendVarint(append(b, tag), n)
}

func appendText(b []byte, tag byte, s string) []byte {
	if s == "" {
		return b
	}
	return append(protowire.AppendVarint(append(b, tag), uint64(len(s))), s...)
}

func appendTrue(b []byte, tag byte, is bool) []byte {
	if !is {
		return b
	}
	return append(b, tag, 1)
}

// appendTime appends nanoseconds that are not negative as a message of their own,
// which is short.
func appendTime(b []byte, tag byte, ns int64) []byte {
	seconds, nanos := split(ns)
	b, at := begin(b, tag, 1)
	b = appendNumber(b, timeSeconds, uint64(seconds))
	b = appendNumber(b, timeNanos, uint64(nanos))
	return finish(b, at, 1)
}
