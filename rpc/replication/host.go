// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"log/slog"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/handshake"
)

// Address says where a member is.
type Address struct {
	GRPC   string // host:port
	TLS    bool   // GRPC takes TLS
	Gossip string // host:port; "": it has none, and is dead when GRPC refuses connections
}

// Host runs the ownership protocol in one boot of one member. It is safe for concurrent
// use.
type Host struct {
	self      continuity.ID
	engine    Engine
	now       func() limiter.Time
	clock     func() time.Duration
	handshake handshake.Self
	dial      []grpc.DialOption
	secure    func(member string, tls bool) credentials.TransportCredentials // nil: dial has credentials
	onChange  func(int, continuity.Arrangement, continuity.Role)
	onReport  func(continuity.Repay)
	log       *slog.Logger
	metrics   *metrics
	pace      pacer // of copies

	forgetAfter time.Duration // see [continuity.Options.ForgetAfter]

	// Of the hot path.
	parts    []partition
	dirty    []atomic.Uint64 // bits of partitions that have changed
	urgent   []atomic.Uint64
	awake    atomic.Bool // wake is set, or the loop is about to look
	asleep   atomic.Bool // the loop waits for the next heartbeat: a change has to wake it
	wake     notify.Signal
	waits    atomic.Bool
	lookedAt atomic.Int64 // when the loop last looked for changes
	ticks    atomic.Int64 // how often the machine was told the time

	// Inputs of the loop.
	frames   chan *inbound  // cap framesQueued; streams wait when it is full, and senders drop
	copies   chan *fullCopy // cap 1: each is large
	reading  chan struct{}  // holds one value for each copy that is being read; cap: how many may be
	commands struct {
		sync.Mutex
		list []func(*loop)
		due  notify.Signal
	}

	loop    *loop
	running atomic.Bool
	ended   atomic.Bool
	done    chan struct{} // closed when Run returns
	left    chan struct{} // closed when this member has left the roster
}

const framesQueued = 256

// New returns a host that knows no other member and decides nothing. It closes all
// partitions of the engine. The caller must [Host.Run] it.
func New(o Options) (*Host, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("new replication host: %w", err)
	}
	o = o.withDefaults()
	self := continuity.ID{Name: o.Name, Boot: o.Boot}
	machine, err := continuity.New(self, o.Protocol, o.Clock())
	if err != nil {
		return nil, fmt.Errorf("new replication host: %w", err)
	}
	n, words := o.Protocol.Partitions, (o.Protocol.Partitions+63)/64
	h := &Host{
		self: self, engine: o.Engine, now: o.Now, clock: o.Clock, dial: o.Dial, secure: o.Credentials, onChange: o.Changed, onReport: o.Report, log: o.Logger,
		handshake: handshake.Self{Name: o.Name, Boot: o.Boot, Keys: o.Keys, Certify: o.Certify, Versions: handshake.Current()},
		metrics:   newMetrics(o.Registry), pace: pacer{rate: o.CopyRate}, forgetAfter: o.Protocol.ForgetAfter(),
		parts: make([]partition, n), dirty: make([]atomic.Uint64, words), urgent: make([]atomic.Uint64, words), wake: notify.New(),
		frames: make(chan *inbound, framesQueued), copies: make(chan *fullCopy, 1),
		reading: make(chan struct{}, max(1, runtime.GOMAXPROCS(0)/2)),
		done:    make(chan struct{}), left: make(chan struct{}),
	}
	h.commands.due = notify.New()
	nowhere := &Place{}
	for i := range h.parts {
		p := &h.parts[i]
		p.until.Store(never)
		p.lags.Store(always)
		p.place.Store(nowhere)
		h.engine.Close(i)
	}
	h.loop = newLoop(h, machine)
	if o.Registry != nil {
		o.Registry.MustRegister(newCollector(h))
	}
	return h, nil
}

// Run takes part in the protocol until ctx is done. Then it decides for no partition any
// more, closes all of them in the engine, and ends its streams.
func (h *Host) Run(ctx context.Context) error {
	if h.running.Swap(true) {
		return fmt.Errorf("run replication host %s: it has run already", h.self)
	}
	h.loop.run(ctx)
	h.ended.Store(true)
	close(h.done)
	for i := range h.parts {
		p := &h.parts[i]
		p.until.Store(never)
		h.engine.Close(i)
		p.show(p.place.Load(), true)
	}
	h.loop.closeLinks()
	return nil
}

// command has the loop do something between two steps.
func (h *Host) command(f func(*loop)) {
	h.commands.Lock()
	h.commands.list = append(h.commands.list, f)
	h.commands.Unlock()
	h.commands.due.Set()
}

// inLoop has the loop do something between two steps of the protocol, and waits for it. If
// it returns an error, which says what for, f may be called later or never.
func (h *Host) inLoop(ctx context.Context, what string, f func(*loop)) error {
	done := make(chan struct{})
	h.command(func(l *loop) { f(l); close(done) })
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%s: %w", what, ctx.Err())
	case <-h.done:
		return fmt.Errorf("%s: replication has ended", what)
	}
}

func (h *Host) event(e continuity.Event) { h.command(func(l *loop) { l.step(e) }) }

// SetView says who is there, as gossip shows it, and where. Addresses are by the name of
// the member; those of members without one are kept if they have the same boot.
func (h *Host) SetView(v continuity.View, addresses map[string]Address) {
	h.command(func(l *loop) {
		l.updateLinks(v, addresses)
		l.step(v)
	})
}

// Bootstrap says that a new cluster is expected to consist of these members. See
// [continuity.Bootstrap].
func (h *Host) Bootstrap(names []string) {
	names = slices.Sorted(slices.Values(names))
	h.event(continuity.Bootstrap{Names: names, Round: uint32(time.Now().Unix())})
}

// Restored says that the engine has a copy of a partition that was read from disk. It must
// be called before the first SetView.
func (h *Host) Restored(partition int, c continuity.Copy) {
	shown := c
	shown.Seq = 0
	h.parts[partition].copy.Store(&shown)
	h.event(continuity.Restored{Partition: partition, Copy: c})
}

// Journaled says that this member has admitted charges in fallback that it has to report
// to the owner of a partition. [Options].Report is called then.
func (h *Host) Journaled(partition int) { h.event(continuity.Journaled{Partition: partition}) }

// Repaid says that the owner of a partition has everything that there was to report.
func (h *Host) Repaid(partition int) { h.event(continuity.Repaid{Partition: partition}) }

// Left returns a channel that is closed when this member, which was shown as leaving, has
// handed over everything and left the roster.
func (h *Host) Left() <-chan struct{} { return h.left }
