// SPDX-License-Identifier: Apache-2.0

package link

import (
	"testing"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestClasses: what frees something overtakes new calls.
func TestClasses(t *testing.T) {
	for _, tt := range []struct {
		what string
		item *pb.Item
		want class
	}{
		{"check", &pb.Item{Call: &pb.Item_Check{}, TakesSlice: true}, ordinary},
		{"replay", &pb.Item{Call: &pb.Item_Check{}, Replay: true}, urgent},
		{"settle", &pb.Item{Call: &pb.Item_Settle{}}, urgent},
		{"give-back", &pb.Item{Call: &pb.Item_Count{Count: &pb.CountRequest{GiveBack: true}}}, kept},
		{"return of a slice", &pb.Item{Call: &pb.Item_SliceReturn{}}, urgent},
		{"recall of a slice", &pb.Item{Call: &pb.Item_SliceRecall{}}, urgent},
	} {
		if got := classOf(tt.item); got != tt.want {
			t.Errorf("class of a %s = %d, want %d", tt.what, got, tt.want)
		}
	}
}
