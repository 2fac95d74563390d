// SPDX-License-Identifier: Apache-2.0

package link

import (
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Each caller encodes its own item, in its own goroutine; the sender only copies bytes.
// So no lock is held while an item is encoded, an item is not used after its caller
// returns, and the size of a batch is known exactly.

var marshal proto.MarshalOptions

const overhead = codec.MaxItemOverhead

// batch is the calls that are sent together. Batches are reused.
type batch struct {
	calls []*Pending // nil: ended
	msg   pb.Batch   // with wire as its unknown fields
	wire  []byte     // the items

	// What follows is guarded by Link.mu.
	sent     sentBatch
	ordinary int // calls that the member may refuse

	unanswered, sending bool // the batch is used again when both are false
}

// Decoded returns b as its receiver decodes it, for streams that are not gRPC's.
func Decoded(b *pb.Batch) (*pb.Batch, error) {
	wire, err := proto.Marshal(b)
	if err != nil {
		return nil, err
	}
	c := new(pb.Batch)
	return c, proto.Unmarshal(wire, c)
}

// nextBatchLocked makes a batch for s of the queued calls, and marks s as sending. It
// returns nil if none of them can be answered in time.
func (l *Link) nextBatchLocked(s *stream, now int64) *batch {
	b := l.newBatchLocked()
	limit := l.mu.admission.batchLimit(now)
	b.ordinary = 0
	if l.startedLocked(&l.mu.queue.others) < now-queueDelay {
		l.fillLocked(b, &l.mu.queue.others, limit/oldShare, now)
	}
	old := len(b.calls)
	full := l.fillLocked(b, &l.mu.queue.urgent, limit, now)
	urgent := len(b.calls) - old
	full = l.fillLocked(b, &l.mu.queue.others, limit, now) || full
	if len(b.calls) == 0 {
		l.mu.freeBatches = append(l.mu.freeBatches, b)
		return nil
	}
	b.sent = l.mu.admission.took(now, urgent, len(b.calls)-urgent, l.mu.queue.others.n, full, l.batchesInFlightLocked() > 0)
	s.sequence++
	b.msg.Sequence = s.sequence
	b.msg.ProtoReflect().SetUnknown(b.wire)
	b.unanswered, b.sending = true, true
	s.batches = append(s.batches, b)
	s.sending = true
	l.mu.breaker.markOutstanding(now)
	return b
}

// oldShare is the part of a batch, one in so many, that calls get which are not urgent and
// have waited for longer than a queue should take. Otherwise settles that come together
// would keep the few calls of the queue waiting until they are too late.
const oldShare = 8

// startedLocked returns when the first call of a list was started; never if it is empty.
func (l *Link) startedLocked(of *list) int64 {
	if of.head == nil {
		return never
	}
	return of.head.started
}

// fillLocked moves calls of a list to b, as long as there is room, and reports whether
// some are left. A call that is past its deadline stays: the timer ends it. One that has
// less time left than any batch took lately is ended, and after it has waited, one that has
// less than batches usually take: a queue would otherwise send each call just in time to be
// answered too late. While calls are refused, one that has
// waited for a quarter of the timeout, and for two round trips, is refused, too, in favour
// of those behind it: urgent calls kept it waiting, or a burst.
func (l *Link) fillLocked(b *batch, from *list, limit int, now int64) (full bool) {
	least, usual := l.mu.admission.leastRoundTrip(now), l.mu.admission.roundTrip
	late, refused := 0, 0
	for p := from.head; p != nil; {
		next := p.next
		switch {
		case p.deadline <= now:
		case p.sends == 0 && (p.deadline <= now+least || p.deadline <= now+usual && p.started < now-usual):
			l.failLocked(p, l.unsentLocked(now))
			late++
		case p.class == ordinary && p.sends == 0 && now-p.started > max(int64(l.o.Timeout)/4, 2*usual) && l.mu.admission.overloaded(now):
			l.failLocked(p, refusal(l.mu.admission.retryAfter(now, from.n)))
			l.countRefusalsLocked(now, 1)
			refused++
		case len(b.calls) >= limit, len(b.calls) > 0 && len(b.wire)+len(p.wire)+overhead > l.o.MaxBytes:
			full = true
		default:
			l.mu.queue.remove(p)
			p.state, p.batch, p.at = inFlight, b, len(b.calls)
			p.sends++
			if p.class == ordinary {
				b.ordinary++
			}
			b.calls = append(b.calls, p)
			b.wire = codec.AppendItem(b.wire, p.wire, p.deadline-now)
		}
		if full {
			break
		}
		p = next
	}
	l.recordFailureLocked(ErrTimeout, late)
	if refused > 0 && l.o.Events.Refused != nil {
		l.mu.events = append(l.mu.events, event{refused: refused})
	}
	return full
}

func (l *Link) newBatchLocked() *batch {
	if n := len(l.mu.freeBatches); n > 0 {
		b := l.mu.freeBatches[n-1]
		l.mu.freeBatches[n-1] = nil
		l.mu.freeBatches = l.mu.freeBatches[:n-1]
		return b
	}
	b := new(batch)
	b.msg.TakesDefinitions = true
	return b
}

// recycleLocked keeps b for reuse, unless it is still in use.
func (l *Link) recycleLocked(b *batch) {
	const keep = 4 // two in flight, and one or two that are about to be
	if b.unanswered || b.sending || len(l.mu.freeBatches) >= keep {
		return
	}
	clear(b.calls)
	b.calls, b.wire = b.calls[:0], b.wire[:0]
	l.mu.freeBatches = append(l.mu.freeBatches, b)
}
