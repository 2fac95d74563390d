// SPDX-License-Identifier: Apache-2.0

package client

import (
	"maps"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// While a lease lasts, its owner does not forget the reservation unless the owner and its
// heir are lost. Then the one who runs the call is the only one who knows of it. So a settle
// or a progress is sent again with the reservation if an owner does not know it, or if it
// could only be left to another node, which has nobody to ask later. The owner charges the
// reservation if it does not know the id. After the lease that would not be safe: an owner
// forgets what has ended, and would charge it twice.

// defaultTTL is the lease of a reservation whose estimate has none.
const defaultTTL = 30 * time.Second

// estimateCopy is an [Estimate] that shares no memory with the caller's.
type estimateCopy struct {
	tier, model, id           string
	serviceTier               string
	priority                  Priority
	requests, maxOutput       int64
	hasRequests, hasMaxOutput bool
	estimated                 bool
	input, known              int64
	minOutput, n, ttl         int64
	costs                     map[string]int64
	made                      bool // by this client; else nothing is known
}

func copyEstimate(e *Estimate) estimateCopy {
	c := estimateCopy{
		tier: e.Tier, model: e.Model, id: e.RequestID, serviceTier: e.ServiceTier, priority: e.Priority,
		input: e.InputTokens, estimated: e.EstimatedInput, known: e.KnownInputTokens,
		minOutput: e.MinOutputTokens, n: e.N, ttl: wholeSeconds(e.TTL), costs: maps.Clone(e.Costs), made: true,
	}
	if e.Requests != nil {
		c.requests, c.hasRequests = *e.Requests, true
	}
	if e.MaxOutputTokens != nil {
		c.maxOutput, c.hasMaxOutput = *e.MaxOutputTokens, true
	}
	return c
}

// wire returns the reserve as it was sent.
func (c *estimateCopy) wire(key string) *pb.ReserveRequest {
	r := &pb.ReserveRequest{
		Key: key, Tier: c.tier, Model: c.model, RequestId: c.id, ServiceTier: c.serviceTier, Priority: c.priority.wire(),
		InputTokens: c.input, EstimatedInput: c.estimated, KnownInputTokens: c.known,
		MinOutputTokens: unlessZero(c.minOutput), N: unlessZero(c.n), Costs: c.costs, TtlSeconds: unlessZero(c.ttl),
	}
	if c.hasRequests {
		r.Requests = new(c.requests)
	}
	if c.hasMaxOutput {
		r.MaxOutputTokens = new(c.maxOutput)
	}
	return r
}

// leaseOver is the lease of a reservation that has ended in memory. No owner knows it, so
// that one would make it anew, and charge it again. It is never leased again.
const leaseOver = -1

// renewed takes note that the lease began at a time or later.
func (r *Reservation) renewed(at time.Time) {
	ttl := time.Duration(r.estimate.ttl) * time.Second
	if ttl == 0 {
		ttl = defaultTTL
	}
	if was := r.leased.Load(); was != leaseOver {
		r.leased.CompareAndSwap(was, at.Add(ttl).UnixNano())
	}
}

// isLeased reports whether this client made the reservation and its lease lasts.
func (r *Reservation) isLeased(now time.Time) bool {
	return r.estimate.made && !r.Denied() && now.UnixNano() < r.leased.Load()
}

// bring adds the reservation to a settle, and reports whether it did: if this client made
// the reservation, and its lease lasts.
func (r *Reservation) bring(c *settleCall) bool {
	if !r.isLeased(time.Now()) {
		return false
	}
	c.request.Reservation = r.estimate.wire(r.Key)
	return true
}
