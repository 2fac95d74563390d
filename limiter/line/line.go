// SPDX-License-Identifier: Apache-2.0

package line

import (
	"cmp"
	"math"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// Bounds bound a line. Fields that are 0 have their default.
type Bounds struct {
	Depth    int           // calls in the line; default [DefaultDepth]
	KeyDepth int           // calls of one key; default Depth
	Age      time.Duration // after which a class goes first with one call; default [DefaultAge]
}

// Defaults of bounds.
const (
	DefaultDepth = 10_000
	DefaultAge   = 10 * time.Second
)

// ID identifies a call that waits in a line. It is never 0, and not used again.
type ID uint64

// Call is a call that wants to wait.
type Call struct {
	Key   string           // full key
	Model string           // "" if it has none, as [limiter.Request].Model
	Class limiter.Priority // of [limiter.Plan].Class; NoPriority counts as Standard
	// Weight is that of the plan, from 1 to [limiter.MaxWeight]; 0 means 1.
	Weight int64
	// Arrived is when the call began to wait, on the clock of now: earlier than now if it
	// waited at another owner before. It must not be later than now.
	Arrived int64
	// MaxWait is how long the call may wait, counted from Arrived. 0: as long as its limits
	// allow, which is the bound in any case.
	MaxWait time.Duration
}

// Place says where a call waits.
type Place struct {
	ID ID
	// Ahead is how many calls are ahead of it at its limit.
	Ahead int
	// Limit is the index in [limiter.Decision].Limits of the limit at which it waits.
	Limit int
	// Estimate is how long it will wait, see the package comment.
	Estimate time.Duration
	// Deadline is when its time is over, on the clock of now.
	Deadline int64
}

// Refusal says why a call may not wait.
type Refusal uint8

// The refusals.
const (
	NotRefused Refusal = iota
	Never              // it was not denied with limit_exceeded, or a retry cannot succeed
	NoQueue            // a limit that denies it lets no call wait
	LimitFull          // as many as may wait at the limit wait there
	KeyFull            // as many as may wait of a key wait, in the line or at the limit
	LineFull           // as many as may wait of a root wait
	TooLate            // it would not fit before its time is over
)

var refusalNames = [...]string{"", "never", "no_queue", "limit_full", "key_full", "line_full", "too_late"}

// String returns a word for metrics and logs.
func (r Refusal) String() string {
	if int(r) < len(refusalNames) {
		return refusalNames[r]
	}
	return "unknown"
}

// TurnKind says what a [Turn] is.
type TurnKind uint8

// The kinds of turns.
const (
	None    TurnKind = iota // nobody is to be tried before At
	Try                     // ask the engine for the call ID
	Expired                 // the time of the call ID is over: it has left the line
)

// Turn is what [Line.Next] says.
type Turn struct {
	Kind TurnKind
	ID   ID
	// Retry is the honest time after which to ask again, for Expired.
	Retry time.Duration
	// At is when to call Next again if nothing else happens, on the clock of now.
	// math.MaxInt64 if nobody waits. It is set for None.
	At int64
}

// A Line is the line of the calls of one root that wait. It is not safe for concurrent use.
// Every time is in nanoseconds of one monotonic clock, that of [limiter.Time].Mono. A now that
// is earlier than one before counts as that.
type Line struct {
	depth, keyDepth int
	age             int64

	now     int64
	seq     uint64
	waiting [3]int         // by class
	ofKey   map[string]int // waiters

	chunks [][]waiter
	spare  []int32 // numbers of waiters that are free
	used   int32   // numbers of waiters

	queues      []*queue // by number, from 1
	spareQueues []int32
	byLimit     map[limitID]int32
	perModel    map[limitID]int32 // the first queue of a limit per model
	flows       map[flowID]*flow
	shapes      map[string]*shape
	scratch     []byte

	wakes     heap // of queues, by wakeAt
	deadlines heap // of waiters
}

// New returns an empty line.
func New(b Bounds) *Line {
	depth := cmp.Or(b.Depth, DefaultDepth)
	l := &Line{
		depth: min(depth, 1<<numberBits-chunkSize), keyDepth: cmp.Or(b.KeyDepth, depth), age: int64(cmp.Or(b.Age, DefaultAge)),
		now: math.MinInt64, ofKey: map[string]int{}, queues: make([]*queue, 1),
		byLimit: map[limitID]int32{}, perModel: map[limitID]int32{}, flows: map[flowID]*flow{}, shapes: map[string]*shape{},
	}
	l.wakes = heap{
		less: func(a, b int32) bool { return l.wakesBefore(l.queues[a], l.queues[b]) },
		pos:  func(n int32) *int32 { return &l.queues[n].inWakes },
	}
	l.deadlines = heap{
		less: func(a, b int32) bool { return l.at(a).deadline < l.at(b).deadline },
		pos:  func(n int32) *int32 { return &l.at(n).inDeadlines },
	}
	return l
}

// wakesBefore orders queues by when somebody may be tried.
func (l *Line) wakesBefore(a, b *queue) bool { return a.wakeAt < b.wakeAt }

// Blocks reports whether a call of a class must go behind others: one of its class or of a more
// urgent one waits at a limit of d that the call takes from. d is the decision of
// [limiter.Engine.Preview], which allowed the call. It allocates nothing. If Len is 0, it need
// not be asked.
func (l *Line) Blocks(now int64, class limiter.Priority, model string, d *limiter.Decision) bool {
	if l.Len() == 0 {
		return false
	}
	now = l.tick(now)
	for i := range d.Limits {
		s := &d.Limits[i]
		if !needs(s) {
			continue
		}
		m := l.queueOf(idOf(s, model))
		if m == 0 {
			continue
		}
		q := l.queues[m]
		for c := range q.lanes {
			lane := &q.lanes[c]
			switch {
			case lane.root == 0:
			case c <= int(laneOf(class)):
				return true
			case lane.headroom <= s.Headroom && l.promotedAt(lane, l.at(l.first(lane.root))) <= now:
				return true
			}
		}
	}
	return false
}

// Next returns what to do next. The answer to Try is Admitted, Denied or Leave, before Next is
// called again.
func (l *Line) Next(now int64) Turn {
	now = l.tick(now)
	for moves := 4*l.Len() + 16; ; moves-- {
		m := l.wakes.first()
		if m == 0 || l.queues[m].wakeAt > now {
			break
		}
		n, ready := l.turn(l.queues[m], now)
		if n == 0 {
			l.wake(m)
			continue
		}
		if l.at(n).deadline < ready { // it did not fit in time, but now is later
			return l.expire(n)
		}
		i := l.blockedAt(n)
		if i < 0 || moves <= 0 {
			return Turn{Kind: Try, ID: l.at(n).id(n), At: now}
		}
		l.move(n, i)
	}
	n := l.deadlines.first()
	if n == 0 {
		return Turn{At: math.MaxInt64}
	}
	if l.at(n).deadline <= now {
		return l.expire(n)
	}
	return Turn{At: min(l.at(n).deadline, l.queues[l.wakes.first()].wakeAt)}
}

// expire removes a waiter whose time is over.
func (l *Line) expire(n int32) Turn {
	wait := l.estimate(n)
	t := Turn{Kind: Expired, ID: l.at(n).id(n), At: l.now, Retry: time.Duration(wait)}
	l.drop(n, false)
	return t
}

// drop removes a waiter from the line.
func (l *Line) drop(n int32, admitted bool) {
	w := l.at(n)
	from := w.queue
	if from != 0 {
		l.part(n, admitted)
		l.wake(from)
	}
	l.deadlines.remove(n)
	l.waiting[w.class]--
	if l.ofKey[w.key]--; l.ofKey[w.key] == 0 {
		delete(l.ofKey, w.key)
	}
	l.dropShape(w)
	l.free(n)
}

// Admitted removes a call that the engine admitted.
func (l *Line) Admitted(now int64, id ID) {
	now = l.tick(now)
	n := l.find(id)
	if n == 0 {
		return
	}
	w := l.at(n)
	l.queues[w.queue].admit(w.class, w.round, now)
	for i := range w.shape.limits {
		m := l.queueOf(w.idOf(&w.shape.limits[i]))
		if m == 0 || m == w.queue {
			continue
		}
		l.admitAt(m, w, w.costs[i])
	}
	l.drop(n, true)
}

// admitAt notes that a call was let through that takes from a limit at which others wait.
func (l *Line) admitAt(m int32, w *waiter, cost int64) {
	q := l.queues[m]
	f := l.flows[flowID{m, w.class, w.key}]
	round := q.lanes[w.class].round + q.rounds(cost, w.weight)
	if f != nil {
		round = l.at(f.head).round
		f.round += q.rounds(cost, w.weight)
		f.from += q.rounds(cost, w.weight)
	}
	q.admit(w.class, round, l.now)
	l.wake(m)
}

// Leave removes a call whose caller has gone. It reports whether the call was in the line.
func (l *Line) Leave(now int64, id ID) bool {
	l.tick(now)
	n := l.find(id)
	if n == 0 {
		return false
	}
	l.drop(n, false)
	return true
}

// Freed says that something came back to limits: a settle, a cancel, the end of a lease, a
// credit. Those who wait there are tried. Of limits, the line reads Scope, Dimension and Name.
func (l *Line) Freed(now int64, limits []limiter.LimitState) {
	if l.Len() == 0 {
		return
	}
	l.tick(now)
	for i := range limits {
		s := &limits[i]
		id := limitID{scope: s.Scope, dimension: s.Dimension, name: s.Name}
		if m := l.queueOf(id); m != 0 {
			l.retry(m)
		}
		for m := l.perModel[id]; m != 0; m = l.queues[m].next {
			l.retry(m)
		}
	}
}

// retry makes those who wait at a limit be tried.
func (l *Line) retry(m int32) {
	l.queues[m].stamp++
	l.queues[m].freedAt = l.now
	l.wake(m)
}

// FreedAll is Freed for all limits, after a change of the policy.
func (l *Line) FreedAll(now int64) {
	l.tick(now)
	for m, q := range l.queues {
		if q != nil {
			l.retry(int32(m))
		}
	}
}

// Len returns how many calls wait.
func (l *Line) Len() int { return l.waiting[0] + l.waiting[1] + l.waiting[2] }

// Waiting returns how many calls of a class wait.
func (l *Line) Waiting(c limiter.Priority) int { return l.waiting[laneOf(c)] }

// Each calls f for each call that waits, in no order, with its class and since when it waits.
// f must not change the line.
func (l *Line) Each(f func(id ID, class limiter.Priority, arrived int64)) {
	for n := int32(1); n <= l.used; n++ {
		if w := l.at(n); w.shape != nil {
			f(w.id(n), limiter.Interactive+limiter.Priority(w.class), w.arrived)
		}
	}
}

// tick returns now, or the latest time seen if that is later.
func (l *Line) tick(now int64) int64 {
	l.now = max(l.now, now)
	return l.now
}

// laneOf returns the index of the lane of a class.
func laneOf(c limiter.Priority) uint8 {
	switch c {
	case limiter.Interactive:
		return 0
	case limiter.Batch:
		return 2
	}
	return 1
}

// balance returns the priority of a node of a treap: a mixed number.
func balance(seq uint64) uint32 {
	seq *= 0x9e3779b97f4a7c15
	seq ^= seq >> 29
	seq *= 0xbf58476d1ce4e5b9
	return uint32(seq >> 32)
}
