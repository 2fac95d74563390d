// SPDX-License-Identifier: Apache-2.0

// Package link sends calls to one member over one gRPC stream, in batches. No
// timer delays a batch: an idle link sends at once, and calls that arrive while a
// batch is in flight go with the next one. Members and the client library share
// this code.
//
// Every call ends once: with its result, or with an error within its deadline. A
// call is sent again only if the member ended its stream with OK, which means that
// it has not read the call.
//
// A call that would wait too long is refused at once with [ErrOverloaded], except one
// that ends or corrects what was decided before: these are never refused because of
// overload, and are sent first.
package link

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Stream is a bidirectional stream of batches, as gRPC generates it. Send and
// CloseSend are called by one goroutine at a time, Recv by another.
//
// The items of a batch passed to Send are already encoded, and its Items field is
// empty; marshalling the batch gives the usual bytes. An implementation that needs
// the items calls [Decoded]. Send must not keep the batch.
//
// Recv fills its argument, whose memory is valid until the next Recv.
type Stream interface {
	Send(*pb.Batch) error
	Recv(*Answers) error
	CloseSend() error
}

// Options configure a [Link]. Open is needed.
type Options struct {
	// Open starts a stream, which ends when ctx does. It fails at once when the
	// connection is broken, and may block while it is being established.
	Open func(ctx context.Context) (Stream, error)
	// Ring returns the ring digest that batches carry. Nil: 0.
	Ring func() uint64

	MaxItems int           // per batch; 0: 512
	MaxBytes int           // per batch, unless one item is larger; 0: 64 KiB
	MaxQueue int           // calls waiting to be sent, if overload does not bound them; 0: 65,536
	Timeout  time.Duration // bounds how long a call waits; 0: 1 s
	// Rotate is the age, plus or minus a tenth, at which a stream in use is
	// replaced. It must be less than the grace period that the server gives to
	// streams of an old connection. 0: 30 s.
	Rotate time.Duration
	Events Events // for metrics
}

func (o Options) withDefaults() Options {
	if o.Ring == nil {
		o.Ring = func() uint64 { return 0 }
	}
	o.MaxItems = positive(o.MaxItems, 512)
	o.MaxBytes = positive(o.MaxBytes, 64<<10)
	o.MaxQueue = positive(o.MaxQueue, 65_536)
	o.Timeout = positive(o.Timeout, time.Second)
	o.Rotate = positive(o.Rotate, 30*time.Second)
	return o
}

func positive[T int | time.Duration](v, fallback T) T {
	if v > 0 {
		return v
	}
	return fallback
}

// Link is the batching connection to one member. It is safe for concurrent use,
// and starts no goroutine before its first call.
type Link struct {
	o    Options
	base time.Time // all times are nanoseconds since then
	wg   sync.WaitGroup
	// pendings is per link because a channel made in one synctest bubble must not
	// be used in another.
	pendings sync.Pool

	mu struct {
		sync.Mutex
		closed bool

		queue      queue // calls waiting to be sent
		admission  admission
		throttle   overload.Throttle // of ordinary calls, while the member refuses some
		throttling bool              // throttle may not admit everything
		deadlines  heap              // of all calls that have not ended
		timer      *time.Timer
		timerAt    int64 // when timer fires; never if it is not set

		current  *stream // takes new batches
		opening  *stream // will replace current
		draining *stream // was replaced

		// After a failure no stream is opened before retryAt, and calls fail with
		// openErr. backoff is the last delay.
		retryAt int64
		backoff time.Duration
		openErr error

		breaker     breaker
		freeBatches []*batch
		events      []event // to be reported by unlock

		refused       uint64 // calls
		refusedLately overload.Recent
		reported      uint64 // of them, by Events.Overloaded
		reportNext    int64  // when that may be called again
	}

	// refuseUntil says until when Refuse refuses: 0: nothing is refused; never: until
	// that changes, after refuseRetry. They are set as mu is released, and read without
	// it. unrecorded counts what was refused since then.
	refuseUntil, refuseRetry atomic.Int64
	unrecorded               atomic.Int64

	reported struct { // locked before mu
		sync.Mutex
		open bool // the last argument of Events.Breaker
	}
}

const never = math.MaxInt64

// New returns a link that connects when it is first used. It panics if o.Open is
// nil.
func New(o Options) *Link {
	if o.Open == nil {
		panic("link: Options.Open is nil")
	}
	l := &Link{o: o.withDefaults(), base: time.Now()}
	l.mu.timerAt = never
	l.mu.breaker = newBreaker(int64(l.o.Timeout))
	l.mu.admission = newAdmission(l.o.MaxItems)
	return l
}

func (l *Link) now() int64 { return int64(time.Since(l.base)) }

// Status is a snapshot of a link.
type Status struct {
	Connected   bool // has an open stream
	BreakerOpen bool
	Queued      int    // calls
	InFlight    int    // batches
	Refused     uint64 // calls, because of overload, since New
	// RefusedInMinute are those of the last minute.
	RefusedInMinute int64
}

// Status returns a snapshot of l.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.unlock()
	now := l.now()
	l.recordRefusalsLocked(now)
	return Status{
		Connected:   l.mu.current != nil,
		BreakerOpen: l.mu.breaker.open,
		Queued:      l.mu.queue.n,
		InFlight:    l.batchesInFlightLocked(),
		Refused:     l.mu.refused,

		RefusedInMinute: l.mu.refusedLately.Sum(now),
	}
}

// Close fails all calls with ErrClosed and waits for the link's goroutines. It
// may be called more than once.
func (l *Link) Close() {
	l.mu.Lock()
	if !l.mu.closed {
		l.mu.closed = true
		n := l.failQueueLocked(ErrClosed)
		for _, s := range []*stream{l.mu.current, l.mu.opening, l.mu.draining} {
			n += l.failStreamLocked(s, ErrClosed)
		}
		l.recordFailureLocked(ErrClosed, n)
		if l.mu.timer != nil {
			l.mu.timer.Stop()
		}
	}
	l.unlock()
	l.wg.Wait()
}
