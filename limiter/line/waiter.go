// SPDX-License-Identifier: Apache-2.0

package line

import (
	"encoding/binary"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// waiter is a call that waits. It is a node of the tree of its lane.
type waiter struct {
	key, model string
	shape      *shape
	costs      []int64 // of the limits of shape
	flow       *flow   // of its key, in its lane
	seq        uint64  // in the order of Arrive; ID is made of it
	arrived    int64
	deadline   int64
	readyAt    int64 // when it fits at its limit, as of the stamp of the queue
	round      int64 // in which its key has saved its cost, see flow
	cost       int64 // of its limit
	sum        int64 // of the costs of its subtree

	queue       int32 // where it waits
	stamp       uint32
	left, right int32
	count       int32 // of its subtree
	prev, next  int32 // in its flow
	inDeadlines int32 // position in the heap of deadlines
	balance     uint32
	weight      uint16
	class       uint8 // index of its lane
}

// The first chunk grows up to chunkSize, because few calls wait in most lines.
const (
	chunkSize      = 128
	firstChunkSize = 4
)

// at returns a waiter by its number, from 1.
func (l *Line) at(n int32) *waiter { return &l.chunks[n/chunkSize][n%chunkSize] }

// alloc returns the number of a new waiter. Pointers to waiters are not valid any more.
func (l *Line) alloc() int32 {
	if len(l.spare) > 0 {
		n := l.spare[len(l.spare)-1]
		l.spare = l.spare[:len(l.spare)-1]
		return n
	}
	l.used++
	switch last := len(l.chunks) - 1; {
	case l.used/chunkSize > int32(last):
		size := chunkSize
		if last < 0 {
			size = firstChunkSize
		}
		l.chunks = append(l.chunks, make([]waiter, size))
	case last == 0 && int(l.used) >= len(l.chunks[0]):
		grown := make([]waiter, min(2*len(l.chunks[0]), chunkSize))
		copy(grown, l.chunks[0])
		l.chunks[0] = grown
	}
	return l.used
}

// free makes the number of a waiter free for another.
func (l *Line) free(n int32) {
	*l.at(n) = waiter{}
	if l.spare = append(l.spare, n); len(l.spare) == int(l.used) {
		l.chunks, l.spare, l.used = nil, nil, 0 // nobody waits: keep no memory
		l.wakes.items, l.deadlines.items = nil, nil
	}
}

// numberBits is how many bits of an ID are the number of the waiter. The rest is its seq.
const numberBits = 24

func (w *waiter) id(n int32) ID { return ID(w.seq<<numberBits | uint64(n)) }

// find returns the number of a waiter, 0 if it does not wait.
func (l *Line) find(id ID) int32 {
	n := int32(id % (1 << numberBits))
	if n == 0 || n > l.used || l.at(n).seq != uint64(id)>>numberBits || l.at(n).shape == nil {
		return 0
	}
	return n
}

// shape is which limits a call takes from. Calls of the same plan share it.
type shape struct {
	text   string
	refs   int
	limits []shapeLimit
}

// shapeLimit is a limit of a key that a call takes from.
type shapeLimit struct {
	end       int32 // of the scope in the key
	perModel  bool
	dimension limiter.Dimension
	name      string
	headroom  int64 // that the class of the call must leave free
}

// needs reports whether a call takes from a limit.
func needs(s *limiter.LimitState) bool { return s.Cost > 0 && !s.Shadow }

// denies reports whether a limit denied the call of a decision.
func denies(d *limiter.Decision, s *limiter.LimitState) bool {
	return d.Outcome == limiter.Denied && s.Exceeded && !s.Shadow
}

// setNeeds sets what a call takes from limits, as of a decision.
func (l *Line) setNeeds(w *waiter, d *limiter.Decision) {
	b := l.scratch[:0]
	for i := range d.Limits {
		if s := &d.Limits[i]; needs(s) {
			b = binary.AppendUvarint(b, uint64(len(s.Scope)))
			b = binary.AppendUvarint(b, uint64(s.Headroom))
			b = append(b, boolByte(s.PerModel))
			b = append(append(b, s.Dimension...), 0)
			b = append(append(b, s.Name...), 0)
		}
	}
	l.scratch = b
	sh := l.shapes[string(b)]
	if sh == nil {
		sh = &shape{text: string(b)}
		for i := range d.Limits {
			if s := &d.Limits[i]; needs(s) {
				sh.limits = append(sh.limits, shapeLimit{int32(len(s.Scope)), s.PerModel, s.Dimension, s.Name, s.Headroom})
			}
		}
		l.shapes[sh.text] = sh
	}
	sh.refs++
	l.dropShape(w)
	w.shape = sh
	if cap(w.costs) < len(sh.limits) {
		w.costs = make([]int64, 0, len(sh.limits))
	}
	w.costs = w.costs[:0]
	for i := range d.Limits {
		if s := &d.Limits[i]; needs(s) {
			w.costs = append(w.costs, s.Cost)
		}
	}
}

func (l *Line) dropShape(w *waiter) {
	if w.shape == nil {
		return
	}
	if w.shape.refs--; w.shape.refs == 0 {
		delete(l.shapes, w.shape.text)
	}
}

func boolByte(b bool) byte {
	if b {
		return 1
	}
	return 0
}

// idOf returns the identity of a limit of a waiter.
func (w *waiter) idOf(s *shapeLimit) limitID {
	id := limitID{scope: w.key[:s.end], dimension: s.dimension, name: s.name}
	if s.perModel {
		id.model = stateModel(w.model)
	}
	return id
}

// idOf returns the identity of a limit of a call for a model.
func idOf(s *limiter.LimitState, model string) limitID {
	id := limitID{scope: s.Scope, dimension: s.Dimension, name: s.Name}
	if s.PerModel {
		id.model = stateModel(model)
	}
	return id
}

// stateModel is the model under which the engine keeps state per model.
func stateModel(model string) string {
	if model == "" {
		return "*"
	}
	return model
}

// Bound returns how long a call with decision d may wait at the limits that deny it or, if none does, at
// any of its limits. It returns false if one of them lets no call wait.
func Bound(d *limiter.Decision) (time.Duration, bool) {
	wait := time.Duration(limiter.MaxMaxWait)
	for i := range d.Limits {
		s := &d.Limits[i]
		if !denies(d, s) {
			continue
		}
		if s.Queue.MaxDepth <= 0 || s.Queue.MaxWait <= 0 {
			return 0, false
		}
		wait = min(wait, s.Queue.MaxWait)
	}
	return wait, true
}
