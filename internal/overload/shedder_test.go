// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"
)

const (
	answerTime = 50 * time.Microsecond
	perMS      = 2 * float64(time.Millisecond/answerTime) // the capacity of newProcessors
)

// TestShedderKeepsTheQueueShort: when more is asked than can be answered, the rest is
// answered at the rate that refusals leave, and in time.
func TestShedderKeepsTheQueueShort(t *testing.T) {
	const refuseTime = answerTime / 10
	for _, load := range []float64{1.2, 1.5, 2, 2.5} {
		p := newProcessors(answerTime, refuseTime)
		p.run(2*time.Second, load*perMS)
		p.run(3*time.Second, load*perMS)
		// All time is spent: answered x answerTime + (load - answered) x refuseTime.
		left := (1 - load/10) / (1 - 1.0/10)
		if got := float64(p.answered) / 3000 / perMS; got < 0.95*left {
			t.Errorf("load %v: answered %.2f of the capacity, want %.2f", load, got, left)
		}
		if p.slowest > 15 {
			t.Errorf("load %v: an answered call waited %d ms, want at most 15", load, p.slowest)
		}
	}
}

// TestShedderWithoutOverload refuses nothing below the capacity, nor in bursts.
func TestShedderWithoutOverload(t *testing.T) {
	p := newProcessors(answerTime, answerTime/2)
	for _, load := range []float64{0.1, 0.5, 0.9} {
		if p.run(time.Second, load*perMS); p.refused != 0 {
			t.Errorf("load %v: %d calls refused", load, p.refused)
		}
	}
	for range 5 { // of 1,000 calls at once
		p.queue = append(p.queue, make([]int, 1000)...)
		for i := range p.queue {
			p.queue[i] = p.ms
		}
		if p.run(time.Second, 0); p.refused != 0 || p.answered != 1000 {
			t.Errorf("burst of 1000 calls: %d answered, %d refused", p.answered, p.refused)
		}
	}
}

// TestShedderStarved: a process that gets processors for 5 ms of each 50, 100 or 150
// refuses nothing, if that is enough for its load. Calls wait up to 145 ms then.
func TestShedderStarved(t *testing.T) {
	for _, every := range []int{50, 100, 150} {
		p := newProcessors(answerTime, answerTime/2)
		p.running = func(ms int) bool { return ms%every < 5 }
		p.run(3*time.Second, 0.5*perMS*5/float64(every))
		if p.refused != 0 || p.answered == 0 {
			t.Errorf("5 ms of %d: %d answered, %d refused, want none refused", every, p.answered, p.refused)
		}
	}
}

// TestShedderRecovers: nothing is refused half a second after an overload ends, whether
// less is asked or calls take less time again.
func TestShedderRecovers(t *testing.T) {
	p := newProcessors(answerTime, answerTime/10)
	p.most = 4096
	for range 3 {
		p.run(2*time.Second, 10*perMS)
		if p.share < MaxShare/2 {
			t.Fatalf("10 times the capacity: share = %d", p.share)
		}
		p.run(500*time.Millisecond, perMS/2)
		if p.run(time.Second, perMS/2); p.refused != 0 {
			t.Errorf("half a second after the load ended, %d calls are refused", p.refused)
		}
		p.answer, p.refuse = 10*p.answer, 10*p.refuse
		if p.run(2*time.Second, perMS/2); p.refused == 0 {
			t.Error("calls that take 10 times as long: none is refused")
		}
		p.answer, p.refuse = answerTime, answerTime/10
		p.run(500*time.Millisecond, perMS/2)
		if p.run(time.Second, perMS/2); p.refused != 0 {
			t.Errorf("half a second after calls were fast again, %d are refused", p.refused)
		}
	}
}

// TestShedderDoesNotCollapse: callers that do not hold back, and refusals that cost half
// of an answer. Refusing cannot help, so it must not take all time.
func TestShedderDoesNotCollapse(t *testing.T) {
	p := newProcessors(answerTime, answerTime/2)
	p.most = 1024
	p.run(2*time.Second, 10*perMS)
	p.run(5*time.Second, 10*perMS)
	if got := float64(p.answered) / 5000 / perMS; got < 0.38 {
		t.Errorf("answered %.2f of the capacity, want 0.4", got)
	}
}

// TestShedderLeavesCallsAlone: other work fills the processors, and calls are not refused
// for it.
func TestShedderLeavesCallsAlone(t *testing.T) {
	var s Shedder
	m := Sample{Elapsed: 20 * time.Millisecond, Waits: 2 * time.Second, Runs: 100, CPU: 40 * time.Millisecond, Calls: 4 * time.Millisecond, Processors: 2}
	for range 100 {
		if share := s.Update(m); share != 0 {
			t.Fatalf("calls took a tenth of the processor time: share %d", share)
		}
	}
	m.Calls = 20 * time.Millisecond
	for range 100 {
		s.Update(m)
	}
	if s.Update(m) != MaxShare {
		t.Errorf("calls took half of the processor time: share %d", s.Update(m))
	}
}

// TestShedderRange: whatever is measured, the share is one.
func TestShedderRange(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for range 200 {
		var s Shedder
		for range 200 {
			m := Sample{
				Elapsed: time.Duration(random.Int64N(int64(random.Int64N(1e10) + 1))),
				Waits:   time.Duration(random.Int64N(int64(random.Int64N(1e15) + 1))),
				Runs:    random.Int64N(random.Int64N(1e7) + 1),
				CPU:     time.Duration(random.Int64N(1e11)), Calls: time.Duration(random.Int64N(1e11)), Processors: random.IntN(256),
			}
			if share := s.Update(m); share < 0 || share > MaxShare || s.Queued() < 0 {
				t.Fatalf("after %+v: share %d, queued %s", m, share, s.Queued())
			}
		}
	}
}

func BenchmarkUpdate(b *testing.B) {
	var s Shedder
	var bound Bound
	m := Sample{Elapsed: 20 * time.Millisecond, Waits: 100 * time.Millisecond, Runs: 100, CPU: 10 * time.Millisecond, Calls: 5 * time.Millisecond, Processors: 2}
	for b.Loop() {
		s.Update(m)
		bound.Update(m, 100)
	}
}

func ExampleShedder() {
	var s Shedder
	busy := Sample{Elapsed: 20 * time.Millisecond, Waits: 2 * time.Second, Runs: 100, CPU: 40 * time.Millisecond, Calls: 20 * time.Millisecond, Processors: 2}
	for range 10 {
		fmt.Print(s.Update(busy)*100/Whole, " % ")
	}
	// Output: 0 % 0 % 0 % 0 % 15 % 30 % 45 % 60 % 75 % 75 %
}
