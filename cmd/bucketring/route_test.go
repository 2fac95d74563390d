// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestRoute: an answer of the owner says nothing of routes; any other says who gave it and why.
func TestRoute(t *testing.T) {
	const allowed, denied = pb.Outcome_OUTCOME_ALLOWED, pb.Outcome_OUTCOME_DENIED
	for _, tt := range []struct {
		name string
		node remoteService
		want []string
		not  string
	}{
		{"the owner", remoteService{decision: &pb.Decision{Outcome: allowed, Owner: "node-1", Route: pb.Route_ROUTE_LOCAL}}, nil, "node-1"},
		{"the owner, asked by another", remoteService{decision: &pb.Decision{Outcome: allowed, Owner: "node-1", Route: pb.Route_ROUTE_FORWARD}}, nil, "node-1"},
		{
			"a repetition",
			remoteService{idGiven: true, decision: &pb.Decision{Outcome: allowed, RequestId: "r1", Replayed: true}},
			[]string{"request r1  (repeated answer)\n"},
			"",
		},
		{
			"a call that was sent again",
			remoteService{decision: &pb.Decision{Outcome: allowed, RequestId: "r1", Replayed: true}},
			[]string{"request r1  (sent again after no answer)\n"},
			"repeated",
		},
		{
			"fallback",
			remoteService{decision: &pb.Decision{Outcome: allowed, Owner: "node-2", Route: pb.Route_ROUTE_FALLBACK}},
			[]string{"fallback: node-2 decided this alone, because no owner of the key could answer in time", "the owner is charged when it answers again"},
			"reason",
		},
		{
			"fallback that denies",
			remoteService{decision: &pb.Decision{Outcome: denied, Reason: pb.Reason_REASON_OWNER_UNREACHABLE, Owner: "node-2", Route: pb.Route_ROUTE_FALLBACK}},
			[]string{"fallback: node-2 decided", "(reason owner_unreachable)"},
			"is charged when",
		},
		{
			"a slice",
			remoteService{decision: &pb.Decision{Outcome: allowed, Owner: "node-1", Route: pb.Route_ROUTE_SLICE}},
			[]string{"slice: the node at 127.0.0.1:6481 decided this from memory, because the key is hot and node-1, its owner, has lent"},
			"",
		},
		{
			"a settle in fallback",
			remoteService{settlement: &pb.Settlement{Status: pb.ReservationStatus_RESERVATION_STATUS_SETTLED, Owner: "node-2", Route: pb.Route_ROUTE_FALLBACK}},
			[]string{"fallback: node-2 took this, because"},
			"no limits apply",
		},
		{
			"a settle of a reservation from a slice",
			remoteService{settlement: &pb.Settlement{Status: pb.ReservationStatus_RESERVATION_STATUS_SETTLED, Owner: "node-1", Route: pb.Route_ROUTE_SLICE}},
			[]string{"slice: the node at 127.0.0.1:6481 ended this in memory", "node-1, the owner"},
			"",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			tt.node.server = "127.0.0.1:6481"
			body := &responseRecorder{}
			body.body.WriteString(`{"message":"Denied."}`)
			(&streams{out: &out}).printAnswer(&tt.node, body)
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("no %q in:\n%s", want, &out)
				}
			}
			if tt.not != "" && strings.Contains(out.String(), tt.not) {
				t.Errorf("%q in:\n%s", tt.not, &out)
			}
		})
	}
	if got := limitsRoute(&pb.PeekResponse{Owner: "node-1", Route: pb.Route_ROUTE_FORWARD}, "x"); got != "" {
		t.Errorf("limits of the owner: %q, want nothing", got)
	}
	if got := limitsRoute(&pb.PeekResponse{Owner: "node-2", Route: pb.Route_ROUTE_FALLBACK}, "x"); !strings.HasPrefix(got, "fallback: this is what node-2 would decide by alone") {
		t.Errorf("limits in fallback: %q", got)
	}
}
