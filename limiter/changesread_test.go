// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"fmt"
	"testing"
	"time"
)

// readNode is an owner of a root with its heir.
type readNode struct {
	t           testing.TB
	owner, heir *Engine
	set         *LimitSet
	writer      StateWriter
	part        int
	now         Time
}

func newReadNode(t testing.TB) *readNode {
	n := &readNode{t: t, owner: New(Options{}), heir: New(Options{}), part: PartitionOf("acme"), now: Time{Mono: 1, Wall: 1}}
	n.set = tokens(t, n.owner)
	n.owner.Track(n.part, true)
	n.heir.Close(n.part)
	return n
}

func readKey(i int) string { return fmt.Sprintf("acme/%d", i) }

func (n *readNode) request(i int, id string, set *LimitSet) *Request {
	r := requestOf(readKey(i), set)
	r.ID = id
	return r
}

func (n *readNode) must(err error) {
	n.t.Helper()
	if err != nil {
		n.t.Fatal(err)
	}
}

func (n *readNode) check(i int)   { n.must(n.owner.Check(n.now, n.request(i, "", n.set), &Decision{})) }
func (n *readNode) reserve(i int) { n.reserveAs(i, fmt.Sprint("r", i)) }
func (n *readNode) reserveAs(i int, id string) {
	n.must(n.owner.Reserve(n.now, n.request(i, id, n.set), &Decision{}))
}

func (n *readNode) settle(i int) {
	n.must(n.owner.Settle(n.now, &Usage{Key: readKey(i), ID: fmt.Sprint("r", i), InputTokens: 3, Final: true}, &Decision{}))
}

func (n *readNode) cancel(i int) {
	n.must(n.owner.Cancel(n.now, readKey(i), fmt.Sprint("r", i), &Decision{}))
}

func (n *readNode) later(d time.Duration) { n.now = n.now.Add(d) }

// newMessage returns a writer of an empty message.
func (n *readNode) newMessage() *StateWriter {
	n.writer = StateWriter{}
	n.writer.begin(n.owner)
	return &n.writer
}

// atOnce returns the message of all changes after a number, read under one hold of the lock.
func (n *readNode) atOnce(after uint64) (message []byte, through uint64) {
	w, s := n.newMessage(), &n.owner.shards[n.part]
	s.Lock()
	defer s.Unlock()
	w.p, w.now = &s.partition, s.tick(n.now)
	w.count++
	for _, v := range []uint64{tagPartition, uint64(n.part), after, s.seq} {
		w.uint(v)
	}
	lengthAt := len(w.buf)
	w.buf = append(w.buf, 0, 0, 0, 0)
	w.changesFrom(s.changes.from(after))
	w.setLength(lengthAt)
	return w.Message(), s.seq
}

// inSteps reads the same in steps, and calls between before each.
func (n *readNode) inSteps(after uint64, between func(step int)) (message []byte, through uint64) {
	w, s := n.newMessage(), &n.owner.shards[n.part]
	for w.read.makeRoom(s.listed()); w.collect(s, after); {
	}
	through, result := w.beginChanges(s, n.now, n.part, after, true)
	if result != begun {
		n.t.Fatalf("result %d, want a read in steps", result)
	}
	step := 0
	for more := true; more; step++ {
		between(step)
		if !s.TryLock() {
			n.t.Fatal("the partition is locked between two steps")
		}
		s.Unlock()
		more = w.step(s)
	}
	if s.records.reading || s.reading != nil {
		n.t.Error("the read has not ended")
	}
	w.endRead()
	return w.Message(), through
}

func (n *readNode) apply(message []byte, through uint64) {
	n.t.Helper()
	r, err := n.heir.ReadChanges(message, nil)
	n.must(err)
	for r.Next() {
		n.must(n.heir.Apply(n.now, r))
	}
	n.must(r.Err())
	if got := n.heir.Seq(n.part); got != through {
		n.t.Errorf("the heir has changes up to %d, want %d", got, through)
	}
}

// state describes keys, reservations and ids of an engine.
func (n *readNode) state(e *Engine, keys int) (lines []string) {
	set := tokens(n.t, e)
	var d Decision
	for i := range keys {
		e.Peek(n.now, n.request(i, "", set), &d)
		lines = append(lines, fmt.Sprintf("%s %+v", readKey(i), d.Limits))
	}
	s := e.Stats()
	return append(lines, fmt.Sprintf("%d keys, %d ids", s.Keys+s.CopiedKeys, s.IDs+s.CopiedIDs))
}

func wantSameState(t *testing.T, what string, got, want []string) {
	t.Helper()
	for i := range want {
		if got[i] != want[i] {
			t.Fatalf("%s: %s, want %s", what, got[i], want[i])
		}
	}
}

// TestChangesReadInSteps checks that what calls change between two steps does not show: the
// message has the values of the instant in which it began, and the next one has the rest.
func TestChangesReadInSteps(t *testing.T) {
	const keys = 6 * readStep
	stepped, once := newReadNode(t), newReadNode(t)
	both := func(f func(n *readNode)) { f(stepped); f(once) }
	both(func(n *readNode) {
		for i := range keys {
			n.check(i)
			if i%2 == 0 {
				n.reserve(i)
			}
		}
		n.apply(n.atOnce(0)) // so that the list has a cut
		n.later(time.Second)
		for i := range keys {
			switch i % 6 {
			case 0:
				n.settle(i)
			case 1:
				n.check(i)
			case 2:
				n.cancel(i)
			case 3:
				n.reserve(i)
			case 4:
				n.settle(i)
				n.check(i)
			case 5:
				n.check(i)
			}
		}
	})
	after := once.heir.Seq(once.part)
	// What calls do between two steps, to keys that are written and to others.
	change := func(n *readNode, step int) {
		n.later(10 * time.Millisecond)
		for i := step; i < keys; i += 7 {
			switch i % 6 {
			case 3:
				n.settle(i)
			case 5:
				n.reserveAs(i, fmt.Sprint("new", i))
			default:
				n.check(i)
			}
			n.check(keys + i) // a new key
		}
		if step == 4 { // records without use go, and their handles are used again
			n.later(20 * time.Minute)
			n.owner.Sweep(n.now, 4*Partitions)
			n.check(2*keys + 1)
		}
	}
	steps, began := 0, stepped.now
	got, through := stepped.inSteps(after, func(step int) {
		if step < 5 {
			change(stepped, step)
		}
		steps++
	})
	want, wantThrough := once.atOnce(after)
	if through != wantThrough {
		t.Fatalf("changes until %d, want %d", through, wantThrough)
	}
	resumed := stepped.now
	stepped.now = began
	stepped.apply(got, through)
	once.apply(want, wantThrough)
	wantSameState(t, "the copy of the instant", stepped.state(stepped.heir, 3*keys), once.state(once.heir, 3*keys))
	stepped.now = resumed
	for step := range min(steps, 5) {
		change(once, step)
	}

	for _, n := range []*readNode{stepped, once} {
		n.apply(n.atOnce(through))
	}
	wantSameState(t, "the copy of the rest", stepped.state(stepped.heir, 3*keys), once.state(once.heir, 3*keys))
	if steps < keys/readStep {
		t.Errorf("%d steps for %d keys, want at least %d", steps, keys, keys/readStep)
	}
}

// TestManyChangesAreCollectedInSteps: however many changes are listed, one hold of the lock
// collects a bounded number of them.
func TestManyChangesAreCollectedInSteps(t *testing.T) {
	const keys = 3*collectStep + 1
	n := newReadNode(t)
	for i := range keys {
		n.check(i)
	}
	var w StateWriter
	through, ok := n.owner.AppendChanges(n.now, n.part, 0, &w)
	if !ok || w.read.most != collectStep {
		t.Fatalf("ok %v, and at most %d changes were collected at once, want %d of %d", ok, w.read.most, collectStep, keys)
	}
	n.apply(w.Message(), through)
	wantSameState(t, "the copy", n.state(n.heir, keys), n.state(n.owner, keys))
}

// TestCollectedChangesThatAreForgotten: what was collected of a list that is cut off before
// the read begins is not in the message, and nothing of it stays in the writer.
func TestCollectedChangesThatAreForgotten(t *testing.T) {
	const keys = 2*collectStep + 1
	n := newReadNode(t)
	for i := range keys {
		n.check(i)
	}
	w, s := n.newMessage(), &n.owner.shards[n.part]
	w.read.makeRoom(s.listed())
	if !w.collect(s, 0) {
		t.Fatal("all was collected at once")
	}
	var other StateWriter
	through, _ := n.owner.AppendChanges(n.now, n.part, 0, &other)
	n.apply(other.Message(), through)
	n.owner.ForgetChanges(n.part, through)
	for i := range keys {
		n.check(i)
	}
	if w.collect(s, through) {
		t.Error("it goes on with a list that was cut off")
	}
	if _, result := w.beginChanges(s, n.now, n.part, through, true); result != tooMany {
		t.Fatalf("result %d, want that the changes must be collected again", result)
	}
	w.dropCollected()
	for kind := range w.seen {
		for i, word := range w.seen[kind] {
			if word != 0 {
				t.Fatalf("kind %d: word %d is %x, want that nothing is marked", kind, i, word)
			}
		}
	}
	through, ok := n.owner.AppendChanges(n.now, n.part, through, w)
	if !ok {
		t.Fatal("the changes are not listed")
	}
	n.apply(w.Message(), through)
	wantSameState(t, "the copy", n.state(n.heir, keys), n.state(n.owner, keys))
}

// TestReadIsFinishedWhenThePartitionIsReplaced: a message in progress has what the partition
// had.
func TestReadIsFinishedWhenThePartitionIsReplaced(t *testing.T) {
	const keys = 3 * readStep
	n := newReadNode(t)
	for i := range keys {
		n.check(i)
	}
	want := n.state(n.owner, keys)
	message, through := n.inSteps(0, func(step int) {
		if step == 1 {
			n.owner.Close(n.part)
			n.owner.Clear(n.part)
		}
	})
	n.apply(message, through)
	wantSameState(t, "the copy", n.state(n.heir, keys), want)
}

// TestTwoReadersOfOnePartition: both get all changes while calls go on.
func TestTwoReadersOfOnePartition(t *testing.T) {
	const keys = 8 * readStep
	n := newReadNode(t)
	for i := range keys {
		n.check(i)
	}
	other := New(Options{})
	other.Close(n.part)
	done := make(chan error, 2) // cap 2: one of each reader
	read := func(heir *Engine) {
		var w StateWriter
		for range 50 {
			w.Reset()
			if _, ok := n.owner.AppendChanges(n.now, n.part, heir.Seq(n.part), &w); !ok {
				done <- fmt.Errorf("the list does not reach back to %d", heir.Seq(n.part))
				return
			}
			r, err := heir.ReadChanges(w.Message(), nil)
			for err == nil && r.Next() {
				err = heir.Apply(n.now, r)
			}
			if err != nil {
				done <- err
				return
			}
		}
		done <- nil
	}
	go read(n.heir)
	go read(other)
	for range 10 {
		for i := range keys {
			n.check(i)
		}
	}
	for range 2 {
		n.must(<-done)
	}
	for _, heir := range []*Engine{n.heir, other} {
		var w StateWriter
		_, _ = n.owner.AppendChanges(n.now, n.part, heir.Seq(n.part), &w)
		r, err := heir.ReadChanges(w.Message(), nil)
		n.must(err)
		for r.Next() {
			n.must(heir.Apply(n.now, r))
		}
		wantSameState(t, "a copy", n.state(heir, keys), n.state(n.owner, keys))
	}
}
