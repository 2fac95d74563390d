// SPDX-License-Identifier: Apache-2.0

// Package link carries calls to one member over one stream, in batches that
// nobody waits for: an idle link sends at once; what comes while a batch is
// under way goes with the next one. Members and the client library use the same
// code.
//
// Every call ends once: with its result, or with an error within its deadline.
// A call is sent again only if the member said, by ending its stream with OK,
// that it has not looked at it.
package link

import (
	"context"
	"errors"
	"math"
	"sync"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Errors of a call that has no answer. All but ErrClosed say that the member
// could not be reached in time; what has become of the call is not known unless
// the error says so.
var (
	ErrBroken  = errors.New("connection is broken")
	ErrBreaker = errors.New("breaker is open")               // not sent
	ErrFull    = errors.New("queue is full")                 // not sent
	ErrLate    = errors.New("no answer within the deadline") // of the call
	ErrClosed  = errors.New("link is closed")
)

// Stream is a bidirectional stream of batches, as gRPC generates it. Send and
// CloseSend are called by one goroutine at a time, Recv by another.
//
// The items of a batch that Send gets are encoded already: marshalled, alone or
// within another message, it is like any other batch, but its Items are empty.
// A stream that wants to see them calls [Decoded]. Send must not keep the batch.
//
// Recv puts what it received into its argument, of which it owns the memory
// until the next Recv.
type Stream interface {
	Send(*pb.Batch) error
	Recv(*Answers) error
	CloseSend() error
}

// Options configure a [Link]. Open is needed.
type Options struct {
	// Open starts a stream, which ends when ctx does. It fails, and does not
	// wait, when the connection is broken; it may block while it is being made.
	Open func(ctx context.Context) (Stream, error)
	// Ring is the digest that batches carry. Nil: 0.
	Ring func() uint64

	MaxItems int           // of a batch; 0: 512
	MaxBytes int           // of a batch, unless one item is larger; 0: 64 KiB
	MaxQueue int           // calls that wait to be sent; 0: 65,536
	Timeout  time.Duration // the longest that a call waits; 0: 1 s
	// Rotate is the age, give or take a tenth, at which a stream that is used is
	// replaced by a new one. It must be less than the grace that the server
	// gives to streams of an old connection. 0: 30 s.
	Rotate time.Duration
	// Events are told what happens, for metrics. The zero value is silent.
	Events Events
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

func positive[T int | time.Duration](v, otherwise T) T {
	if v > 0 {
		return v
	}
	return otherwise
}

// Link is safe for concurrent use. It starts no goroutine before its first call.
type Link struct {
	o    Options
	base time.Time // times are nanoseconds since then
	wg   sync.WaitGroup
	// Pendings that are not in use. They stay with their link, as channels made
	// in one synctest bubble must not be used in another.
	pendings sync.Pool

	// One stream takes new batches (lane). Another may be on its way in (next),
	// and one on its way out (old).
	mu struct {
		sync.Mutex
		closed bool

		queue queue // calls that wait to be sent
		due   heap  // all calls that have not ended, by deadline
		timer *time.Timer
		fires int64 // when timer does; never: it does not

		lane, next, old *lane

		// After a failure nothing is opened, and calls fail with cause, before
		// resume. pause is how long the last one was.
		resume int64
		pause  time.Duration
		cause  error

		breaker breaker
		free    []*batch
		notes   []note
	}

	told struct { // which Events.Breaker was called last; taken before mu
		sync.Mutex
		open bool
	}
}

const never = math.MaxInt64

// New returns a link that connects when it is first used. It panics if o has no
// Open.
func New(o Options) *Link {
	if o.Open == nil {
		panic("link: Options.Open is nil")
	}
	l := &Link{o: o.withDefaults(), base: time.Now()}
	l.mu.fires = never
	l.mu.breaker = newBreaker(int64(l.o.Timeout))
	return l
}

func (l *Link) now() int64 { return int64(time.Since(l.base)) }

// Status is how a link does.
type Status struct {
	Connected   bool // has a stream
	BreakerOpen bool
	Queued      int // calls
	InFlight    int // batches
}

// Status may be asked at any time.
func (l *Link) Status() Status {
	l.mu.Lock()
	defer l.mu.Unlock()
	return Status{
		Connected:   l.mu.lane != nil,
		BreakerOpen: l.mu.breaker.open,
		Queued:      l.mu.queue.n,
		InFlight:    l.inFlightLocked(),
	}
}

// Close fails all calls with ErrClosed and waits for the link's goroutines. It
// may be called more than once.
func (l *Link) Close() {
	l.mu.Lock()
	if !l.mu.closed {
		l.mu.closed = true
		n := l.failQueueLocked(ErrClosed)
		for _, ln := range []*lane{l.mu.lane, l.mu.next, l.mu.old} {
			n += l.dropLocked(ln, ErrClosed)
		}
		l.noteLocked(ErrClosed, n)
		if l.mu.timer != nil {
			l.mu.timer.Stop()
		}
	}
	l.unlock()
	l.wg.Wait()
}
