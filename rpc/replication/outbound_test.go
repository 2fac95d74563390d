// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"fmt"
	"testing"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
)

// TestChangesWaitForAnAnswer: while a member has not answered the last changes, more of them
// are collected for one frame. Messages are not held back, and take them along.
func TestChangesWaitForAnAnswer(t *testing.T) {
	t.Parallel()
	engine := newFakeEngine(maxWaiting)
	host, err := New(Options{
		Name: "a", Boot: 1, Engine: engine, Protocol: continuity.Defaults(maxWaiting),
		Now: func() limiter.Time { return limiter.Time{Mono: 1} }, Clock: func() time.Duration { return 0 },
	})
	if err != nil {
		t.Fatal(err)
	}
	heir := continuity.ID{Name: "b", Boot: 1}
	l := host.loop
	k := &link{host: host, to: heir, queue: make(chan *[]byte, queuedFrames)}
	k.up.Store(true)
	l.links[heir] = k
	ids := 0
	change := func(partition int) {
		ids++
		engine.Open(partition, 0)
		l.track(partition, true)
		seq, err := engine.charge(partition, fmt.Sprint(partition, ids), 1)
		if err != nil {
			t.Fatal(err)
		}
		l.queueState(&continuity.StateTransfer{From: l.self, To: heir, Partition: partition, Term: 1, Through: seq})
		l.flush()
	}
	expect := func(what string, frames int) {
		t.Helper()
		if got := len(k.queue); got != frames {
			t.Errorf("%s: %d frames, want %d", what, got, frames)
		}
		for len(k.queue) > 0 {
			<-k.queue
		}
	}
	change(0)
	expect("the first change", 1)
	change(1)
	change(2)
	expect("changes before the answer", 0)
	l.queueMessage(&continuity.Message{From: l.self, To: heir, Entries: []continuity.Entry{{Kind: continuity.Ping}}})
	l.flush()
	if n := len(l.outs[heir].states); n > 0 {
		t.Errorf("a message before the answer: %d changes still wait, want that they go with it", n)
	}
	expect("a message before the answer", 1)
	change(1)
	expect("a change after that message", 0)
	l.answered(l.outs[heir])
	l.flush()
	expect("the answer", 1)
	for i := range maxWaiting {
		change(i)
	}
	expect("many changes without an answer", 1)
	k.up.Store(false)
	l.answered(l.outs[heir])
	l.flush()
	k.up.Store(true)
	change(3)
	expect("a change after the connection was lost", 1)
}
