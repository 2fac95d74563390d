// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/rpc/pb"
)

// A batch of encoded items has the wire format of a batch of items. A call past its
// deadline is left out, even if the timer has not fired yet.
func TestBatchOnTheWire(t *testing.T) {
	const now = 1000
	l := New(Options{Open: func(context.Context) (Stream, error) { return nil, errRejected }})
	want := &pb.Batch{TakesDefinitions: true, Sequence: 1, Ring: 7}
	for i, left := range []int64{1, 0, 1e9, -5} {
		item := check("acme/alice")
		item.Term = uint64(i)
		item.TimeoutNanos = 3 // of no account
		p := &Pending{link: l, deadline: now + left, state: queued}
		if err := p.encode(item); err != nil {
			t.Fatal(err)
		}
		l.mu.queue.push(p)
		if left > 0 {
			item.TimeoutNanos = left
			want.Items = append(want.Items, item)
		}
	}
	b := l.nextBatchLocked(&stream{}, now)
	b.msg.Ring = 7
	got, err := Decoded(&b.msg)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, got, protocmp.Transform()); d != "" {
		t.Errorf("batch (-want +got):\n%s", d)
	}
	if l.mu.queue.n != 2 {
		t.Errorf("%d calls are queued, want the 2 past their deadline", l.mu.queue.n)
	}
	if b := l.nextBatchLocked(&stream{}, now); b != nil {
		t.Errorf("nextBatchLocked() = %v, want nothing: all are late", b)
	}

	// Also within another message.
	wrapped, err := proto.Marshal(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: &b.msg}})
	if err != nil {
		t.Fatal(err)
	}
	var m pb.PeerMessage
	if err := proto.Unmarshal(wrapped, &m); err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(want, m.GetBatch(), protocmp.Transform()); d != "" {
		t.Errorf("batch within a message (-want +got):\n%s", d)
	}
}
