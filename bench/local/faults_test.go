// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

// long skips a test that takes as long as nodes need to miss or find each other.
func long(t *testing.T) {
	t.Helper()
	if testing.Short() {
		t.Skip("takes as long as it takes to miss a member")
	}
	t.Parallel()
}

// checkMarks wants marks with these texts, in order, that all took effect.
func checkMarks(t *testing.T, got result, want ...string) {
	t.Helper()
	if got.err != nil {
		t.Errorf("Run = %v, want nil", got.err)
	}
	var texts []string
	for _, m := range got.record.Marks {
		texts = append(texts, m.Text)
		if m.EffectiveAt < m.At || m.Problem != "" || m.Node == "" || m.Kind == "" {
			t.Errorf("mark %+v, want that it took effect", m)
		}
	}
	if !slices.Equal(texts, want) {
		t.Errorf("marks = %q, want %q", texts, want)
	}
}

func TestKillAndJoinAgain(t *testing.T) {
	long(t)
	r := startCluster(t, 3, nil)
	before := r.Nodes()
	got := r.run(1, "kill 2@300ms")
	checkMarks(t, got, "kill bench-2")
	if m := got.record.Marks[0]; m.At < 300*time.Millisecond || m.At > 10*time.Second || m.EffectiveAt <= m.At {
		t.Errorf("mark %+v, want one at 300ms and its effect after it", m)
	}
	if ring := r.ringOf(); ring != "1 3" || r.Nodes()[1].PID != 0 {
		t.Errorf("ring = %s, nodes %+v, want 1 3 and that bench-2 is down", ring, r.Nodes())
	}
	if log, err := readTail(r.allNodes()[1].latest().logPath, 0); err != nil || strings.Contains(log, "shutting down") {
		t.Errorf("log of bench-2 = %s, %v, want no goodbye", log, err)
	}
	// A plan begins with all nodes.
	if _, err := r.startNode(r.allNodes()[1]); err != nil {
		t.Fatal(err)
	}
	got = r.run(2, "kill 2@100ms", "join 2@100ms")
	checkMarks(t, got, "kill bench-2", "join bench-2")
	after := r.Nodes()
	if ring := r.ringOf(); ring != "1 2 3" || after[1].PID == before[1].PID || after[1].HTTP != before[1].HTTP || after[1].GRPC != before[1].GRPC {
		t.Errorf("ring = %s, nodes %+v, want 1 2 3 and another process where bench-2 was, %+v", ring, after, before)
	}
	if err := r.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
}

func TestPortInUseWhileItsNodeIsDown(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 1, nil)
	n := r.allNodes()[0]
	n.latest().kill()
	l, err := net.Listen("tcp", r.HTTPAddrs()[0])
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	ended := make(chan error, 1)
	go func() {
		_, err := r.startNode(n)
		ended <- err
	}()
	waittest.Until(t, "a try", func() bool {
		log, err := os.ReadFile(filepath.Join(r.Dir(), "bench-1.log"))
		return err == nil && strings.Contains(string(log), "address already in use")
	})
	_ = l.Close()
	if err := <-ended; err != nil || r.ringOf() != "1" {
		t.Errorf("bring = %v, want nil when the port is free again", err)
	}
}

func TestPortInUseByAJoiningNode(t *testing.T) {
	long(t)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	picked := 0
	r := startCluster(t, 1, func(o *Options) {
		o.pickPorts = func() (ports, error) {
			p, err := freePorts()
			if picked++; picked == 2 {
				p.http = l.Addr().(*net.TCPAddr).Port
			}
			return p, err
		}
	})
	checkMarks(t, r.run(1, "join @0s"), "join bench-2")
	if ring := r.ringOf(); ring != "1 2" || picked != 3 {
		t.Errorf("ring = %s after %d tries for ports, want 1 2 after 3", ring, picked)
	}
}

func TestPause(t *testing.T) {
	long(t)
	r := startCluster(t, 3, nil)
	pid := r.Nodes()[0].PID
	got := r.run(1, "pause 1@100ms+6s")
	checkMarks(t, got, "pause bench-1 for 6s")
	if m := got.record.Marks[0]; m.EffectiveAt-m.At < 6*time.Second {
		t.Errorf("mark %+v, want at least 6s", m)
	}
	if ring, n := r.ringOf(), r.Nodes()[0]; ring != "1 2 3" || n.PID != pid || n.Paused {
		t.Errorf("ring = %s, %+v, want 1 2 3, and process %d, which runs", ring, n, pid)
	}
	if log, err := os.ReadFile(r.allNodes()[1].latest().logPath); err != nil || !strings.Contains(string(log), "serving=2") {
		t.Errorf("bench-2 did not miss bench-1: %v\n%s", err, log)
	}
	// A short one is not even missed.
	checkMarks(t, r.run(1, "pause 2@0s+200ms"), "pause bench-2 for 200ms")
}

// TestPauseEachInterval: the node stands still again and again, and runs afterwards.
func TestPauseEachInterval(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 1, nil)
	p := mustPlan(t, 1, "pause 1@0s+50ms/100ms")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, time.Now(), p)
		ended <- result{record, err}
	}()
	for i := range 3 {
		waittest.Until(t, fmt.Sprintf("pause %d", i+1), func() bool { return r.Nodes()[0].Paused })
		waittest.Until(t, fmt.Sprintf("the end of pause %d", i+1), func() bool { return !r.Nodes()[0].Paused })
	}
	cancel()
	got := <-ended
	if got.err != nil || len(got.record.Marks) != 1 || got.record.Marks[0].Text != "pause bench-1 for 50ms each 100ms" {
		t.Errorf("Run = %+v, %v, want one mark", got.record, got.err)
	}
	if r.Nodes()[0].Paused || get(t, "http://"+r.HTTPAddrs()[0]+"/readyz") != http.StatusOK {
		t.Error("bench-1 is paused after the run")
	}
}

// TestBusy: the processes use the processors for their time, and are gone afterwards.
func TestBusy(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 1, nil)
	p := mustPlan(t, 1, "busy 2@0s+500ms")
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	record, err := r.Run(ctx, time.Now(), p)
	if err != nil || len(record.Marks) != 1 {
		t.Fatalf("Run = %+v, %v, want one mark", record, err)
	}
	m := record.Marks[0]
	if m.Kind != Busy || m.EffectiveAt == 0 || m.Problem != "" {
		t.Errorf("mark %+v, want that it took effect", m)
	}
	before, used, found := strings.Cut(strings.TrimSuffix(m.Text, " of CPU time"), ", which used ")
	took, err := time.ParseDuration(used)
	if err != nil || !found || before != "2 busy processes for 500ms" || took < 20*time.Millisecond || took > 10*time.Second {
		t.Errorf("mark %q: %v, want the CPU time of both", m.Text, err)
	}
	if runtime.GOOS == "linux" && (record.Bench.Name != "bench" || len(record.Bench.Samples) == 0) {
		t.Errorf("usage of the bench: %+v, want samples", record.Bench)
	}
}

func TestAPauseEndsWithTheRun(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 2, nil)
	p := mustPlan(t, 2, "pause 1@0s+50s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, time.Now(), p)
		ended <- result{record, err}
	}()
	waittest.Until(t, "paused", func() bool { return r.Nodes()[0].Paused })
	cancel()
	got := <-ended
	if got.err != nil || len(got.record.Marks) != 1 || got.record.Marks[0].EffectiveAt != 0 || got.record.Marks[0].Problem != "" {
		t.Errorf("Run = %+v, %v, want one mark without an end", got.record, got.err)
	}
	if r.Nodes()[0].Paused || get(t, "http://"+r.HTTPAddrs()[0]+"/readyz") != http.StatusOK {
		t.Error("bench-1 is paused after the run")
	}
}

func TestStopDuringAPause(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 2, nil)
	p := mustPlan(t, 2, "pause 1@0s+50s")
	ended := make(chan error, 1)
	go func() {
		_, err := r.Run(t.Context(), time.Now(), p)
		ended <- err
	}()
	waittest.Until(t, "paused", func() bool { return r.Nodes()[0].Paused })
	if err := r.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	if err := <-ended; err == nil || !strings.Contains(err.Error(), errStopped.Error()) {
		t.Errorf("Run = %v, want %v", err, errStopped)
	}
	r.allGone()
}

func TestRollingRestart(t *testing.T) {
	long(t)
	r := startCluster(t, 3, nil)
	before := r.Nodes()
	got := r.run(3, "restart rolling@100ms/300ms")
	checkMarks(t, got, "restart bench-1", "restart bench-2", "restart bench-3")
	for i, m := range got.record.Marks[1:] {
		if last := got.record.Marks[i]; m.At < last.EffectiveAt+300*time.Millisecond {
			t.Errorf("mark %+v began before 300ms after %+v", m, last)
		}
	}
	if ring := r.ringOf(); ring != "1 2 3" {
		t.Errorf("ring = %s, want 1 2 3", ring)
	}
	for i, n := range r.Nodes() {
		if n.PID == before[i].PID || n.PID == 0 || n.GRPC != before[i].GRPC || alive(before[i].PID) {
			t.Errorf("after %+v comes %+v, want another process at the same address", before[i], n)
		}
	}
	if u := got.record.Nodes; runtime.GOOS == "linux" && (len(u) != 3 || u[0].CPU <= 0) {
		t.Errorf("use = %+v, want processor time of three nodes", u)
	}
	if err := r.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
}

func TestARunThatEndsTooEarly(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 2, nil)
	p := mustPlan(t, 2, "restart rolling@0s", "kill 2@50s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, time.Now(), p)
		ended <- result{record, err}
	}()
	waittest.Until(t, "a restart", func() bool { return len(r.Marks()) == 1 })
	cancel()
	got := <-ended
	if got.err == nil || got.err.Error() != "restart bench-2: "+errRunEnded.Error() {
		t.Errorf("Run = %v, want that bench-2 was not restarted", got.err)
	}
	if m := got.record.Marks; len(m) != 2 || m[0].Node != "bench-1" || m[0].EffectiveAt != 0 || m[0].Problem != "" {
		t.Errorf("marks = %+v, want one of bench-1, without an end, and one of bench-2", m)
	}
	for _, n := range r.Nodes() {
		if n.PID == 0 || get(t, "http://"+n.HTTP+"/readyz") != http.StatusOK {
			t.Errorf("%+v, want that all nodes are ready after the run", n)
		}
	}
}

func TestLeaveAndJoin(t *testing.T) {
	long(t)
	r := startCluster(t, 2, nil)
	got := r.run(4, "leave 2@100ms", "join @100ms", "join 2@1s", "join @1s")
	if got.err != nil {
		t.Fatal(got.err)
	}
	var texts []string
	for _, m := range got.record.Marks {
		texts = append(texts, m.Text)
	}
	slices.Sort(texts)
	if want := []string{"join bench-2", "join bench-3", "join bench-4", "leave bench-2"}; !slices.Equal(texts, want) {
		t.Errorf("marks = %q, want %q", texts, want)
	}
	if ring := r.ringOf(); ring != "1 2 3 4" {
		t.Errorf("ring = %s, want 1 2 3 4", ring)
	}
	if runtime.GOOS != "linux" {
		return
	}
	if len(got.record.Nodes) != 4 || got.record.Nodes[3].Samples[0].RSS != 0 || got.record.Nodes[3].PeakRSS == 0 {
		t.Errorf("use = %+v, want four nodes, the last one late", got.record.Nodes)
	}
}

func TestFaultThatCannotBeApplied(t *testing.T) {
	long(t)
	r := startCluster(t, 2, nil)
	// The plan is right when it begins, and not when bench-2 has crashed.
	p := mustPlan(t, 2, "kill 2@1s", "restart rolling@2s")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, time.Now(), p)
		ended <- result{record, err}
	}()
	waittest.Until(t, "a crash", func() bool {
		if ch, _, ok := r.allNodes()[1].runningChild(); ok {
			_ = ch.process.Kill()
		}
		return len(r.Marks()) > 0
	})
	waittest.Until(t, "a problem", func() bool { return slices.ContainsFunc(r.Marks(), func(m Mark) bool { return m.Problem != "" }) })
	cancel()
	got := <-ended
	if got.err == nil || !strings.Contains(got.err.Error(), "kill bench-2: bench-2 is down") || !strings.Contains(got.err.Error(), "bench-2 crashed") {
		t.Errorf("Run = %v, want a crash, and that bench-2 could not be killed", got.err)
	}
}

func TestResources(t *testing.T) {
	needsLinux(t)
	t.Parallel()
	r := startCluster(t, 2, nil)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	start := time.Now().Add(100 * time.Millisecond)
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, start, nil)
		ended <- result{record, err}
	}()
	asked := 0
	waittest.Until(t, "two seconds", func() bool {
		for range 50 {
			asked++
			get(t, "http://"+r.HTTPAddrs()[0]+"/metrics")
		}
		return time.Since(start) > 2100*time.Millisecond
	})
	cancel()
	took := time.Since(start)
	got := <-ended
	if got.err != nil || got.record.Note != "" || len(got.record.Marks) != 0 || len(got.record.Nodes) != 2 {
		t.Fatalf("Run = %+v, %v, want two nodes", got.record, got.err)
	}
	for _, n := range got.record.Nodes {
		if len(n.Samples) < 4 { // 0 s, 1 s, 2 s, and the end
			t.Errorf("%s has %d samples, want at least 4", n.Name, len(n.Samples))
		}
		last := Sample{}
		for i, s := range n.Samples {
			if s.At < last.At || s.CPU < last.CPU || s.RSS < 5<<20 || s.RSS > 1<<30 {
				t.Errorf("%s: sample %d is %+v after %+v, want 5 MiB to 1 GiB and never less time", n.Name, i, s, last)
			}
			if i < 3 && s.At < time.Duration(i)*time.Second {
				t.Errorf("%s: sample %d at %s, want %d s", n.Name, i, s.At, i)
			}
			last = s
		}
		if n.CPU != last.CPU || n.CPU > 64*took || n.PeakRSS < last.RSS {
			t.Errorf("%s: CPU %s, peak %d, want those of the samples, and less than %s", n.Name, n.CPU, n.PeakRSS, 64*took)
		}
	}
	if first, second := got.record.Nodes[0].CPU, got.record.Nodes[1].CPU; first <= second || got.record.CPU() != first+second {
		t.Errorf("CPU = %s after %d requests, and %s without, together %s", first, asked, second, got.record.CPU())
	}
}
