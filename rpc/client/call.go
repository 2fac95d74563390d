// SPDX-License-Identifier: Apache-2.0

package client

import (
	"math"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Zero is a count of exactly 0 in the fields where the number 0 means not
// given.
const Zero int64 = math.MinInt64

// Call is a known cost, for [Client.Check].
type Call struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string

	Requests     int64 // 0: 1
	InputTokens  int64
	OutputTokens int64
	Costs        map[string]int64 // in the operator's own dimensions

	// RequestID makes the call idempotent for 30 seconds. "": the client makes one.
	RequestID string
}

func (c *Call) wire() *pb.CheckRequest {
	return &pb.CheckRequest{
		Key:          c.Key,
		Tier:         c.Tier,
		Model:        c.Model,
		Requests:     optional(c.Requests),
		InputTokens:  c.InputTokens,
		OutputTokens: c.OutputTokens,
		Costs:        c.Costs,
		RequestId:    c.RequestID,
	}
}

// Estimate is the most that a call is expected to cost, for [Client.Reserve].
type Estimate struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string

	Requests        int64 // 0: 1
	InputTokens     int64
	MaxOutputTokens int64 // of one choice; 0: the policy's default for the model
	// MinOutputTokens is the least output worth running, where the policy lets
	// a grant shrink. 0: max(256, MaxOutputTokens/8).
	MinOutputTokens int64
	N               int64            // choices; 0: 1
	Costs           map[string]int64 // in the operator's own dimensions

	// TTL is the lease, in whole seconds, rounded up. Progress renews it. 0: 30 s.
	TTL time.Duration

	// RequestID makes the call idempotent until 10 minutes after the
	// reservation has ended. "": the client makes one.
	RequestID string
}

func (e *Estimate) wire() *pb.ReserveRequest {
	return &pb.ReserveRequest{
		Key:             e.Key,
		Tier:            e.Tier,
		Model:           e.Model,
		Requests:        optional(e.Requests),
		InputTokens:     e.InputTokens,
		MaxOutputTokens: optional(e.MaxOutputTokens),
		MinOutputTokens: optional(e.MinOutputTokens),
		N:               optional(e.N),
		Costs:           e.Costs,
		TtlSeconds:      optional(wholeSeconds(e.TTL)),
		RequestId:       e.RequestID,
	}
}

// Usage is what a reserved call has really used so far. Numbers are cumulative,
// so that a usage report may be repeated.
type Usage struct {
	InputTokens       int64 // cached ones included; 0: the reserved estimate
	CachedInputTokens int64 // a part of InputTokens
	OutputTokens      int64 // over all choices; 0: the last progress
	// Costs in the operator's own dimensions. A dimension that is not there
	// keeps what is charged.
	Costs map[string]int64
}

func (u *Usage) wire(key, requestID string, final bool) *pb.SettleRequest {
	return &pb.SettleRequest{
		Key:               key,
		RequestId:         requestID,
		InputTokens:       optional(u.InputTokens),
		CachedInputTokens: optional(u.CachedInputTokens),
		OutputTokens:      optional(u.OutputTokens),
		Costs:             u.Costs,
		Final:             new(final),
	}
}

// Query names the limits that [Client.Peek] looks at.
type Query struct {
	Key   string // 1 to 4 segments: "acme/alice"
	Tier  string // "": the policy decides
	Model string
}

// optional returns n as the wire has it: absent for 0, and 0 for Zero.
func optional(n int64) *int64 {
	switch n {
	case 0:
		return nil
	case Zero:
		return new(int64)
	}
	return new(n)
}

func wholeSeconds(d time.Duration) int64 {
	s := int64(d / time.Second)
	if d%time.Second > 0 {
		s++
	}
	return s
}
