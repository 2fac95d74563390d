// SPDX-License-Identifier: Apache-2.0

package link

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

// world simulates links to one server, in virtual time. Calls arrive at random. The
// server takes batches one after the other, and needs a time for each call.
type world struct {
	now     int64
	rng     *rand.Rand
	links   []*simLink
	turn    int              // of the link that gets the next call
	service int64            // per call, in nanoseconds
	delay   int64            // of the network, each way
	runs    func(int64) bool // whether the server has a processor; nil: always
	reads   func(int64) bool // whether the links' process has one; nil: always
	free    int64            // when the server has done what it has
	budget  int64            // for calls: their deadline is so much later; 0: 1 s

	answered []int64 // how long each answered call took, since reset
	refused  int
	late     int // calls that were not sent in time
}

type simLink struct {
	a        admission
	queue    []int64 // when each call arrived
	inFlight []simBatch
	answered int
}

type simBatch struct {
	sent  sentBatch
	calls []int64
	done  int64 // when the answer arrives
}

const simStep = int64(100 * time.Microsecond)

func newWorld(links int, perSecond int64) *world {
	w := &world{rng: rand.New(rand.NewPCG(1, uint64(links))), service: int64(time.Second) / perSecond, delay: int64(200 * time.Microsecond), now: 1}
	for range links {
		w.links = append(w.links, &simLink{a: newAdmission(512)})
	}
	return w
}

func (w *world) deadline() int64 { return cmp.Or(w.budget, int64(time.Second)) }

func (w *world) reset() { w.answered, w.refused, w.late = nil, 0, 0 }

// arrive lets calls arrive at the links, in turn.
func (w *world) arrive(calls int) {
	budget := w.deadline()
	for i := range calls {
		l := w.links[(w.turn+i)%len(w.links)]
		if !l.a.admits(w.now, len(l.queue), 0, w.now+budget) {
			w.refused++
			continue
		}
		l.queue = append(l.queue, w.now)
	}
	w.turn += calls
}

// step moves on by simStep, and does what a Link does.
func (w *world) step() {
	w.now += simStep
	if w.reads != nil && !w.reads(w.now) {
		return
	}
	for _, l := range w.links {
		for len(l.inFlight) > 0 && l.inFlight[0].done <= w.now {
			b := l.inFlight[0]
			l.inFlight = l.inFlight[1:]
			l.a.answer(w.now, b.sent, len(b.calls), len(l.inFlight) == 0 && len(l.queue) == 0)
			for _, at := range b.calls {
				w.answered = append(w.answered, w.now-at)
			}
			l.answered += len(b.calls)
		}
	}
	for _, i := range w.rng.Perm(len(w.links)) { // none is always first
		l := w.links[i]
		for len(l.queue) > 0 && (len(l.inFlight) == 0 || len(l.inFlight) < maxInFlight && !l.a.probing(l.a.lastAnswer) &&
			(len(l.queue) >= len(l.inFlight[len(l.inFlight)-1].calls) || len(l.queue) >= l.a.limit)) {
			w.send(l)
		}
	}
}

func (w *world) send(l *simLink) {
	limit := l.a.batchLimit(w.now)
	var calls []int64
	for len(l.queue) > 0 && len(calls) < limit {
		if w.now-l.queue[0] < w.deadline() {
			calls = append(calls, l.queue[0])
		} else {
			w.late++
		}
		l.queue = l.queue[1:]
	}
	if len(calls) == 0 {
		return
	}
	b := simBatch{calls: calls, sent: l.a.took(w.now, 0, len(calls), len(l.queue), len(l.queue) > 0, len(l.inFlight) > 0)}
	w.free = max(w.free, w.now+w.delay)
	for work := w.service * int64(len(calls)); work > 0; {
		if w.runs == nil {
			w.free += work
			break
		}
		if w.runs(w.free) {
			work -= simStep
		}
		w.free += simStep
	}
	b.done = w.free + w.delay
	l.inFlight = append(l.inFlight, b)
}

// offer offers so many calls per second, for a time, in clumps.
func (w *world) offer(d time.Duration, perSecond int64, clump time.Duration) {
	due := 0.0
	next := w.now
	for end := w.now + int64(d); w.now < end; w.step() {
		due += w.rng.ExpFloat64() * float64(perSecond) * float64(simStep) / 1e9
		if w.now < next {
			continue
		}
		next += max(int64(clump), simStep)
		w.arrive(int(due))
		due -= float64(int(due))
	}
}

func (w *world) p99() time.Duration {
	if len(w.answered) == 0 {
		return 0
	}
	slices.Sort(w.answered)
	return time.Duration(w.answered[len(w.answered)*99/100])
}

// wantGoodput fails unless the calls answered since reset are at least percent of what is
// possible, and the calls of each link a fair part of them.
func (w *world) wantGoodput(t *testing.T, name string, possible, percent int64) {
	t.Helper()
	if got := int64(len(w.answered)); got < possible*percent/100 {
		t.Errorf("%s: %d answered, want at least %d%% of %d (%d refused, %d late)", name, got, percent, possible, w.refused, w.late)
	}
	if w.late > len(w.answered)*3/100 {
		t.Errorf("%s: %d calls were late, %d answered", name, w.late, len(w.answered))
	}
}

// At any overload nearly all of the capacity is used, calls wait for little more than what
// is in flight, and links get equal parts.
func TestOverloadKeepsTheGoodput(t *testing.T) {
	for _, capacity := range []int64{4_000, 20_000, 100_000} {
		for _, links := range []int{1, 3, 8} {
			if capacity/int64(links) < 1_000 {
				continue // what may be in flight takes longer than the deadline
			}
			for _, tenths := range []int64{12, 20, 40, 100} {
				name := fmt.Sprintf("capacity %d, %d links, %.1f times as much", capacity, links, float64(tenths)/10)
				w := newWorld(links, capacity)
				// At first each link takes a burst.
				w.offer(2*time.Second+time.Duration(maxBurst*int64(links)*int64(time.Second)/capacity), capacity*tenths/10, 0)
				for _, l := range w.links {
					l.answered = 0
				}
				w.reset()
				w.offer(2*time.Second, capacity*tenths/10, 0)
				w.wantGoodput(t, name, 2*capacity, 95)
				// In flight are two batches per link, and as much is queued. Links that
				// wait for each other take that for the network's delay.
				inSystem := int64(links) * (2*minBatch + 2*max(minQueue, capacity/int64(links)/50))
				if got, most := w.p99(), time.Duration(inSystem*int64(time.Second)/capacity)*5/4+30*time.Millisecond; got > most {
					t.Errorf("%s: p99 %v, want at most %v", name, got, most)
				}
				least, most := w.links[0].answered, 0
				for _, l := range w.links {
					least, most = min(least, l.answered), max(most, l.answered)
				}
				if most > 2*least {
					t.Errorf("%s: a link got %d answers, another %d", name, most, least)
				}
			}
		}
	}
}

func TestNoRefusalBelowCapacity(t *testing.T) {
	for _, capacity := range []int64{4_000, 20_000, 100_000} {
		for _, clump := range []time.Duration{0, 10 * time.Millisecond, 50 * time.Millisecond} {
			w := newWorld(3, capacity)
			w.offer(5*time.Second, capacity*8/10, clump)
			if w.refused > 0 || w.late > 0 {
				t.Errorf("capacity %d, 80%% of it, each %v: %d refused, %d late of %d", capacity, clump, w.refused, w.late, len(w.answered))
			}
		}
	}
}

func TestBurstsPass(t *testing.T) {
	w := newWorld(1, 20_000)
	for range 5 {
		w.arrive(4000)
		w.offer(2*time.Second, 100, 0)
	}
	if w.refused > 0 {
		t.Errorf("%d calls of bursts on an idle link were refused", w.refused)
	}
	// Overload, a second of rest, and a burst.
	w.offer(2*time.Second, 200_000, 0)
	w.reset()
	w.offer(time.Second, 0, 0)
	w.arrive(4000)
	if w.refused > 0 {
		t.Errorf("%d calls of a burst were refused a second after an overload", w.refused)
	}
}

// Calls that come in clumps, as they do from a process that waits for a processor, do not
// leave the link idle between them.
func TestClumpsUseTheCapacity(t *testing.T) {
	for _, clump := range []time.Duration{5 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond} {
		for _, times := range []int64{2, 10} {
			w := newWorld(3, 20_000)
			w.offer(2*time.Second, 20_000*times, clump)
			w.reset()
			w.offer(3*time.Second, 20_000*times, clump)
			w.wantGoodput(t, fmt.Sprintf("%d times as much, each %v", times, clump), 60_000, 90)
		}
	}
}

// When the load ends, all is as before at once.
func TestOverloadEnds(t *testing.T) {
	w := newWorld(3, 20_000)
	w.offer(3*time.Second, 200_000, 0)
	w.offer(500*time.Millisecond, 16_000, 0)
	w.reset()
	w.offer(3*time.Second, 16_000, 0)
	if w.refused > 0 {
		t.Errorf("%d calls were refused half a second after an overload", w.refused)
	}
	if got := w.p99(); got > 60*time.Millisecond {
		t.Errorf("p99 %v half a second after an overload", got)
	}
}

// The capacity falls to a fifth and comes back, under four times the load.
func TestCapacityChanges(t *testing.T) {
	w := newWorld(3, 20_000)
	w.offer(2*time.Second, 80_000, 0)
	for range 3 {
		w.service *= 5
		w.offer(time.Second, 80_000, 0)
		w.reset()
		w.offer(2*time.Second, 80_000, 0)
		w.wantGoodput(t, "a fifth of the capacity", 8_000, 90)
		w.service /= 5
		w.offer(500*time.Millisecond, 80_000, 0)
		w.reset()
		w.offer(2*time.Second, 80_000, 0)
		w.wantGoodput(t, "the capacity is back", 40_000, 90)
	}
}

// A process that gets a tenth of a processor, in slices, has long round trips, although
// nothing is queued. Neither a small load nor an overload collapses.
func TestStarvation(t *testing.T) {
	slices := func(phase, percent int64) func(int64) bool {
		return func(now int64) bool { return (now/int64(time.Millisecond)+phase)%100 < percent }
	}
	for _, tt := range []struct {
		links          int
		percent, share int64 // of a processor; calls per second, of 40,000
		want           int64 // percent of what is possible
	}{{3, 10, 4_000, 90}, {1, 20, 8_000, 75}, {1, 40, 10_000, 90}} { // in the last one, two batches in each tenth of a second
		for _, offered := range []int64{tt.share / 2, tt.share * 3 / 4, tt.share * 2, tt.share * 10} {
			w := newWorld(tt.links, 40_000)
			w.runs, w.reads = slices(0, tt.percent), slices(50, tt.percent)
			w.offer(3*time.Second, offered, 0)
			w.reset()
			w.offer(5*time.Second, offered, 0)
			name := fmt.Sprintf("%d links: %d offered of %d that are possible", tt.links, offered, tt.share)
			w.wantGoodput(t, name, 5*min(tt.share, offered), tt.want)
			if offered <= tt.share/2 && w.refused > 0 {
				t.Errorf("%s: %d refused", name, w.refused)
			}
		}
	}
}

// A network with a delay of 25 ms each way carries what two full batches in flight do.
func TestDelay(t *testing.T) {
	for _, perSecond := range []int64{5_000, 8_000, 15_000, 100_000} {
		w := newWorld(1, 40_000)
		w.delay = int64(25 * time.Millisecond)
		w.offer(2*time.Second, perSecond, 0)
		w.reset()
		w.offer(3*time.Second, perSecond, 0)
		w.wantGoodput(t, fmt.Sprintf("%d a second", perSecond), 3*min(perSecond, 17_000), 85)
		if perSecond < 10_000 && w.refused > 0 {
			t.Errorf("%d a second: %d refused", perSecond, w.refused)
		}
	}
}

// A call that would wait past its deadline is refused.
func TestRefusedByDeadline(t *testing.T) {
	w := newWorld(1, 20_000)
	w.budget = int64(50 * time.Millisecond)
	w.offer(time.Second, 30_000, 0)
	w.reset()
	w.offer(2*time.Second, 30_000, 0)
	if w.refused == 0 {
		t.Error("nothing was refused")
	}
	// What is in flight takes 2*minBatch calls; what is admitted adds at most half of the
	// budget to that.
	if got, most := w.p99(), 2*minBatch*50*time.Microsecond+25*time.Millisecond; got > most {
		t.Errorf("p99 %v, want at most %v", got, most)
	}
}

func TestUrgentCallsCount(t *testing.T) {
	a := newAdmission(512)
	now := int64(time.Second)
	for range 100 { // batches with as many urgent calls as others, 10,000 a second
		s := a.took(now, 128, 128, 100, true, true)
		now += 25_600_000
		a.answer(now, s, 256, false)
	}
	if a.rate < 8_000 || a.rate > 12_000 {
		t.Fatalf("rate = %d, want about 10,000", a.rate)
	}
	if got, want := a.wait(now, 500), int64(100*time.Millisecond); got < want*8/10 || got > want*12/10 {
		t.Errorf("500 calls wait for %v, want about %v: half of the answers are for urgent calls", time.Duration(got), time.Duration(want))
	}
	if !a.admits(now, 0, 900, now+int64(time.Second)) {
		t.Error("refused behind 90 ms of urgent calls")
	}
	if a.admits(now, 0, 1500, now+int64(time.Second)) {
		t.Error("admitted behind 150 ms of urgent calls")
	}
}

func BenchmarkAdmits(b *testing.B) {
	a := newAdmission(512)
	b.ReportAllocs()
	for b.Loop() {
		a.admits(1, maxBurst, 0, 1<<40)
	}
}
