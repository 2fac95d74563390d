// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"container/heap"
	"fmt"
	"math/rand/v2"
	"regexp"
	"slices"
	"strings"
	"time"
)

// The simulator runs whole members with their machines, stores and calls in virtual
// time. A seed decides everything.

// simEvent is something that happens at a time.
type simEvent struct {
	at  time.Duration
	no  uint64 // events at the same time happen in this order
	run func()
}

type simQueue []simEvent

func (q simQueue) Len() int { return len(q) }
func (q simQueue) Less(i, j int) bool {
	return q[i].at < q[j].at || q[i].at == q[j].at && q[i].no < q[j].no
}
func (q simQueue) Swap(i, j int) { q[i], q[j] = q[j], q[i] }
func (q *simQueue) Push(x any)   { *q = append(*q, x.(simEvent)) }
func (q *simQueue) Pop() any {
	last := len(*q) - 1
	e := (*q)[last]
	(*q)[last].run = nil
	*q = (*q)[:last]
	return e
}

// simPartitions is small, so that a run is fast and members meet in each of them.
const simPartitions = 8

// simLimit is what each partition admits in all, and simLarge the smallest charge
// that waits for the heir.
const (
	simLimit = 9000
	simLarge = simLimit / 100
)

type sim struct {
	rng    *rand.Rand
	now    time.Duration
	queue  simQueue
	nextNo uint64
	o      Options
	broken bug

	nodes    []*simNode // all boots that run, in the order of their start
	nextBoot uint64
	nextCall uint64

	// The network.
	loss, repeat float64
	delay        time.Duration // most of a message
	slow         time.Duration // what delay is at least while faults happen
	cut          map[[2]string]bool
	joined       map[[2]string]time.Duration // when a cut ended
	faults       bool                        // whether faults still happen
	buried       bool                        // whether a member has ended for good without leaving
	forgotten    bool                        // whether a majority has ever lost its memory at once

	// What a seed may have besides.
	settles    bool                        // calls end with a correction of their charge
	falseViews bool                        // gossip shows some members for some time that a live one is gone
	overlaps   bool                        // a member is started again while its last boot still runs
	removals   bool                        // silent members are soon removed from the roster
	operator   *rand.Rand                  // decides when members are told to forget others; nil: never
	hidden     map[[2]string]time.Duration // until when the first does not see the second
	deaf       map[simReach]bool           // which boots of a member another one cannot reach
	lending    *simLending                 // owners lend slices; nil: they do not

	// What gossip knows.
	members map[string]*simMember
	expect  []string // what members are told to form a cluster of

	history  *simHistory
	failure  string
	trace    []string
	tracing  bool
	counters simCounters
}

// simReach is a member and a boot of another one.
type simReach struct {
	name string
	boot ID
}

// simMember is a member, whether it runs or not.
type simMember struct {
	name  string
	state MemberState
	node  *simNode      // nil: it does not run
	old   *simNode      // an earlier boot that still runs
	ended time.Duration // when it stopped
	left  bool
	boots uint64 // the last boot
}

// simCounters count what happened, to show that the faults are real.
type simCounters struct {
	moves, takeovers, claims, losses, denied, exact, fallback, repaid, crashes, pauses, cuts, joins, leaves, large, small int
	settles, falseViews, overlaps, orders, removed                                                                        int

	lent, returned, expired int // slices
	sliced, corrected, kept int // calls that holders admitted, and of those that they reserved: that ended in the slice, and that its owner kept
	recalled                int // slices, before a denial
	repeated, late          int // returns that came again, or after the slice had expired
	elsewhere, former       int // returns to another owner than the lender, and to members that do not decide
}

func (c *simCounters) add(d *simCounters) {
	c.moves += d.moves
	c.takeovers += d.takeovers
	c.claims += d.claims
	c.losses += d.losses
	c.denied += d.denied
	c.exact += d.exact
	c.fallback += d.fallback
	c.repaid += d.repaid
	c.crashes += d.crashes
	c.pauses += d.pauses
	c.cuts += d.cuts
	c.joins += d.joins
	c.leaves += d.leaves
	c.large += d.large
	c.small += d.small
	c.settles += d.settles
	c.falseViews += d.falseViews
	c.overlaps += d.overlaps
	c.orders += d.orders
	c.removed += d.removed
	c.lent += d.lent
	c.sliced += d.sliced
	c.returned += d.returned
	c.expired += d.expired
	c.recalled += d.recalled
	c.repeated += d.repeated
	c.late += d.late
	c.elsewhere += d.elsewhere
	c.former += d.former
	c.corrected += d.corrected
	c.kept += d.kept
}

func newSim(seed uint64, broken bug) *sim {
	s := &sim{
		rng: rand.New(rand.NewPCG(seed, 0x9e3779b97f4a7c15)), broken: broken, cut: map[[2]string]bool{}, joined: map[[2]string]time.Duration{}, hidden: map[[2]string]time.Duration{}, deaf: map[simReach]bool{}, members: map[string]*simMember{},
		delay: time.Millisecond,
	}
	s.o = Defaults(simPartitions)
	s.o.Contact, s.o.Forget, s.o.MaxTransfers = 4*time.Second, 9*time.Second, 3
	s.history = newSimHistory(s)
	return s
}

// at schedules f after a delay.
func (s *sim) at(delay time.Duration, f func()) {
	s.nextNo++
	heap.Push(&s.queue, simEvent{at: s.now + max(delay, 0), no: s.nextNo, run: f})
}

// runFor runs all events of a span of time.
func (s *sim) runFor(d time.Duration) {
	end := s.now + d
	for len(s.queue) > 0 && s.queue[0].at <= end && s.failure == "" {
		e := heap.Pop(&s.queue).(simEvent)
		s.now = e.at
		e.run()
	}
	s.now = end
}

// fail ends the run.
func (s *sim) fail(format string, args ...any) {
	if s.failure == "" {
		s.failure = fmt.Sprintf("at %v: ", s.now) + fmt.Sprintf(format, args...)
	}
}

// logf keeps the last events for the report of a failure.
func (s *sim) logf(format string, args ...any) {
	if s.tracing {
		s.trace = append(s.trace, fmt.Sprintf("%10v ", s.now.Round(time.Microsecond))+fmt.Sprintf(format, args...))
	}
}

// report describes a failure. If it names a partition, the last events are those of
// this partition and of no partition.
func (s *sim) report(lines int) string {
	var trace []string
	p := partitionName.FindString(s.failure)
	for _, line := range s.trace {
		if q := partitionName.FindString(line); p == "" || q == "" || p == q {
			trace = append(trace, line)
		}
	}
	return s.failure + "\n" + strings.Join(trace[max(0, len(trace)-lines):], "\n")
}

var partitionName = regexp.MustCompile(`\bp[0-9]+\b`)

func (s *sim) chance(p float64) bool { return s.rng.Float64() < p }

func (s *sim) between(lo, hi time.Duration) time.Duration {
	return lo + time.Duration(s.rng.Int64N(int64(hi-lo)+1))
}

// names returns the names of all members, sorted.
func (s *sim) names() []string {
	names := make([]string, 0, len(s.members))
	for name := range s.members {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// transmit delivers something from one boot to another, late, several times or not
// at all.
func (s *sim) transmit(from *simNode, to ID, deliver func(*simNode)) {
	target := s.members[to.Name]
	copies := 1
	if s.chance(s.repeat) {
		copies = 2
	}
	for range copies {
		if s.chance(s.loss) {
			continue
		}
		s.at(s.between(50*time.Microsecond, s.delay), func() {
			n := target.node
			if target.old != nil && target.old.id == to {
				n = target.old
			}
			if n == nil || s.cut[[2]string{from.name, to.Name}] || s.deaf[simReach{from.name, n.id}] || s.deaf[simReach{n.name, from.id}] {
				return
			}
			n.do(func() { deliver(n) })
		})
	}
}

// hashTargets names owner and heir by rendezvous hashing.
type hashTargets []string

func (h hashTargets) Owner(p int) string { return h.rank(p, "") }
func (h hashTargets) Heir(p int) string  { return h.rank(p, h.Owner(p)) }

func (h hashTargets) rank(p int, except string) string {
	best, name := uint64(0), ""
	for _, m := range h {
		x := uint64(p+1) * 0x9e3779b97f4a7c15
		for _, c := range []byte(m) {
			x = (x ^ uint64(c)) * 0xbf58476d1ce4e5b9
			x ^= x >> 29
		}
		if m != except && x >= best {
			best, name = x, m
		}
	}
	return name
}

// view returns what gossip shows to a member, at best: who runs, who has stopped
// lately, and who is on the other side of a split and was not missed yet.
func (s *sim) view(n *simNode) View {
	var v View
	var serving hashTargets
	for _, name := range s.names() {
		m := s.members[name]
		if m.left || m.node == nil && s.now-m.ended > 3*time.Second || n.misses(name) || s.now < s.hidden[[2]string{n.name, name}] {
			continue
		}
		if n.name != name && s.faults && s.chance(0.1) {
			continue // views disagree
		}
		v.Members = append(v.Members, Member{ID: ID{name, m.boots}, State: m.state})
		if m.state == Serving {
			serving = append(serving, name)
		}
	}
	v.Targets = serving
	return v
}
