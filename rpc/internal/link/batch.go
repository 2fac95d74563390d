// SPDX-License-Identifier: Apache-2.0

package link

import (
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Callers encode their own items, each in its own goroutine and before it can
// return; whoever sends only copies bytes. So no lock is held while something is
// marshalled, nobody but its caller ever reads an item, and the size of a batch
// is known exactly.

var marshal proto.MarshalOptions

const overhead = codec.MaxItemOverhead

// batch is what is sent at once. Batches are used again.
type batch struct {
	calls []*Pending // nil: ended
	msg   pb.Batch   // with wire as its unknown fields
	wire  []byte     // the items

	// Guarded by Link.mu: it is used again when both are false.
	unanswered, sending bool
}

// Decoded returns what the receiver of b gets: a copy with its items, for
// streams that are not gRPC's.
func Decoded(b *pb.Batch) (*pb.Batch, error) {
	wire, err := proto.Marshal(b)
	if err != nil {
		return nil, err
	}
	c := new(pb.Batch)
	return c, proto.Unmarshal(wire, c)
}

// takeLocked makes the next batch of lane out of what is queued, and marks the
// lane as sending. It returns nil if all of that is late: it ends by its alarm.
func (l *Link) takeLocked(ln *lane, now int64) *batch {
	b := l.newBatchLocked()
	for p := l.mu.queue.head; p != nil && len(b.calls) < l.o.MaxItems; {
		next := p.next
		if p.deadline > now {
			if len(b.calls) > 0 && len(b.wire)+len(p.wire)+overhead > l.o.MaxBytes {
				break
			}
			l.mu.queue.remove(p)
			p.state, p.batch, p.at = inFlight, b, len(b.calls)
			p.sent++
			b.calls = append(b.calls, p)
			b.wire = codec.AppendItem(b.wire, p.wire, p.deadline-now)
		}
		p = next
	}
	if len(b.calls) == 0 {
		l.mu.free = append(l.mu.free, b)
		return nil
	}
	ln.sequence++
	b.msg.Sequence = ln.sequence
	b.msg.ProtoReflect().SetUnknown(b.wire)
	b.unanswered, b.sending = true, true
	ln.batches = append(ln.batches, b)
	ln.sending = true
	l.mu.breaker.owes(now)
	return b
}

func (l *Link) newBatchLocked() *batch {
	if n := len(l.mu.free); n > 0 {
		b := l.mu.free[n-1]
		l.mu.free[n-1] = nil
		l.mu.free = l.mu.free[:n-1]
		return b
	}
	return new(batch)
}

// freeLocked keeps b for another time, if nobody uses it any more.
func (l *Link) freeLocked(b *batch) {
	const keep = 4 // two in flight, and one or two that are about to be
	if b.unanswered || b.sending || len(l.mu.free) >= keep {
		return
	}
	clear(b.calls)
	b.calls, b.wire = b.calls[:0], b.wire[:0]
	l.mu.free = append(l.mu.free, b)
}
