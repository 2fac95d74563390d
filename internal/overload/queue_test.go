// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math/rand/v2"
	"time"
)

// processors is a simulated process: a queue of calls, served in their order. What is
// refused is refused when its turn comes, as a handler does it.
type processors struct {
	number         int
	answer, refuse time.Duration // processor time of a call
	most           int           // calls in the queue: more are not read yet; 0: any number
	// running reports whether the process has processors at a millisecond. Nil: always.
	running func(ms int) bool

	shedder Shedder
	random  *rand.Rand
	queue   []int         // when each call arrived, in milliseconds
	spare   time.Duration // processor time that is left, or was used too much
	ms      int
	m       Sample // since the last one

	answered, refused int
	slowest           int // milliseconds that an answered call waited
	share             int64
}

func newProcessors(answer, refuse time.Duration) *processors {
	return &processors{number: 2, answer: answer, refuse: refuse, random: rand.New(rand.NewPCG(1, 2))}
}

// run simulates a time with so many new calls each millisecond, and counts anew.
func (p *processors) run(d time.Duration, perMS float64) {
	p.answered, p.refused, p.slowest = 0, 0, 0
	due := 0.0
	for range int(d / time.Millisecond) {
		p.ms++
		for due += perMS; due >= 1; due-- {
			if p.most == 0 || len(p.queue) < p.most {
				p.queue = append(p.queue, p.ms)
			}
		}
		if p.running == nil || p.running(p.ms) {
			p.spare += time.Duration(p.number) * time.Millisecond
		}
		p.work()
		if p.m.Elapsed += time.Millisecond; p.m.Elapsed == 20*time.Millisecond {
			p.m.Processors = p.number
			p.share = p.shedder.Update(p.m)
			p.m = Sample{}
		}
	}
}

func (p *processors) work() {
	for len(p.queue) > 0 && p.spare > 0 {
		waited := p.ms - p.queue[0]
		p.queue = p.queue[1:]
		p.m.Waits += time.Duration(waited) * time.Millisecond
		p.m.Runs++
		took := p.answer
		if p.random.Int64N(Whole) < p.share {
			took = p.refuse
			p.refused++
		} else {
			p.answered++
			p.slowest = max(p.slowest, waited)
		}
		p.spare -= took
		p.m.CPU += took
		p.m.Calls += took / 2
	}
	if len(p.queue) == 0 {
		p.spare = min(p.spare, 0) // it idles
	}
}
