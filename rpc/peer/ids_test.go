// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

func TestReservedIDs(t *testing.T) {
	nodes := newCluster(t, 2)
	for _, n := range nodes {
		for _, owner := range nodes {
			q := &pb.ReserveRequest{Key: owner.ownedBy(0), RequestId: "fallback:a:b"}
			_, err := n.Reserve(waittest.Context(t, testWait), q)
			if s := grpcstatus.Convert(err); s.Code() != codes.InvalidArgument || !strings.HasPrefix(s.Message(), "request_id: must not begin") {
				t.Errorf("Reserve() at %s for %s = %v, want InvalidArgument", n.name, owner.name, err)
			}
			b, err := n.Batch(waittest.Context(t, testWait), batchOf(q))
			if err != nil || b.Results[0].GetError().GetField() != "request_id" {
				t.Errorf("Batch() at %s for %s = %v, %v, want an error of request_id", n.name, owner.name, b, err)
			}
		}
	}
}

func TestOptions(t *testing.T) {
	_, err := New(Options{Name: "a:b", Timeout: -1, MaxOutbox: -1})
	for _, want := range []string{"name:", "boot:", "local:", "fallback:", "timeout:", "max_outbox:"} {
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("New() = %v, want a problem with %s", err, want)
		}
	}
}
