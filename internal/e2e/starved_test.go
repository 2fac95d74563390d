// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// TestStarved runs busy processes beside a cluster that has little to do: it answers as
// much as the processors that are left allow, and all of it soon after they have ended.
// Without bounded queues it answers nothing after some seconds: each call is answered too
// late, and asked again.
func TestStarved(t *testing.T) {
	const (
		rate      = 5000
		processes = 8
		begin     = 5 * time.Second
		end       = 17 * time.Second
		length    = 25 * time.Second
		settling  = 3 * time.Second // after which all is as before
	)
	ps := startProcesses(t, 3)
	moves := ps.metric(t, "bucketring_ring_moves_total")
	load := ps.startOffer(t, "keys=uniform:200k tiers=plenty=1 llm=100%:ttft=100ms-300ms,speed=1000-2000", rate, length, time.Second)
	cores := func(from, to time.Duration) float64 {
		load.sleepUntil(from)
		before, began := ps.processorTime(t), time.Now()
		load.sleepUntil(to)
		return float64(ps.processorTime(t)-before) / float64(time.Since(began))
	}
	quiet := cores(2*time.Second, begin)
	startBusy(t, processes, end-begin)
	left := cores(begin+time.Second, end)
	load.wait(t)

	before, beside := load.due(2*time.Second, begin), load.due(begin+time.Second, end)
	t.Logf("before: %v, with %.2f cores", before, quiet)
	t.Logf("beside %d busy processes: %v, with %.2f cores", processes, beside, left)
	perSecond := func(calls offered, d time.Duration) float64 { return float64(calls.answered()) / d.Seconds() }
	was, is := perSecond(before, begin-2*time.Second), perSecond(beside, end-begin-time.Second)
	if was < rate/2 {
		t.Fatalf("%.0f calls are answered each second before the processes start, want about %d", was, rate)
	}
	if share := min(1, left/quiet); is < was*share*8/10 {
		t.Errorf("%.0f calls are answered each second with %.0f %% of the processor time, want at least nearly that share of %.0f", is, 100*share, was)
	}
	// What cannot be answered in time is refused at once, and no member is taken for dead.
	failed := len(beside.of(func(c *offeredCall) bool { return c.outcome == bench.Failed }))
	if fallback := len(beside.of(func(c *offeredCall) bool { return c.fallback })); failed+fallback > len(beside)/50 {
		t.Errorf("of %d calls %d failed and %d were decided in fallback, want few", len(beside), failed, fallback)
	}
	for at := end + settling; at+time.Second <= length; at += time.Second {
		if after := load.due(at, at+time.Second); after.answered() < len(after)*8/10 || len(after) < rate/2 {
			t.Errorf("%v after the busy processes have ended: %v, want nearly all of %d answered", at-end, after, rate)
		}
	}
	if n := ps.metric(t, "bucketring_ring_moves_total") - moves; n != 0 {
		t.Errorf("%.0f partitions changed their owner, want none: no member was gone", n)
	}
	if err := ps.oneView(t.Context()); err != nil {
		t.Error(err)
	}
}

// startBusy starts processes that use a processor each for a time.
func startBusy(t *testing.T, n int, length time.Duration) {
	t.Helper()
	for range n {
		cmd := exec.Command(binary(t), "bench", "busy", length.String())
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait() // returns the signal
		})
	}
}
