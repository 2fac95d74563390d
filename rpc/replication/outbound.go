// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"net/netip"
	"slices"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/rpc/replication/internal/wire"
)

// maxRecords is after how many bytes of changes a frame is sent without waiting for more.
const maxRecords = 512 << 10

// out is what is to be sent to a member at the end of a round of the loop. Messages of
// several steps become one, since messages may be reordered: all entries first, then
// acknowledgements, beats and grants, as the receiver handles them.
type out struct {
	to       continuity.ID
	pending  bool
	messages []continuity.Message
	states   []continuity.StateTransfer // without Full
	stateAt  []uint32                   // by partition: 1 + the index of its last one in states, 0: none
	// waits: changes are on their way, and the member has not acknowledged any since. What
	// changes meanwhile waits for that, for the next tick, or for a frame that is sent anyway,
	// and goes together: the busier the members are, the fewer frames they have to handle
	// for each change.
	waits bool

	changes Changes
	encoder wire.Encoder
	frame   wire.Frame
}

func (l *loop) out(to continuity.ID) *out {
	o := l.outs[to]
	if o == nil {
		o = &out{to: to, changes: l.engine.NewChanges(), stateAt: make([]uint32, len(l.parts))}
		l.outs[to] = o
	}
	if !o.pending {
		o.pending = true
		l.pending = append(l.pending, o)
	}
	return o
}

func (l *loop) queueMessage(m *continuity.Message) {
	o := l.out(m.To)
	if n := len(o.messages); n > 0 && merge(&o.messages[n-1], m) {
		return
	}
	o.messages = append(o.messages, *m)
}

// merge adds b to a, if one message can say both.
func merge(a, b *continuity.Message) bool {
	switch {
	case a.Epoch != b.Epoch || len(a.Entries)+len(a.Acks)+len(b.Entries)+len(b.Acks) > wire.MaxEntries:
		return false
	case len(a.Beats) > 0 && len(b.Beats) > 0 && a.Sent != b.Sent, len(a.Grants) > 0 && len(b.Grants) > 0 && a.Answered != b.Answered:
		return false
	}
	if len(b.Beats) > 0 {
		a.Sent = b.Sent
	}
	if len(b.Grants) > 0 {
		a.Answered = b.Answered
	}
	a.Entries = append(a.Entries, b.Entries...)
	a.Acks = append(a.Acks, b.Acks...)
	a.Beats = append(a.Beats, b.Beats...)
	a.Grants = append(a.Grants, b.Grants...)
	return true
}

// queueState has records sent: changes with the next message, a full copy by the copier.
func (l *loop) queueState(t *continuity.StateTransfer) {
	l.track(t.Partition, true)
	if t.Full {
		l.copy(*t)
		return
	}
	o := l.out(t.To)
	if at := o.stateAt[t.Partition]; at > 0 {
		if s := &o.states[at-1]; s.Transfer == t.Transfer && s.Term == t.Term {
			s.After = min(s.After, t.After)
			s.Through = max(s.Through, t.Through)
			return
		}
	}
	o.states = append(o.states, *t)
	o.stateAt[t.Partition] = uint32(len(o.states))
}

// clearStates forgets the changes that are to be sent.
func (o *out) clearStates() {
	for i := range o.states {
		o.stateAt[o.states[i].Partition] = 0
	}
	o.states = o.states[:0]
}

// copy has all records of a partition sent.
func (l *loop) copy(t continuity.StateTransfer) {
	if k := l.links[t.To]; k != nil {
		k.copier.add(t)
	}
}

// maxWaiting is with how many partitions changes do not wait for an answer.
const maxWaiting = 256

// flush sends what the steps of this round have queued. The records of changes are read now.
func (l *loop) flush() {
	for _, o := range l.pending {
		o.pending = false
		k := l.links[o.to]
		if k == nil || !k.up.Load() {
			l.metrics.dropped.Add(float64(len(o.messages)))
			o.waits = false
			o.clearStates()
		} else {
			l.send(k, o)
		}
		clear(o.messages)
		o.messages = o.messages[:0]
	}
	l.pending = l.pending[:0]
}

// answered says that a member has answered, or that changes for it have waited long enough.
func (l *loop) answered(o *out) {
	o.waits = false
	if len(o.states) > 0 {
		l.out(o.to)
	}
}

func (l *loop) send(k *link, o *out) {
	f := &o.frame
	emit := func(m continuity.Message) {
		f.Message, f.Records = m, nil
		if len(f.States) > 0 {
			f.Records = o.changes.Message()
		}
		buf := buffers.Get().(*[]byte)
		*buf = o.encoder.AppendFrame((*buf)[:0], f)
		k.enqueue(buf)
		f.States = f.States[:0]
	}
	f.States = f.States[:0]
	if len(o.states) > 0 && (!o.waits || len(o.messages) > 0 || len(o.states) >= maxWaiting) {
		o.waits = true
		l.contact(o.to).asked.CompareAndSwap(always, int64(l.clock()))
		o.changes.Reset()
		now := l.now()
		for i := range o.states {
			t := &o.states[i]
			through, ok := o.changes.Append(now, t.Partition, t.After)
			if !ok {
				t.Full, t.After = true, 0
				l.copy(*t)
				continue
			}
			// More may have changed since the step. The machine hears of it before the next
			// one.
			if through > t.Through {
				l.Changed(t.Partition, false)
			}
			t.Through = max(t.After, through) // equal: nothing was added
			f.States = append(f.States, *t)
			if o.changes.Len() > maxRecords {
				emit(continuity.Message{From: l.self, To: o.to, Epoch: l.m.Roster().Epoch})
				o.changes.Reset()
			}
		}
		o.clearStates()
	}
	last := len(o.messages) - 1
	for i := range max(0, last) {
		// The changes go with the last message, so that none is split.
		states := f.States
		f.States = nil
		emit(o.messages[i])
		f.States = states
	}
	switch {
	case last >= 0:
		emit(o.messages[last])
	case len(f.States) > 0:
		emit(continuity.Message{From: l.self, To: o.to, Epoch: l.m.Roster().Epoch})
	}
}

// updateLinks connects to the members of a view, and ends the connections to those that
// were replaced by a later boot, or are neither in the view nor in the roster.
func (l *loop) updateLinks(v continuity.View, addresses map[string]Address) {
	wanted := map[string]continuity.ID{}
	for _, m := range v.Members {
		if m.ID == l.self || m.Name == l.self.Name {
			continue
		}
		wanted[m.Name] = m.ID
		address, known := addresses[m.Name]
		k := l.links[m.ID]
		switch {
		case !known || k != nil && k.address == address:
		default:
			if k != nil {
				k.stop()
			}
			l.links[m.ID] = l.connect(m.ID, address, l.formerBoots(m.ID, address))
		}
	}
	roster := l.m.Roster().Names
	for id, k := range l.links {
		now, inView := wanted[id.Name]
		if inView && now == id || !inView && slices.Contains(roster, id.Name) {
			continue
		}
		k.stop()
		delete(l.links, id)
		delete(l.outs, id)
	}
	l.forgetContacts()
}

// forgetContacts forgets the members that are neither connected nor heir of a partition of
// this one.
func (l *loop) forgetContacts() {
	heirs := map[*contact]bool{}
	for i := range l.parts {
		heirs[l.parts[i].heir.Load()] = true
	}
	for id, c := range l.contacts {
		if l.links[id] == nil && !heirs[c] {
			delete(l.contacts, id)
		}
	}
}

// formerBoots returns earlier boots of a member that had its address. Only one process can
// listen at a port, so they have ended when this boot answers there. A name may lead to
// another machine meanwhile, so it says nothing.
func (l *loop) formerBoots(to continuity.ID, address Address) (former []continuity.ID) {
	if _, err := netip.ParseAddrPort(address.GRPC); err != nil {
		return nil
	}
	for id, k := range l.links {
		if id.Name == to.Name && id.Boot <= to.Boot && k.address == address {
			former = append(former, k.former...)
			if id != to {
				former = append(former, id)
			}
		}
	}
	return former
}

// closeLinks ends all connections and waits for their goroutines.
func (l *loop) closeLinks() {
	for _, k := range l.links {
		k.stop()
	}
	l.running.Wait()
}
