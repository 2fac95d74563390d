// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/share"
)

// Bounds of answers that a peer has not read yet.
const (
	// maxUnsent and maxUnsentBytes are how many answers of a stream may be queued, and
	// how large all but the last may be together. The bytes are fewer than grpc-go's
	// quota of 64 KiB, so that a stream waits here and not there.
	maxUnsent      = 4
	maxUnsentBytes = 48 << 10
	// An answer of at least minCharged bytes is charged to the budget of all streams, and
	// to the share of its address.
	minCharged           = 16 << 10
	maxUnread            = 64 << 20
	maxUnreadPerAddress  = 16 << 20
	unreadReservedForOwn = 16 << 20 // of maxUnread, for members
	// sendTimeout is how long a peer may read nothing while an answer waits for it.
	sendTimeout = 10 * time.Second
)

// answerBuffers have less waste than grpc-go's, whose next size after 32 KiB is 1 MiB.
// All are larger than what grpc-go does not give back to pools.
var answerBuffers = mem.NewTieredBufferPool(4<<10, 16<<10, 32<<10, 64<<10, 128<<10, 256<<10, 512<<10, 1<<20)

// sendQueue is the answers of a stream that are not written to its connection yet. When
// its peer reads nothing for sendTimeout, it closes the connection: to end the stream
// would not let go of the answers, since grpc-go sends the status after them.
type sendQueue struct {
	limits *StreamLimits
	conn   *listenlimit.Conn // nil: the listener has no limits
	from   netip.Addr

	unsent, bytes atomic.Int64
	progress      atomic.Int64  // Unix nanoseconds: the last time that an answer was written, or queued while none was
	room          chan struct{} // cap 1: an answer was written

	mu struct {
		sync.Mutex
		charged int64 // bytes that are taken from the budget
		closed  bool  // the connection is, and nothing is charged any more
	}

	once    bool        // of a unary call: nothing follows the first answer
	armed   atomic.Bool // timer is running
	timer   *time.Timer // nil until it is armed
	stalled chan struct{}
}

func newSendQueue(ctx context.Context, l *StreamLimits) *sendQueue {
	q := &sendQueue{limits: l, room: make(chan struct{}, 1), stalled: make(chan struct{})}
	if p, ok := peer.FromContext(ctx); ok {
		q.conn, q.from = listenlimit.Of(p.Addr), share.Address(p.Addr)
	}
	return q
}

// outgoing is an answer on its way to the codec, and then the pool that gets its memory
// back when it is written or given up.
type outgoing struct {
	queue   *sendQueue // nil: of a small answer of a unary call
	message proto.Message
	encoded *[]byte // of answerBuffers, in place of a message
	size    int
	charged int64
}

var outgoings = sync.Pool{New: func() any { return new(outgoing) }}

// send sends a message. It waits while too much is queued.
func (q *sendQueue) send(ctx context.Context, m proto.Message, send func(any) error) error {
	out, err := q.charge(m)
	if err != nil {
		return err
	}
	for q.unsent.Load() >= maxUnsent || q.bytes.Load() > maxUnsentBytes {
		select {
		case <-q.room:
			continue
		case <-ctx.Done():
			err = grpcstatus.FromContextError(ctx.Err()).Err()
		case <-q.stalled:
			err = grpcstatus.Errorf(codes.ResourceExhausted, "answers were not read for %s", q.limits.sendTimeout)
		}
		q.discharge(out)
		return err
	}
	q.add(out)
	return send(out)
}

// unary returns what to send for the answer of a unary call: a large one is charged
// until it is sent.
func (l *StreamLimits) unary(ctx context.Context, m proto.Message) (any, error) {
	if proto.Size(m) < minCharged {
		return m, nil
	}
	q := newSendQueue(ctx, l)
	q.once = true
	out, err := q.charge(m)
	if err != nil {
		return nil, err
	}
	q.add(out)
	return out, nil
}

// unaryEncoded is unary for an encoded answer, in memory of answerBuffers.
func (l *StreamLimits) unaryEncoded(ctx context.Context, encoded *[]byte) (any, error) {
	size := len(*encoded)
	if size < minCharged {
		out := outgoings.Get().(*outgoing)
		*out = outgoing{encoded: encoded, size: size}
		return out, nil
	}
	q := newSendQueue(ctx, l)
	q.once = true
	out, err := q.chargeSize(size)
	if err != nil {
		answerBuffers.Put(encoded)
		return nil, err
	}
	out.encoded = encoded
	q.add(out)
	return out, nil
}

// charge takes what a large message needs from the budget.
func (q *sendQueue) charge(m proto.Message) (*outgoing, error) {
	out, err := q.chargeSize(proto.Size(m))
	if err == nil {
		out.message = m
	}
	return out, err
}

// chargeSize is charge for an answer of size bytes.
func (q *sendQueue) chargeSize(size int) (*outgoing, error) {
	charged := int64(0)
	if size >= minCharged && q.conn != nil {
		charged = int64(size)
		if why := q.take(charged); why != share.None {
			q.limits.refusedAnswers[why].Inc()
			if why == share.AddressFull {
				return nil, grpcstatus.Errorf(codes.ResourceExhausted, "too much to send to this address: it has not read %d bytes of answers, and this one has %d bytes", q.limits.unread.Of(q.from), size)
			}
			return nil, grpcstatus.Errorf(codes.ResourceExhausted, "too much to send: %d bytes of answers to all are not read, and this one has %d bytes", q.limits.unread.Used(), size)
		}
	}
	out := outgoings.Get().(*outgoing)
	*out = outgoing{queue: q, size: size, charged: charged}
	return out, nil
}

func (q *sendQueue) discharge(out *outgoing) {
	if out.charged > 0 {
		q.give(out.charged)
	}
	*out = outgoing{}
	outgoings.Put(out)
}

// take takes n bytes from the budget. The end of the connection gives them back, too,
// for grpc-go then forgets what was queued.
func (q *sendQueue) take(n int64) share.Refusal {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed {
		return share.None // nothing is sent any more
	}
	if why := q.limits.unread.Take(q.from, n); why != share.None {
		return why
	}
	if q.mu.charged += n; q.mu.charged == n && !q.conn.OnClose(q, q.closed) {
		q.closedLocked()
	}
	return share.None
}

func (q *sendQueue) give(n int64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.mu.closed {
		return
	}
	q.limits.unread.Give(q.from, n)
	if q.mu.charged -= n; q.mu.charged == 0 {
		q.conn.Forget(q)
	}
}

func (q *sendQueue) closed() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closedLocked()
}

func (q *sendQueue) closedLocked() {
	q.mu.closed = true
	if q.mu.charged > 0 {
		q.limits.unread.Give(q.from, q.mu.charged)
		q.mu.charged = 0
	}
}

// add counts a message that the codec is about to get, which always gives it back.
func (q *sendQueue) add(out *outgoing) {
	if q.unsent.Add(1) == 1 {
		q.progress.Store(time.Now().UnixNano())
	}
	q.bytes.Add(int64(out.size))
	if !q.armed.Swap(true) {
		q.arm(q.limits.sendTimeout)
	}
}

// arm starts the timer; only whoever has set armed calls it.
func (q *sendQueue) arm(d time.Duration) {
	if q.timer == nil {
		q.timer = time.AfterFunc(d, q.tick)
		return
	}
	q.timer.Reset(d)
}

// tick is called at most once in sendTimeout.
func (q *sendQueue) tick() {
	if q.unsent.Load() == 0 {
		q.armed.Store(false)
		if q.unsent.Load() == 0 || q.armed.Swap(true) {
			return
		}
	}
	left := q.limits.sendTimeout - time.Since(time.Unix(0, q.progress.Load()))
	if left > 0 {
		q.arm(left)
		return
	}
	q.limits.stalls.Inc()
	close(q.stalled) // once: the timer stays armed
	if q.conn != nil {
		_ = q.conn.Close()
	}
}

// marshal encodes a message into memory that comes back by Put.
func (out *outgoing) marshal() (mem.BufferSlice, error) {
	if buf := out.encoded; buf != nil {
		out.encoded = nil
		return mem.BufferSlice{mem.NewBuffer(buf, out)}, nil
	}
	buf := answerBuffers.Get(max(out.size, 4<<10))
	wire, err := proto.MarshalOptions{UseCachedSize: true}.MarshalAppend((*buf)[:0], out.message)
	out.message = nil
	*buf = wire
	if err != nil {
		out.Put(buf)
		return nil, err
	}
	return mem.BufferSlice{mem.NewBuffer(buf, out)}, nil
}

var _ mem.BufferPool = (*outgoing)(nil)

// Get implements mem.BufferPool.
func (*outgoing) Get(n int) *[]byte { return answerBuffers.Get(n) }

// Put implements mem.BufferPool.
func (out *outgoing) Put(buf *[]byte) {
	answerBuffers.Put(buf)
	q := out.queue
	if q == nil {
		*out = outgoing{}
		outgoings.Put(out)
		return
	}
	q.progress.Store(time.Now().UnixNano())
	q.bytes.Add(-int64(out.size))
	q.unsent.Add(-1)
	q.discharge(out)
	if q.once {
		q.timer.Stop() // or it would keep the queue for sendTimeout
		return
	}
	select {
	case q.room <- struct{}{}:
	default:
	}
}
