// SPDX-License-Identifier: Apache-2.0

// Package outbox holds calls that could not reach their owner, and delivers them
// later: settles, cancels, and charges that were decided without the owner.
//
//   - A call stays until its owner has answered it or rejected it for good, or until
//     it is so old that the owner has forgotten its request id. What is dropped is
//     counted and reported.
//   - Calls with the same root and request id are delivered in the order of their
//     puts, one at a time. A call may be delivered more than once; the owner
//     recognizes the id.
//   - An owner that does not answer does not delay calls to other owners.
//   - Entries, bytes and goroutines are bounded. A call that does not fit is rejected
//     at once.
//
// A call whose answer was lost is delivered again, at most MaxAge later. By default
// the owner remembers reservations and replayed checks for as long as that.
//
// The outbox is in memory: call [Outbox.Flush] before the process ends.
package outbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Errors of [Outbox.Put].
var (
	ErrFull   = errors.New("outbox is full")
	ErrClosed = errors.New("outbox is closed")
)

// Defaults of [Options].
const (
	DefaultMaxEntries  = 65_536
	DefaultMaxBytes    = 64 << 20
	DefaultMaxAge      = 10 * time.Minute // owners forget ended reservations then
	DefaultMaxInFlight = 64
	DefaultTimeout     = 2 * time.Second
)

// Options configure an [Outbox]. Deliver is needed.
type Options struct {
	// Deliver sends item to its owner, and returns when the owner has answered or
	// ctx has ended. It must not change item. An error with the gRPC code
	// InvalidArgument, NotFound, AlreadyExists, FailedPrecondition, OutOfRange or
	// DataLoss is final, and the call is dropped; after any other error the call is
	// retried. Deliver is called by several goroutines at once.
	Deliver func(ctx context.Context, item *pb.Item) error
	// Owner returns the name of the member that item would be delivered to now.
	// Calls to the same owner share its backoff. It must be quick, and must not call
	// the outbox. Nil: the root of the key.
	Owner func(item *pb.Item) string

	MaxEntries  int           // calls held; 0: DefaultMaxEntries
	MaxBytes    int           // approximate memory for them; 0: DefaultMaxBytes
	MaxAge      time.Duration // after which a call is dropped; 0: DefaultMaxAge
	MaxInFlight int           // concurrent calls of Deliver; at least 4; 0: DefaultMaxInFlight
	Timeout     time.Duration // of one call of Deliver; 0: DefaultTimeout

	Logger *slog.Logger // nil: no log
	Events Events
}

// Events are called without locks held, by several goroutines at once. Nil fields
// are not called.
type Events struct {
	Delivered func(item *pb.Item)
	// Merged reports entries that a put made unnecessary: the new one, or those that
	// it replaced.
	Merged func(entries int)
	// Retried reports a failed attempt that will be repeated.
	Retried func(item *pb.Item, err error)
	// Dropped reports a call that will not be delivered. Err is that of the last
	// attempt; it may be nil if the call was too old.
	Dropped func(item *pb.Item, reason Reason, err error)
}

func (o Options) withDefaults() Options {
	o.MaxEntries = cmp.Or(o.MaxEntries, DefaultMaxEntries)
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.MaxAge = cmp.Or(o.MaxAge, DefaultMaxAge)
	o.MaxInFlight = cmp.Or(o.MaxInFlight, DefaultMaxInFlight)
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	if o.Owner == nil {
		o.Owner = func(item *pb.Item) string { return rootOf(item) }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports all problems at once.
func (o Options) Validate() error {
	var problems []error
	if o.Deliver == nil {
		problems = append(problems, errors.New("deliver: must not be nil"))
	}
	for _, f := range []struct {
		name         string
		got, atLeast int
	}{
		{"max_entries", o.MaxEntries, 1},
		{"max_bytes", o.MaxBytes, 1},
		{"max_in_flight", o.MaxInFlight, ownerShare},
	} {
		if f.got != 0 && f.got < f.atLeast {
			problems = append(problems, fmt.Errorf("%s: must be at least %d, got %d", f.name, f.atLeast, f.got))
		}
	}
	if o.MaxAge < 0 {
		problems = append(problems, fmt.Errorf("max_age: must not be negative, got %s", o.MaxAge))
	}
	if o.Timeout < 0 {
		problems = append(problems, fmt.Errorf("timeout: must not be negative, got %s", o.Timeout))
	}
	return errors.Join(problems...)
}

// Outbox holds and delivers calls. It is safe for concurrent use.
type Outbox struct {
	options Options
	entries atomic.Int64 // len of the queue, readable without the lock
	drops   dropLog

	wake   notify.Signal // for drive
	driver chan struct{} // a lock, cap 1: held by the caller of drive

	mu struct {
		sync.Mutex
		queue  *queue
		closed bool
		empty  chan struct{} // closed once the queue is empty; nil: nobody waits for that
	}
}

// New returns an outbox that delivers nothing until [Outbox.Run] or
// [Outbox.Flush] is called.
func New(o Options) (*Outbox, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	b := &Outbox{options: o, wake: notify.New(), driver: make(chan struct{}, 1)}
	b.drops.logger = o.Logger
	b.mu.queue = newQueue(limits{
		entries: o.MaxEntries, bytes: o.MaxBytes, inFlight: o.MaxInFlight, age: o.MaxAge,
	}, o.Owner, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	return b, nil
}

// Put adds a call, which must be a check, reserve, settle, cancel or count with a
// request id. The outbox keeps item, which must not be changed any more. Put never
// blocks. If it returns an error, such as ErrFull or ErrClosed, nothing has changed.
//
// A settle replaces waiting progress of the same reservation if that makes no
// difference to what the owner charges in the end. A duplicate of the last call is
// ignored.
func (b *Outbox) Put(item *pb.Item) error {
	b.mu.Lock()
	if b.mu.closed {
		b.mu.Unlock()
		return ErrClosed
	}
	merged, err := b.mu.queue.put(time.Now(), item)
	b.countLocked()
	b.mu.Unlock()
	if err != nil {
		return err
	}
	if merged > 0 && b.options.Events.Merged != nil {
		b.options.Events.Merged(merged)
	}
	b.wake.Set()
	return nil
}

// Len returns how many calls wait or are in flight.
func (b *Outbox) Len() int { return int(b.entries.Load()) }

// RetryNow ends every backoff: the ring has changed, or an owner is back.
func (b *Outbox) RetryNow() {
	b.mu.Lock()
	b.mu.queue.retryNow(time.Now())
	b.mu.Unlock()
	b.wake.Set()
}

// Close makes every further Put fail with ErrClosed. The outbox keeps its calls.
func (b *Outbox) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
}

// Run delivers calls until ctx ends, and returns nil when all attempts have ended. A
// second Run waits until the first one has returned.
func (b *Outbox) Run(ctx context.Context) error {
	select {
	case b.driver <- struct{}{}:
	case <-ctx.Done():
		return nil
	}
	defer func() { <-b.driver }()
	b.drive(ctx, nil)
	return nil
}

// Flush delivers until the outbox is empty. If ctx ends before, the error says how
// many calls are left. It works with and without Run.
func (b *Outbox) Flush(ctx context.Context) error {
	b.RetryNow()
	empty := b.empty()
	select {
	case <-empty:
		return nil
	case b.driver <- struct{}{}:
		b.drive(ctx, empty)
		<-b.driver
	case <-ctx.Done():
	}
	select {
	case <-empty:
		return nil
	default:
		return fmt.Errorf("flush outbox: %d calls left: %w", b.Len(), context.Cause(ctx))
	}
}
