// SPDX-License-Identifier: Apache-2.0

// Package outbox keeps calls that their owner must hear of and that could not
// reach it: settles, cancels, and the charges that were decided without it.
//
// What it promises:
//   - A call stays until its owner has answered it, refused it for good, or the
//     call is so old that the owner has forgotten its request id. What is not
//     delivered is counted and reported.
//   - Calls of one request id, under one root, are delivered in the order in
//     which they came, one at a time. A call may be delivered more than once: the
//     owner knows the id.
//   - One owner that does not answer delays nothing for the others.
//   - Entries, bytes and goroutines are bounded. Nothing waits for room: a call
//     for which there is none is refused.
//
// A call whose answer was lost is told again, at most MaxAge later. The owner
// remembers reservations, and checks that it was told of, for as long as that by
// default.
//
// It is in memory: what it holds when the process ends is lost, so drain it with
// [Outbox.Flush].
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
	DefaultMaxAge      = 10 * time.Minute // ids of ended reservations are forgotten then
	DefaultMaxUnderWay = 64
	DefaultTimeout     = 2 * time.Second
)

// Options configure an [Outbox]. Deliver is needed.
type Options struct {
	// Deliver tells the owner of a call, and returns once that has answered, or
	// ctx has ended. It must not change item. Its error is final, and the call is
	// dropped, if it has a gRPC status that says so: InvalidArgument, NotFound,
	// AlreadyExists, FailedPrecondition, OutOfRange or DataLoss. Any other error
	// is temporary. It is called by several goroutines at once.
	Deliver func(ctx context.Context, item *pb.Item) error
	// Owner names who would get item now. Calls for the same owner wait together
	// when it does not answer. It must be quick, and must not call the outbox.
	// Nil: those with the same root wait together.
	Owner func(item *pb.Item) string

	MaxEntries  int           // calls that wait; 0: DefaultMaxEntries
	MaxBytes    int           // of memory for them, about; 0: DefaultMaxBytes
	MaxAge      time.Duration // after which a call is dropped; 0: DefaultMaxAge
	MaxUnderWay int           // of calls of Deliver; at least 4; 0: DefaultMaxUnderWay
	Timeout     time.Duration // of one call of Deliver; 0: DefaultTimeout

	Logger *slog.Logger // nil: no log
	Events Events
}

// Events are called without locks held, by several goroutines at once. Nil
// fields are not called.
type Events struct {
	Delivered func(item *pb.Item)
	// Merged counts entries that a put made needless: its own, or those that it
	// takes the place of.
	Merged func(entries int)
	// Retried is an attempt that failed, and will be repeated.
	Retried func(item *pb.Item, err error)
	// Dropped is a call that is given up. Err is nil if it was too old.
	Dropped func(item *pb.Item, why Reason, err error)
}

func (o Options) withDefaults() Options {
	o.MaxEntries = cmp.Or(o.MaxEntries, DefaultMaxEntries)
	o.MaxBytes = cmp.Or(o.MaxBytes, DefaultMaxBytes)
	o.MaxAge = cmp.Or(o.MaxAge, DefaultMaxAge)
	o.MaxUnderWay = cmp.Or(o.MaxUnderWay, DefaultMaxUnderWay)
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
		{"max_under_way", o.MaxUnderWay, lanesPerOutbox},
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

// Outbox is safe for concurrent use.
type Outbox struct {
	options Options
	entries atomic.Int64 // as the queue counts them, for a look without the lock
	drops   dropLog

	wake   chan struct{} // cap 1: a pending wake-up is enough; never closed
	driver chan struct{} // cap 1: held by the one that starts attempts; never closed

	mu struct {
		sync.Mutex
		queue  *queue
		closed bool
		empty  chan struct{} // closed when nothing waits any more; nil if nobody asks
	}
}

// New returns an outbox that delivers nothing until [Outbox.Run] or
// [Outbox.Flush] is called.
func New(o Options) (*Outbox, error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	o = o.withDefaults()
	b := &Outbox{options: o, wake: make(chan struct{}, 1), driver: make(chan struct{}, 1)}
	b.drops.logger = o.Logger
	b.mu.queue = newQueue(limits{
		entries: o.MaxEntries, bytes: o.MaxBytes, underWay: o.MaxUnderWay, age: o.MaxAge,
	}, o.Owner, rand.New(rand.NewPCG(rand.Uint64(), rand.Uint64())))
	return b, nil
}

// Put leaves a call to the outbox, which keeps item: nobody may change it from
// now on. It never waits. The call must be a check, a reserve, a settle, a cancel
// or a count with a request id. A call that is refused, with ErrFull or ErrClosed or
// because it is none of these, leaves no trace.
//
// A settle takes the place of progress that waits for the same reservation if
// that makes no difference to what the owner will have charged, and a call that
// is the repeat of the last one adds nothing.
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
	b.kick()
	return nil
}

// Len returns how many calls wait or are under way.
func (b *Outbox) Len() int { return int(b.entries.Load()) }

// Kick ends all waits: the ring has changed, or an owner is back.
func (b *Outbox) Kick() {
	b.mu.Lock()
	b.mu.queue.kick(time.Now())
	b.mu.Unlock()
	b.kick()
}

func (b *Outbox) kick() {
	select {
	case b.wake <- struct{}{}:
	default:
	}
}

// Close makes every further Put fail with ErrClosed. What waits goes on waiting.
func (b *Outbox) Close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.mu.closed = true
}

// Run delivers until ctx ends, and returns nil after the attempts under way have
// come back. One Run at a time has an effect; another one waits for it to end.
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

// Flush tries until nothing waits, or ctx ends: then it returns an error that
// says how many calls are left. It works while Run runs, and without.
func (b *Outbox) Flush(ctx context.Context) error {
	b.Kick()
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
