// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"time"

	"github.com/bucketring/bucketring/rpc/client"
)

// Source is where the usage comes from that a call was settled with.
type Source string

// The sources.
const (
	None      Source = ""          // denied: there was nothing to settle
	Reported  Source = "reported"  // by Call.SetUsage, or the usage block of the answer
	Estimated Source = "estimated" // the answer ended without usage, or with one not to be believed
	Partial   Source = "partial"   // the call broke off: what is known until then
	Cancelled Source = "cancelled" // it did not run: everything was given back
)

// Result is what became of a call.
type Result struct {
	Key       string
	Tier      string // that applied, by the decision
	Model     string
	RequestID string // of the reservation
	Method    string // the endpoint, the path or the gRPC method

	Outcome client.Outcome
	Reason  client.Reason // of a denial
	Asked   int64         // output per choice; 0: left to the policy
	Granted int64         // output per choice

	// Charged is what the call was settled with: numbers as they are, 0 is 0.
	Charged client.Usage
	Source  Source
	// Lied: the usage that was reported is not to be believed, and was not.
	Lied bool
	// Later: no node could be reached, so that the settlement waits in the client.
	Later bool
	// Err is why the settlement was refused, or could not be left to the
	// client. The charge is then what the end of the lease makes of it: the
	// estimated input, or the last progress.
	Err error

	Status int // HTTP status of the answer; 0 if there was none, and for gRPC
	Took   time.Duration
}
