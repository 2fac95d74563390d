// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// Source is the origin of the usage that a call was settled with.
type Source string

const (
	// SourceNone is the source of a denied call, which is not settled.
	SourceNone Source = ""
	// SourceReported is usage from [Call.SetUsage] or the usage block of the response.
	SourceReported Source = "reported"
	// SourceEstimated is an estimate for a complete response without plausible usage.
	SourceEstimated Source = "estimated"
	// SourcePartial is the usage of an interrupted call up to its interruption.
	SourcePartial Source = "partial"
	// SourceRejected is the source of a call that the model server rejected before any
	// output. Only its requests stay charged.
	SourceRejected Source = "rejected"
	// SourceCancelled is the source of a call that did not run and was refunded.
	SourceCancelled Source = "cancelled"
)

// ChargedUsage is the usage that a call was settled with.
type ChargedUsage struct {
	InputTokens       int64 // including cached ones
	CachedInputTokens int64
	// Input that was written to a cache: for five minutes or an unknown time, and for an
	// hour.
	CacheWriteTokens, CacheWrite1hTokens int64
	OutputTokens                         int64 // of all choices
	Images, Searches                     int64
	ServiceTier                          string           // that the model gave; "": unknown
	Rejected                             bool             // no fee is due for the request
	Costs                                map[string]int64 // in the operator's own dimensions
}

// Result describes a call that has ended.
type Result struct {
	Key       string
	Tier      string // applied by the decision
	Model     string
	RequestID string // of the reservation
	Method    string // name of the endpoint, URL path, or full gRPC method

	Outcome client.Outcome // of the decision, or OutcomeUndecided
	Reason  client.Reason  // of a denial

	Priority client.Priority // the class of the call; "": nothing says anything of classes
	Waited   time.Duration   // in line, until the decision

	RequestedOutputTokens int64 // of each choice; 0: the policy's default
	GrantedOutputTokens   int64 // of each choice

	Charged ChargedUsage
	Source  Source
	// UsageRejected is true if the reported usage was not plausible and was replaced
	// by an estimate.
	UsageRejected bool
	// UsageRefused is true if the call is a stream and was sent without asking for its
	// usage, because the model server refuses that.
	UsageRefused bool
	// Deferred is true if no node could be reached, and the settlement waits in the
	// client, or in the middleware if there was no decision either.
	Deferred bool
	// Err is the error of a settlement that a node rejected or that the client could
	// not store. The lease then decides the charge when it expires: the larger of
	// the estimated input and the last progress. But if the node rejected only Costs, the
	// rest of Charged was charged, and if it rejected a number that makes a charge beyond
	// 2^53, Charged is the reservation instead, and UsageRejected is true.
	Err error

	Status   int           // HTTP status of the response; 0: no response, or gRPC
	Duration time.Duration // from before the reservation to after the settlement
	// FirstByte is the time from before the reservation to the first byte of the
	// response's body. 0: none, or gRPC.
	FirstByte time.Duration

	spend int64 // microdollars that were charged; 0: unknown
}
