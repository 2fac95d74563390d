// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"testing"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// asked is a policy that keeps the calls that it is asked for.
type asked struct {
	Policy
	items []*pb.Item
}

func (p *asked) Batch(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error) {
	p.items = append(p.items, b.GetItems()...)
	return p.Policy.Batch(ctx, b)
}

func (p *asked) Charge(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error) {
	p.items = append(p.items, b.GetItems()...)
	return p.Policy.Charge(ctx, b)
}

// TestCallsDoNotWaitInLine: Envoy would not wait for the answer.
func TestCallsDoNotWaitInLine(t *testing.T) {
	p := &asked{}
	w := newWorld(t, testRules, func(o *Options) { p.Policy, o.Policy = o.Policy, p })
	w.run([]step{
		{"any bucketring.key=a", "OK: OK 3/minute left 2 in 40s"},
		{"any bucketring.key=a bucketring.dimension=tokens bucketring.mode=charge +90", "OK: OK 100/minute left 10 in 40s"},
	})
	checks, reserves := 0, 0
	for _, item := range p.items {
		var wait *durationpb.Duration
		switch {
		case item.GetCheck() != nil:
			checks, wait = checks+1, item.GetCheck().MaxWait
		case item.GetReserve() != nil:
			reserves, wait = reserves+1, item.GetReserve().MaxWait
		default:
			continue
		}
		if wait == nil || wait.AsDuration() != 0 {
			t.Errorf("%v may wait for %v, want 0", item, wait)
		}
	}
	if checks == 0 || reserves == 0 {
		t.Errorf("%d checks and %d reserves, want both", checks, reserves)
	}
}
