// SPDX-License-Identifier: Apache-2.0

package main

import (
	"strings"

	"github.com/bucketring/bucketring/rpc/pb"
)

// printRoute prints who answered in place of the owner of the key. Text is empty if the owner
// answered, directly or through the node that was asked.
func (s *streams) printRoute(text string) {
	if text != "" {
		s.printf("%s\n", text)
	}
}

// decisionRoute says who decided a check or a reserve, and why, if it was not the owner of the
// key. Server is the address of the node that was asked.
func decisionRoute(d *pb.Decision, server string) string {
	switch d.GetRoute() {
	case pb.Route_ROUTE_FALLBACK:
		text := "fallback: " + d.GetOwner() + " decided this alone, because no owner of the key could answer in time"
		if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
			return text + " (reason " + reasonName(d.GetReason()) + "). The limits are those of " + d.GetOwner() + " alone."
		}
		return text + ". The limits are those of " + d.GetOwner() + " alone; the owner is charged when it answers again."
	case pb.Route_ROUTE_SLICE:
		return "slice: the node at " + server + " decided this from memory, because the key is hot and " + d.GetOwner() +
			", its owner, has lent a part of the limits. The owner learns of the call when the slice is returned."
	}
	return ""
}

// settlementRoute is [decisionRoute] for a settle or a cancel.
func settlementRoute(d *pb.Settlement, server string) string {
	switch d.GetRoute() {
	case pb.Route_ROUTE_FALLBACK:
		return "fallback: " + d.GetOwner() + " took this, because no owner of the key could answer in time, and sends it to the owner until that has applied it."
	case pb.Route_ROUTE_SLICE:
		return "slice: the node at " + server + " ended this in memory, because the reservation came from a part of the limits that " + d.GetOwner() +
			", the owner of the key, has lent. The owner learns of it when the slice is returned."
	}
	return ""
}

// limitsRoute is [decisionRoute] for the state of limits.
func limitsRoute(d *pb.PeekResponse, server string) string {
	switch d.GetRoute() {
	case pb.Route_ROUTE_FALLBACK:
		return "fallback: this is what " + d.GetOwner() + " would decide by alone, because no owner of the key could answer in time. What the owner has counted is not in it."
	case pb.Route_ROUTE_SLICE:
		return "slice: the node at " + server + " answered from memory, with the limits as " + d.GetOwner() + ", the owner of the key, has lent them."
	}
	return ""
}

// reasonName returns the name of a reason in answers: owner_unreachable.
func reasonName(r pb.Reason) string {
	return strings.ToLower(strings.TrimPrefix(r.String(), "REASON_"))
}
