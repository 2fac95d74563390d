// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"bytes"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/pb"
)

// The answers in a message between members are found where the .proto has them.
func TestPeerAnswers(t *testing.T) {
	answers := &pb.Answers{Sequence: 5, Results: []*pb.Result{{Term: 300}}}
	want, err := proto.Marshal(answers)
	if err != nil {
		t.Fatal(err)
	}
	message, err := proto.Marshal(&pb.PeerAnswer{Answer: &pb.PeerAnswer_Answers{Answers: answers}})
	if err != nil {
		t.Fatal(err)
	}
	welcome, err := proto.Marshal(&pb.PeerAnswer{Answer: &pb.PeerAnswer_Welcome{Welcome: &pb.PeerWelcome{Member: "a"}}})
	if err != nil {
		t.Fatal(err)
	}
	newer := append([]byte{0x7a, 1, 9}, message...) // with a field that is not known
	for _, m := range [][]byte{message, newer} {
		if got, err := PeerAnswers(m); err != nil || !bytes.Equal(got, want) {
			t.Errorf("PeerAnswers(%x) = %x, %v; want %x", m, got, err, want)
		}
	}
	for _, m := range [][]byte{nil, welcome, append(message, message...), message[:len(message)-1], {0x12, 0xff, 0xff, 0xff, 0xff, 0x0f}, {0}} {
		if got, err := PeerAnswers(m); err == nil {
			t.Errorf("PeerAnswers(%x) = %x, want an error", m, got)
		}
	}
	if sequence, results, err := parseAnswers(want); sequence != 5 || len(results) != 1 || err != nil {
		t.Errorf("Parse() = %d, %x, %v", sequence, results, err)
	}
}
