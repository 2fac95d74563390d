// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"fmt"
	"math/bits"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/rpc/replication/internal/wire"
)

// maxBatch bounds the frames that are handled before anything is sent, and maxEntries what
// is in them, give or take a frame. More of them share messages, and make those wait
// longer.
const (
	maxBatch   = 128
	maxEntries = 1024
)

// loop runs the machine. All its fields are of the one goroutine that is in run.
type loop struct {
	*Host
	ctx  context.Context
	m    *continuity.Machine
	open []bool // in the engine

	links    map[continuity.ID]*link
	outs     map[continuity.ID]*out // what is to be sent, by member
	contacts map[continuity.ID]*contact
	pending  []*out               // those with something to send
	drained  []continuity.Drained // answers to Seal
	tracked  []bool
	changes  continuity.Changed // the memory of reportChanges
	polled   int                // the partition that pollSeqs looked at last
	ticked   time.Duration      // when the last tick was
	sawNew   time.Duration      // when a change was seen last
	moves    moves
	leave    leave

	running sync.WaitGroup // of links
}

func newLoop(h *Host, m *continuity.Machine) *loop {
	return &loop{
		Host: h, m: m, open: make([]bool, len(h.parts)), tracked: make([]bool, len(h.parts)),
		links: map[continuity.ID]*link{}, outs: map[continuity.ID]*out{}, contacts: map[continuity.ID]*contact{},
	}
}

func (l *loop) run(ctx context.Context) {
	l.ctx = ctx
	timer := time.NewTimer(continuity.TickInterval)
	defer timer.Stop()
	for {
		tick := false
		var frame *inbound
		var full *fullCopy
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			tick = true
		case <-l.wake.C():
		case <-l.commands.due.C():
		case frame = <-l.frames:
		case full = <-l.copies:
		}
		l.reportChanges()
		if full != nil {
			l.receiveCopy(full)
		}
		for n, entries := 0, 0; frame != nil; n++ {
			entries += size(&frame.frame.Message)
			l.receive(frame)
			frame = nil
			if n < maxBatch && entries < maxEntries {
				select {
				case frame = <-l.frames:
				default:
				}
			}
		}
		l.runCommands()
		now := l.clock()
		if tick = tick || now >= l.ticked+continuity.TickInterval && now >= l.m.NextTick(); tick {
			l.ticks.Add(1)
			l.pollSeqs(now - l.ticked)
			l.ticked = now
			l.step(continuity.Tick{})
			for _, o := range l.outs {
				l.answered(o)
			}
			l.noteLinks()
			l.moves.report(l.log, l.clock())
			l.leave.tick(l)
		}
		l.flush()
		timer.Reset(l.nextTick())
	}
}

// calmAfter is for how long nothing must have changed before the loop waits for the next
// heartbeat. Small charges are sent together every [continuity.TickInterval], and the first
// one wakes a loop that waits for longer.
const calmAfter = 5 * continuity.TickInterval

// nextTick returns the time until the next tick.
func (l *loop) nextTick() time.Duration {
	now := l.clock()
	soon := l.ticked + continuity.TickInterval
	next := max(soon, l.m.NextTick())
	if next > soon && (now-l.sawNew < calmAfter || l.hasWork() || !l.sleep()) {
		next = soon
	}
	return max(0, next-now)
}

// hasWork reports whether a tick has something to do that the machine does not know of.
func (l *loop) hasWork() bool {
	if l.moves.pending() || l.leave.pending() {
		return true
	}
	for _, o := range l.outs {
		if o.waits || len(o.states) > 0 {
			return true
		}
	}
	return false
}

// sleep has the next change wake the loop. It returns false if there is one already.
func (l *loop) sleep() bool {
	l.asleep.Store(true)
	for w := range l.dirty { // those that did not see asleep
		if l.dirty[w].Load() != 0 {
			l.asleep.Store(false)
			return false
		}
	}
	return true
}

// size returns how much there is to do for a message.
func size(m *continuity.Message) int { return len(m.Entries) + len(m.Beats) + len(m.Grants) }

func (l *loop) runCommands() {
	l.commands.Lock()
	list := l.commands.list
	l.commands.list = nil
	l.commands.Unlock()
	for _, f := range list {
		f(l)
	}
}

// reportChanges tells the machine which partitions have changed.
func (l *loop) reportChanges() {
	l.asleep.Store(false)
	l.awake.Store(false)
	l.changes = l.changes[:0]
	for w := range l.dirty {
		var urgent, word uint64
		if l.dirty[w].Load() != 0 {
			word = l.dirty[w].Swap(0)
		}
		if l.urgent[w].Load() != 0 {
			urgent = l.urgent[w].Swap(0)
		}
		for word |= urgent; word != 0; word &= word - 1 {
			bit := bits.TrailingZeros64(word)
			i := w*64 + bit
			l.changes = append(l.changes, continuity.Progress{Partition: i, Seq: l.engine.Seq(i), Urgent: urgent&(1<<bit) != 0})
		}
	}
	if len(l.changes) > 0 {
		l.sawNew = l.clock()
		l.step(l.changes)
		for i := range l.changes {
			p := l.changes[i].Partition
			l.parts[p].lags.Store(int64(l.m.LagsAfter(p)))
		}
	}
	l.lookedAt.Store(int64(l.clock()))
}

// step gives an event to the machine and acts on the effects.
func (l *loop) step(e continuity.Event) { l.stepState(e, nil) }

// stepState also has what applies the records of a StateReceived, by the index of the
// transfer.
func (l *loop) stepState(e continuity.Event, apply func(int) error) {
	states, _ := e.(continuity.StateReceived)
	var failed []continuity.Restored
	fx := l.m.Step(e, l.clock())
	for _, r := range fx.Repay {
		l.report(r)
	}
	for _, i := range fx.Drop {
		l.engine.Clear(i)
	}
	for _, a := range fx.Apply {
		if err := apply(a.Transfer); err != nil {
			l.applyFailed(&states[a.Transfer], err)
			failed = append(failed, continuity.Restored{Partition: states[a.Transfer].Partition, Copy: a.Before})
			fx.Messages = nil // not acknowledged: the sender repeats all
		}
	}
	for i := range fx.Changes {
		l.changed(&fx.Changes[i])
	}
	for _, lease := range fx.Leases {
		l.parts[lease.Partition].until.Store(int64(lease.Until))
	}
	if _, isTick := e.(continuity.Tick); isTick || len(fx.Changes) > 0 {
		l.waits.Store(l.m.Waits())
	}
	if len(fx.Lost) > 0 {
		l.metrics.lost.Add(float64(len(fx.Lost)))
		l.log.Error("all members that held the latest state of partitions are gone: charges may be lost",
			"partitions", len(fx.Lost), "first", fx.Lost[0])
	}
	for _, i := range fx.Seal {
		l.open[i] = false
		l.drained = append(l.drained, continuity.Drained{Partition: i, Seq: l.engine.Close(i)})
	}
	for _, d := range fx.Durable {
		l.durable(d)
	}
	for i := range fx.States {
		l.queueState(&fx.States[i])
	}
	for i := range fx.Messages {
		l.queueMessage(&fx.Messages[i])
	}
	for _, a := range fx.Apply {
		l.publishCopy(states[a.Transfer].Partition)
	}
	for _, i := range fx.Drop {
		l.publishCopy(i)
	}
	if fx.Left {
		l.leave.begin(l)
	}
	for _, r := range slices.Backward(failed) { // what was before all of them is the last
		if l.engine.Seq(r.Partition) < r.Copy.Seq {
			r.Copy = continuity.Copy{} // it was cleared
		}
		l.step(r)
		l.publishCopy(r.Partition)
	}
	for len(l.drained) > 0 {
		d := l.drained[0]
		l.drained = l.drained[1:]
		l.step(d)
		l.parts[d.Partition].lags.Store(int64(l.m.LagsAfter(d.Partition)))
	}
}

// applyFailed counts and logs records of another member that cannot be used.
func (l *loop) applyFailed(t *continuity.StateTransfer, err error) {
	l.metrics.applyFailed.Inc()
	l.moves.problem(l.log, "records cannot be applied", "member", t.From.Name, "partition", t.Partition, "full", t.Full, "error", err)
}

// changed opens or closes a partition, and publishes who holds it.
func (l *loop) changed(c *continuity.Change) {
	i, p := c.Partition, &l.parts[c.Partition]
	old := p.place.Load()
	a := &c.Current
	mine, was := a.Owner == l.self, old.Owner == l.self
	lost := was && (!mine || a.Origin != old.Origin)
	if a.Origin != old.Origin || mine != was {
		p.durable.Store(0)
	}
	decides := c.Role == continuity.Active || c.Role == continuity.Exporting
	switch {
	case decides && !l.open[i]:
		if l.m.Waits() {
			l.track(i, true)
		}
		l.engine.Open(i, l.m.Copy(i).Seq)
		l.open[i] = true
	case !decides && l.open[i]:
		p.until.Store(never)
		l.engine.Close(i)
		l.open[i] = false
		if mine {
			l.Changed(i, true)
		}
	}
	if !mine {
		l.track(i, false)
	}
	l.moves.note(was, mine, lost)
	switch {
	case mine && !was:
		l.metrics.gained.Inc()
	case was && !mine:
		l.metrics.handedOver.Inc()
	}
	p.lags.Store(int64(l.m.LagsAfter(i)))
	if mine && !a.Heir.IsZero() {
		p.heir.Store(l.contact(a.Heir))
	} else {
		p.heir.Store(nil)
	}
	l.publishCopy(i)
	p.show(&Place{Role: c.Role, Owner: a.Owner, Heir: a.Heir, Term: a.Term, Origin: a.Origin}, lost)
	if l.onChange != nil {
		l.onChange(i, c.Current, c.Role)
	}
}

// publishCopy publishes which copy of a partition the engine has.
func (l *loop) publishCopy(i int) {
	if i < 0 || i >= len(l.parts) {
		return
	}
	c := l.m.Copy(i)
	c.Seq = 0 // the engine knows it
	if p := &l.parts[i].copy; p.Load() == nil || *p.Load() != c {
		changed := c
		p.Store(&changed)
	}
}

// pollSeqs tells the machine of changes that no call has made, such as the end of leases,
// after a time since it did so last. It looks at all partitions in about a second.
func (l *loop) pollSeqs(since time.Duration) {
	n := polledAtOnce * int64(max(since, continuity.TickInterval)/continuity.TickInterval)
	for range min(n, int64(len(l.parts))) {
		l.polled = (l.polled + 1) % len(l.parts)
		if l.open[l.polled] && l.engine.Seq(l.polled) > l.m.Copy(l.polled).Seq {
			l.Changed(l.polled, false)
		}
	}
}

// polledAtOnce is how many partitions are looked at for each [continuity.TickInterval].
const polledAtOnce = 64

// track has the engine list the changes of a partition, or not.
func (l *loop) track(i int, on bool) {
	if l.tracked[i] != on {
		l.tracked[i] = on
		l.engine.Track(i, on)
	}
}

// durable answers those who wait, and forgets changes that all have.
func (l *loop) durable(d continuity.Durable) {
	p := &l.parts[d.Partition]
	p.durable.Store(d.Seq)
	p.lags.Store(int64(l.m.LagsAfter(d.Partition)))
	p.release(d.Seq)
	if seq := l.m.Acknowledged(d.Partition); seq > 0 {
		l.engine.ForgetChanges(d.Partition, seq)
	}
}

func (l *loop) report(r continuity.Repay) {
	if l.onReport == nil {
		l.event(continuity.Repaid{Partition: r.Partition})
		return
	}
	l.onReport(r)
}

// receive handles a frame: first the changes, which are acknowledged, then the message.
func (l *loop) receive(f *inbound) {
	if len(f.frame.States) > 0 {
		if err := l.receiveChanges(&f.frame); err != nil {
			l.metrics.applyFailed.Inc()
			l.moves.problem(l.log, "changes cannot be read", "member", f.frame.Message.From.Name, "error", err)
		}
	}
	m, now := &f.frame.Message, int64(l.clock())
	c := l.contact(m.From)
	c.frame.Store(now)
	if len(m.Acks) > 0 || m.GrantsLeases() {
		c.heard.Store(now)
	}
	if len(m.Acks) > 0 {
		c.asked.Store(always)
	}
	l.step(continuity.Received{Message: f.frame.Message})
	l.leave.heard(f.frame.Message.From.Name, f.frame.Message.Epoch)
	if o := l.outs[f.frame.Message.From]; o != nil {
		l.answered(o)
	}
	f.release()
}

// contact returns what is known of a member, for all partitions of which it is the heir.
func (l *loop) contact(member continuity.ID) *contact {
	c := l.contacts[member]
	if c == nil {
		c = new(contact)
		c.asked.Store(always)
		l.contacts[member] = c
	}
	return c
}

// noteLinks has no charge wait for a member to which there is no connection. That is not a
// silent heir that might take over, and it is replaced soon.
func (l *loop) noteLinks() {
	for id, c := range l.contacts {
		switch k := l.links[id]; {
		case k == nil || !k.up.Load():
			c.heard.Store(always)
			c.asked.Store(always)
		case c.heard.Load() == always:
			c.heard.Store(int64(l.clock()))
		}
	}
}

// receiveChanges applies the changes of a frame, which has them one partition after the other.
func (l *loop) receiveChanges(f *wire.Frame) error {
	reader, err := l.engine.ReadChanges(f.Records)
	if err != nil {
		return err
	}
	defer reader.Close()
	now, read := l.now(), 0 // read: for how many states the reader has advanced
	l.stepState(continuity.StateReceived(f.States), func(index int) error {
		for ; read <= index && err == nil; read++ {
			t := &f.States[read]
			if t.Through > t.After && !nextIs(reader, t.Partition) {
				err = fmt.Errorf("changes of partition %d, which is number %d of %d, are not there", t.Partition, read+1, len(f.States))
			}
		}
		if err != nil {
			return err
		}
		return reader.Apply(now)
	})
	return nil
}

// nextIs goes to the next partition in a message, and reports whether it is that one.
func nextIs(r ChangeReader, partition int) bool {
	if !r.Next() {
		return false
	}
	p, _, _ := r.Section()
	return p == partition
}

func (l *loop) receiveCopy(c *fullCopy) {
	l.metrics.copiesReceived.Inc()
	l.stepState(continuity.StateReceived{c.transfer}, func(int) error { return c.apply(l.now()) })
}
