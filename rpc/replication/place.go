// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"math"
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// Place says who holds a partition, as this member knows it. It is immutable.
type Place struct {
	Role continuity.Role // of this member
	// Owner decides, and Heir has a copy. Both are zero before the partition has had an
	// owner, and Heir is zero while there is none.
	Owner, Heir continuity.ID
	// Term is that of the arrangement, and Origin the term at which Owner became the owner.
	Term, Origin uint64
}

// partition is what the hot path knows of one. The loop writes it.
type partition struct {
	until   atomic.Int64 // until when this member decides, on the clock of the host
	lags    atomic.Int64 // after when small charges wait as well
	durable atomic.Uint64
	place   atomic.Pointer[Place]
	heir    atomic.Pointer[contact]         // nil: not the owner, or no heir
	copy    atomic.Pointer[continuity.Copy] // without Seq; nil: none yet

	waiting struct {
		sync.Mutex
		list []awaiting
		next chan struct{} // closed when place changes; nil: nobody waits
	}
}

const (
	never  = math.MinInt64
	always = math.MaxInt64
)

// contact is what is known of a member that answers this one, on the clock of the host. The
// loop writes it.
type contact struct {
	heard atomic.Int64 // when it last acknowledged changes or granted leases; always if there is no connection
	asked atomic.Int64 // since when it has acknowledged none of the changes that it was sent; always if it has all
	frame atomic.Int64 // when it last sent anything: a busy member does, a stopped one does not
}

// maxStall is for how long the loop may not have looked for changes before all charges wait
// for the heir. It looks every 20 ms while charges are made. The first one after a pause waits.
const maxStall = 60 * time.Millisecond

// maxSilence is for how long an heir may not have acknowledged anything before all charges
// wait for it. If members are busy it does so every few milliseconds, and otherwise a wait
// costs nobody much. Without this bound, the first charges of a partition after a cut would
// be answered whenever they come, and be lost.
const maxSilence = 50 * time.Millisecond

// Clock returns the time on the clock of the leases.
func (h *Host) Clock() time.Duration { return h.clock() }

// Decides reports whether this member decides for a partition at a time of [Host.Clock].
// It takes no lock. The time must have been read after a decision to be answered, or just
// before a decision to be made.
func (h *Host) Decides(partition int, now time.Duration) bool {
	return int64(now) < h.parts[partition].until.Load()
}

// Place returns who holds a partition. It takes no lock.
func (h *Host) Place(partition int) Place { return *h.parts[partition].place.Load() }

// Copy returns what the engine has of a partition, without the number of the last change,
// or false if it has nothing. It takes no lock.
func (h *Host) Copy(partition int) (continuity.Copy, bool) {
	c := h.parts[partition].copy.Load()
	if c == nil || c.Origin == 0 && !c.Complete {
		return continuity.Copy{}, false
	}
	return *c, true
}

// Waits reports whether large charges have to wait for the heir: always, unless
// this member is the whole roster. It takes no lock.
func (h *Host) Waits() bool { return h.waits.Load() }

// Lags reports whether the heir of a partition is so far behind, or has been silent for so
// long, that all charges wait for it. It takes no lock.
func (h *Host) Lags(partition int, now time.Duration) bool {
	p := &h.parts[partition]
	if int64(now) > p.lags.Load() || now-time.Duration(h.lookedAt.Load()) > maxStall {
		return true
	}
	heir := p.heir.Load()
	return heir != nil && now-time.Duration(heir.heard.Load()) > maxSilence
}

// silent reports whether the heir of a partition has been sent changes, and has sent nothing
// for so long, until the loop looked last, that it will hardly acknowledge them in the next
// moment. It takes no lock.
func (h *Host) silent(partition int) bool {
	heir := h.parts[partition].heir.Load()
	return heir != nil && h.lookedAt.Load()-max(heir.asked.Load(), heir.frame.Load()) > int64(maxSilence)
}

// Acknowledged returns the last change of a partition that the heir has, 0 if this member
// is not the owner. It takes no lock.
func (h *Host) Acknowledged(partition int) uint64 { return h.parts[partition].durable.Load() }

// Changed takes note that a partition has changed in the engine. If urgent, the heir is
// sent the changes now, otherwise within 20 ms. It does not allocate.
func (h *Host) Changed(partition int, urgent bool) {
	h.mark(partition, urgent)
	if urgent || h.asleep.Load() {
		h.wakeUp()
	}
}

// mark takes note of a change for the loop, which looks when it is woken, and every 20 ms
// unless it is asleep.
func (h *Host) mark(partition int, urgent bool) {
	word, bit := partition/64, uint64(1)<<(partition%64)
	// The loop reads dirty first, so what it finds there has its urgent bit already.
	if urgent && h.urgent[word].Load()&bit == 0 {
		h.urgent[word].Or(bit)
	}
	if h.dirty[word].Load()&bit == 0 {
		h.dirty[word].Or(bit)
	}
}

// wakeUp has the loop look for changes now.
func (h *Host) wakeUp() {
	if !h.awake.Swap(true) {
		h.wake.Set()
	}
}

// Await waits until the place of a partition is as ok wants, and returns it. The error is
// that of ctx.
func (h *Host) Await(ctx context.Context, partition int, ok func(Place) bool) (Place, error) {
	p := &h.parts[partition]
	for {
		p.waiting.Lock()
		place := *p.place.Load()
		if p.waiting.next == nil {
			p.waiting.next = make(chan struct{})
		}
		next := p.waiting.next
		p.waiting.Unlock()
		if ok(place) {
			return place, nil
		}
		select {
		case <-next:
		case <-ctx.Done():
			return place, ctx.Err()
		}
	}
}
