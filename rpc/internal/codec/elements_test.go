// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

func TestElements(t *testing.T) {
	encode := func(m proto.Message) []byte {
		encoded, err := proto.Marshal(m)
		if err != nil {
			t.Fatal(err)
		}
		return encoded
	}
	batch := &pb.Batch{Sequence: 1, Ring: 2, Items: []*pb.Item{{}, {Term: 3}, {Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: "k"}}}}}
	member := encode(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: batch}})
	for _, tt := range []struct {
		name    string
		message []byte
		wrapped bool
		want    int
	}{
		{"nothing", nil, false, 0},
		{"items, but no numbers", encode(batch), false, 3},
		{"a batch of a member", member, true, 1 + 3},
		{"two batches of a member", append(member, member...), true, 2 + 6},
		{"a batch that is not looked into", member, false, 1},
		{"before a malformed field", append(encode(batch), 0xff), false, 3},
		{"cut short", encode(batch)[:len(encode(batch))-1], false, 2},
	} {
		if got := Elements(tt.message, tt.wrapped); got != tt.want {
			t.Errorf("%s: %d elements, want %d", tt.name, got, tt.want)
		}
	}
}

func BenchmarkElements(b *testing.B) {
	batch := &pb.Batch{Sequence: 1}
	for range 512 {
		batch.Items = append(batch.Items, &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: "acme/alice", Tier: "free", RequestId: "0123456789abcdef"}}})
	}
	encoded, err := proto.Marshal(batch)
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if Elements(encoded, false) != 512 {
			b.Fatal("wrong number")
		}
	}
}
