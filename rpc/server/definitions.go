// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Definitions are the limits that answers of one stream have defined, so that later answers
// refer to them. The zero value has none, and takes no memory. They are for one goroutine,
// and for the stream only: when it ends, its receiver has forgotten them.
//
// A limit is known by its number in the catalog of the engine, which no other definition
// gets: after a reload of the policy, a changed limit is another one. There are at most
// [codec.MaxDefinitions], in 32 KiB; the answers with further limits have theirs in full,
// until the client replaces the stream.
type Definitions struct {
	slots []definition // a hash table of a power of two, at most half full; nil: empty
	count int
}

// definition is a limit with its number on the stream.
type definition struct {
	limit, number uint32        // 0: the slot is free
	window        time.Duration // as it was defined
}

// fewestSlots are enough for the limits of a few tiers.
const fewestSlots = 64

// slotOf returns the slot of a limit, or the one where it would be.
func (d *Definitions) slotOf(limit uint32) *definition {
	mask := uint32(len(d.slots) - 1)
	for i := limit * 0x9e3779b1 >> 7; ; i++ {
		if s := &d.slots[i&mask]; s.limit == limit || s.limit == 0 {
			return s
		}
	}
}

// find returns the definition of a limit. If it is new, its definition is appended to wire.
// It is nil if the limit cannot be defined.
func (d *Definitions) find(wire []byte, st *limiter.LimitState) (_ []byte, found *definition) {
	if st.Definition == 0 {
		return wire, nil
	}
	if len(d.slots) > 0 {
		if s := d.slotOf(st.Definition); s.limit != 0 {
			return wire, s
		}
	}
	number := uint32(d.count) + 1
	wire, ok := codec.AppendDefinition(wire, &pb.LimitDefinition{
		Number: number, Name: st.Name, Dimension: string(st.Dimension), Algorithm: st.Algorithm.String(),
		Limit: st.Limit, Capacity: st.Capacity, WindowNanos: max(int64(st.Window), 0), MaxWaitNanos: max(int64(st.Queue.MaxWait), 0),
		Shadow: st.Shadow, Hidden: st.Hidden,
	})
	if !ok {
		return wire, nil
	}
	d.count++
	if 2*d.count > len(d.slots) {
		d.grow()
	}
	s := d.slotOf(st.Definition)
	*s = definition{st.Definition, number, max(st.Window, 0)}
	return wire, s
}

func (d *Definitions) grow() {
	old := d.slots
	d.slots = make([]definition, max(2*len(old), fewestSlots))
	for _, s := range old {
		if s.limit != 0 {
			*d.slotOf(s.limit) = s
		}
	}
}

// AppendDefined is [Results.Append] for a receiver that takes definitions: the limits of
// decisions of this member refer to those in to, which gets new ones.
func (r *Results) AppendDefined(wire []byte, to *Definitions) []byte {
	for i := range r.list {
		var values []*pb.LimitValues
		one := &r.list[i]
		if one.done == nil {
			wire, values = r.defined.fill(wire, to, one.scratch)
		}
		if len(values) == 0 {
			wire = codec.AppendResult(wire, r.View(i))
			continue
		}
		done := r.reply.withoutLimits(r.service, one.scratch)
		done.Slice, done.Values = one.slice, values
		wire = codec.AppendResult(wire, done)
		done.Values = nil // the next answer in its memory may have its limits in full
	}
	return wire
}

// definedLimits is memory for the limits of one answer, by definitions.
type definedLimits struct {
	values []pb.LimitValues
	list   []*pb.LimitValues
}

// fill returns the limits of x by definitions, which it appends to wire if they are new. It
// returns nil if the answer has no limits, or must have them in full. They are valid until
// the next call.
func (m *definedLimits) fill(wire []byte, to *Definitions, x *scratch) ([]byte, []*pb.LimitValues) {
	key, states := x.request.Key, x.decision.Limits
	switch x.kind {
	case call.Check, call.Reserve, call.Peek:
	case call.Settle, call.Cancel:
		key = x.used.Key
	default:
		return wire, nil
	}
	m.makeRoom(len(states))
	for i := range states {
		from, v := &states[i], &m.values[i]
		scope, ok := codec.ScopeBytes(key, from.Scope)
		if !ok {
			return wire, nil
		}
		var known *definition
		if wire, known = to.find(wire, from); known == nil {
			return wire, nil
		}
		v.Definition, v.ScopeBytes = known.number, scope
		v.Remaining, v.Debt, v.Cost, v.Headroom, v.Credit = from.Remaining, from.Debt, from.Cost, from.Headroom, from.Credit
		v.Exceeded, v.PerModel = from.Exceeded, from.PerModel
		v.ResetNanos, v.WindowNanos = max(from.ResetAt, 0), 0
		if window := max(from.Window, 0); window != known.window {
			if window == 0 {
				return wire, nil // cannot be told from that of the definition
			}
			v.WindowNanos = int64(window)
		}
	}
	return wire, m.list[:len(states)]
}

// makeRoom makes room for n limits.
func (m *definedLimits) makeRoom(n int) {
	if n <= len(m.values) {
		return
	}
	m.values, m.list = make([]pb.LimitValues, n), make([]*pb.LimitValues, n)
	for i := range m.values {
		m.list[i] = &m.values[i]
	}
}
