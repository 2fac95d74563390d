// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"runtime"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// BenchmarkLongestHold measures for how long a message of very many changes, and a snapshot,
// hold the lock of their partition at a time: the most that a check waits for them. Times
// are of the processor, so that they do not count what else the machine does. What a step
// copies after it has unlocked the partition is counted, too.
func BenchmarkLongestHold(b *testing.B) {
	const keys = 60_000
	n := newReadNode(b)
	n.newMessage()
	s := &n.owner.shards[n.part]
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	holds := map[string][]time.Duration{}
	hold := func(name string, f func()) {
		before := threadTime(b)
		f()
		holds[name] = append(holds[name], threadTime(b)-before)
	}
	after, buf := uint64(0), []byte(nil)
	for b.Loop() {
		for i := range keys {
			n.check(i)
		}
		n.writer.Reset()
		n.writer.read.makeRoom(s.listed())
		var through uint64
		more := true
		hold("begin", func() { through, _ = n.writer.beginChanges(s, n.now, n.part, after, true) })
		for more {
			hold("step", func() { more = n.writer.step(s) })
		}
		n.writer.endRead()
		n.owner.ForgetChanges(n.part, through)
		after = through

		snap := n.owner.beginSnapshot(n.now, n.part, buf[:0])
		for more = true; more; {
			hold("snapshot", func() { more = snap.step(snapshotStep, snapshotLook) })
		}
		buf = snap.out
	}
	for name, all := range holds {
		slices.Sort(all)
		b.ReportMetric(float64(all[len(all)/2].Nanoseconds())/1e3, name+"-p50-us")
		b.ReportMetric(float64(all[len(all)*999/1000].Nanoseconds())/1e3, name+"-p99.9-us")
	}
}

// threadTime returns the processor time of this thread.
func threadTime(tb testing.TB) time.Duration {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		tb.Fatal(err)
	}
	return time.Duration(t.Nano())
}
