// SPDX-License-Identifier: Apache-2.0

package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
)

func TestThreeNodesAreOneRing(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 3, func(o *Options) {
		o.Dir = ""
		o.PolicyText = "tiers: { only: { requests: 3/hour } }\ndefault_tier: only\n"
	})
	if got := r.ringOf(); got != "1 2 3" {
		t.Errorf("ring = %s, want 1 2 3", got)
	}
	if len(r.GRPCAddrs()) != 3 || len(r.HTTPAddrs()) != 3 || len(r.pids) != 3 {
		t.Errorf("GRPC = %v, HTTP = %v, processes %v, want three of each", r.GRPCAddrs(), r.HTTPAddrs(), r.pids)
	}
	var got []int
	for i := range 4 {
		at := r.HTTPAddrs()[i%3]
		if status := get(t, "http://"+at+"/readyz"); status != http.StatusOK {
			t.Errorf("%s/readyz = %d, want 200", at, status)
		}
		resp, err := r.http.Post("http://"+at+"/v1/check", "", strings.NewReader(`{"key":"acme"}`))
		if err != nil {
			t.Fatal(err)
		}
		_ = resp.Body.Close()
		got = append(got, resp.StatusCode)
	}
	if want := []int{200, 200, 200, 429}; !slices.Equal(got, want) {
		t.Errorf("four checks of three nodes = %v, want %v", got, want)
	}
	for _, name := range []string{"bench-1.log", "bench-2.log", "bench-3.log", "policy.yaml"} {
		if _, err := os.Stat(filepath.Join(r.Dir(), name)); err != nil {
			t.Error(err)
		}
	}
	if err := r.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	r.allGone()
	if _, err := os.Stat(r.Dir()); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the temporary directory: %v, want that it is gone", err)
	}
	for _, n := range r.Nodes() {
		if n.PID != 0 {
			t.Errorf("%s has process %d after Stop, want none", n.Name, n.PID)
		}
	}
	if err := r.Stop(); err != nil {
		t.Errorf("Stop again = %v, want nil", err)
	}
	if _, err := r.Run(t.Context(), time.Now(), nil); !errors.Is(err, errStopped) {
		t.Errorf("Run after Stop = %v, want %v", err, errStopped)
	}
}

func TestOneNodeAlone(t *testing.T) {
	t.Parallel()
	policies := filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(policies, []byte("tiers: { only: { requests: 3/hour } }\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	r := startCluster(t, 1, func(o *Options) {
		o.Policy, o.Persist, o.ExtraArgs, o.Env = policies, true, []string{"--snapshot-every", "0s"}, []string{"GOMAXPROCS=1"}
	})
	if got := r.ringOf(); got != "1" {
		t.Errorf("ring = %s, want 1", got)
	}
	if err := r.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	kept, err := os.ReadDir(filepath.Join(r.Dir(), "bench-1"))
	if err != nil || len(kept) == 0 {
		t.Errorf("the data of bench-1 = %v, %v, want a snapshot", kept, err)
	}
}

func TestTheContextStopsTheCluster(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c, err := Start(ctx, Options{Nodes: 2, Binary: binary(t), Dir: t.TempDir()})
	if err != nil {
		t.Fatal(err)
	}
	r := &tested{Cluster: c, t: t, pids: make(map[int]bool)}
	r.see()
	ended := make(chan error, 1)
	go func() {
		_, err := c.Run(context.Background(), time.Now(), nil)
		ended <- err
	}()
	waittest.Until(t, "under way", func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.mu.run != nil
	})
	if _, err := c.Run(ctx, time.Now(), nil); err == nil || !strings.Contains(err.Error(), "another run is in progress") {
		t.Errorf("a second Run = %v, want an error", err)
	}
	cancel()
	if err := <-ended; !errors.Is(err, errStopped) {
		t.Errorf("Run = %v, want %v", err, errStopped)
	}
	waittest.Until(t, "gone", func() bool {
		return !slices.ContainsFunc(c.Nodes(), func(n Node) bool { return n.PID != 0 })
	})
	if err := c.Stop(); err != nil {
		t.Errorf("Stop = %v, want nil", err)
	}
	r.allGone()
}

func TestEnvironmentSettingsAreIgnored(t *testing.T) {
	t.Setenv("BUCKETRING_POLICY", "/there/is/none.yaml")
	t.Setenv("BUCKETRING_CLUSTER_KEY_FILE", "/there/is/none.key")
	r := startCluster(t, 1, nil)
	if got := r.ringOf(); got != "1" {
		t.Errorf("ring = %s, want 1", got)
	}
}

func TestStartFails(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		edit func(*Options)
		want []string
	}{
		"options": {func(o *Options) {
			o.Nodes, o.Policy, o.PolicyText, o.StopTimeout, o.StartTimeout = 0, "a", "b", -1, -1
		}, []string{"nodes: must be 1 to 100, got 0", "both a path and a text", "start_timeout: must not be negative", "stop_timeout: must not be negative"}},
		"no binary":  {func(o *Options) { o.Binary = "/there/is/none" }, []string{"bench-1: start /there/is/none", "no such file"}},
		"bad flag":   {func(o *Options) { o.ExtraArgs = []string{"--nope"} }, []string{"ended during its start: exit status 2", "the end of its log:\n", "--nope"}},
		"bad policy": {func(o *Options) { o.PolicyText = "tiers: 7" }, []string{"ended during its start: exit status", "policy.yaml"}},
		"no time":    {func(o *Options) { o.StartTimeout = time.Millisecond }, []string{"waited", "deadline exceeded"}},
		"no cluster": {func(o *Options) {
			o.ExtraArgs, o.StartTimeout = []string{"--join", "127.0.0.1:1", "--join-timeout", "0s"}, 3*time.Second
		}, []string{"the nodes did not agree on one ring", "its ring has 1 members, want 2"}},
		"no ports": {func(o *Options) { o.pickPorts = func() (ports, error) { return ports{}, errors.New("none is free") } }, []string{"none is free"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := Options{Nodes: 2, Binary: binary(t), Dir: t.TempDir()}
			c.edit(&o)
			cluster, err := Start(t.Context(), o)
			if err == nil {
				_ = cluster.Stop()
				t.Fatal("Start = nil, want an error")
			}
			for _, want := range c.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("Start = %v, want %s", err, want)
				}
			}
			if left := childrenIn(o.Dir); len(left) > 0 {
				t.Errorf("processes %v are left", left)
			}
		})
	}
}

// childrenIn returns the processes that have a log of a directory open.
func childrenIn(dir string) (pids []int) {
	links, _ := filepath.Glob("/proc/[0-9]*/fd/1")
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && filepath.Dir(to) == dir {
			pid, _ := strconv.Atoi(strings.Split(link, "/")[2])
			pids = append(pids, pid)
		}
	}
	return pids
}

func TestPortsInUseAreReplaced(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	taken := l.Addr().(*net.TCPAddr).Port
	picked := 0
	r := startCluster(t, 2, func(o *Options) {
		o.pickPorts = func() (ports, error) {
			p, err := freePorts()
			switch picked++; picked {
			case 1:
				p.http = taken
			case 4:
				p.grpc = taken
			case 6:
				p.gossip = taken
			}
			return p, err
		}
	})
	if got := r.ringOf(); got != "1 2" || picked != 8 {
		t.Errorf("ring = %s after %d tries for ports, want 1 2 after 8", got, picked)
	}
	if got := strings.Count(r.log.String(), "trying others"); got != 3 {
		t.Errorf("the log says %d times that a port was taken, want 3:\n%s", got, r.log)
	}
}

func TestPortsThatStayInUse(t *testing.T) {
	t.Parallel()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	_, err = Start(t.Context(), Options{Nodes: 1, Binary: binary(t), Dir: t.TempDir(), pickPorts: func() (ports, error) {
		p, err := freePorts()
		p.http = l.Addr().(*net.TCPAddr).Port
		return p, err
	}})
	if !errors.Is(err, errPortTaken) || !strings.Contains(err.Error(), "address already in use") {
		t.Errorf("Start = %v, want that a port is in use", err)
	}
}

func TestStopKillsAfterTheTimeout(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 1, func(o *Options) { o.ExtraArgs, o.StopTimeout = []string{"--drain-delay", "10m"}, 200*time.Millisecond })
	began := time.Now()
	err := r.Stop()
	if err == nil || !strings.Contains(err.Error(), "bench-1 did not stop within 200ms and was killed; the end of its log:\n") || !strings.Contains(err.Error(), "shutting down") {
		t.Errorf("Stop = %v, want that it was killed, and its log", err)
	}
	if took := time.Since(began); took > patience/2 {
		t.Errorf("Stop took %s", took)
	}
	r.allGone()
}

func TestCrashes(t *testing.T) {
	t.Parallel()
	r := startCluster(t, 2, nil)
	kill := func(name string) {
		t.Helper()
		for _, n := range r.Nodes() {
			if p, err := os.FindProcess(n.PID); n.Name == name && err == nil {
				_ = p.Kill()
			}
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan result, 1)
	go func() {
		record, err := r.Run(ctx, time.Now(), nil)
		ended <- result{record, err}
	}()
	waittest.Until(t, "a mark", func() bool {
		kill("bench-2")
		return len(r.Marks()) == 1
	})
	cancel()
	got := <-ended
	if m := got.record.Marks; len(m) != 1 || m[0].Kind != Crash || m[0].Node != "bench-2" || m[0].Text != "bench-2 crashed: signal: killed" {
		t.Errorf("marks = %+v, want the crash of bench-2", m)
	}
	if got.err == nil || !strings.Contains(got.err.Error(), "bench-2 crashed: signal: killed; the end of its log:") {
		t.Errorf("Run = %v, want that bench-2 ended", got.err)
	}
	if _, err := r.Run(t.Context(), time.Now(), mustPlan(t, 2, "kill 1@1s")); err == nil || !strings.Contains(err.Error(), "bench-2 is down") {
		t.Errorf("Run with a plan = %v, want that bench-2 is down", err)
	}
	if _, err := r.Run(t.Context(), time.Now(), mustPlan(t, 3, "kill 1@1s")); err == nil || !strings.Contains(err.Error(), "the plan is for 3 nodes, got 2") {
		t.Errorf("Run with a plan for three = %v, want an error", err)
	}
	// Without a run, Stop reports it.
	waittest.Until(t, "the crash to be noticed", func() bool {
		kill("bench-1")
		return strings.Contains(r.log.String(), "bench-1 crashed")
	})
	if err := r.Stop(); err == nil || !strings.Contains(err.Error(), "bench-1 crashed") || strings.Contains(err.Error(), "bench-2 ended") {
		t.Errorf("Stop = %v, want that bench-1 ended, only", err)
	}
}

func mustPlan(t *testing.T, nodes int, faults ...string) *Plan {
	t.Helper()
	p, err := NewPlan(nodes, time.Minute, faultsOf(t, faults...)...)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// help is another process of the tests: it starts a cluster, prints the processes,
// and ends without Stop.
func help(how string) {
	c, err := Start(context.Background(), Options{Nodes: 2, Binary: os.Getenv("BENCH_LOCAL_BINARY"), Dir: os.Getenv("BENCH_LOCAL_DIR")})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	for _, n := range c.Nodes() {
		_, _ = fmt.Fprintln(os.Stdout, n.PID)
	}
	switch how {
	case "panic":
		panic("as a test may")
	case "exit":
		os.Exit(3)
	}
	select {} // to be killed
}

func TestNoNodeOutlivesItsParent(t *testing.T) {
	needsLinux(t)
	t.Parallel()
	for _, how := range []string{"panic", "exit", "killed"} {
		t.Run(how, func(t *testing.T) {
			t.Parallel()
			cmd := exec.Command(os.Args[0])
			cmd.Env = append(os.Environ(), helper+"="+how, "BENCH_LOCAL_BINARY="+binary(t), "BENCH_LOCAL_DIR="+t.TempDir())
			out, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			var pids []int
			for s := bufio.NewScanner(out); len(pids) < 2 && s.Scan(); {
				pid, err := strconv.Atoi(s.Text())
				if err != nil {
					t.Fatal(err)
				}
				pids = append(pids, pid)
			}
			if how == "killed" {
				_ = cmd.Process.Kill()
			}
			if err := cmd.Wait(); err == nil || len(pids) != 2 {
				t.Fatalf("the other process: %v, with children %v, want that it fails with two", err, pids)
			}
			for _, pid := range pids {
				waittest.Until(t, fmt.Sprintf("the end of %d", pid), func() bool { return !alive(pid) })
			}
		})
	}
}

func TestAChildStartsNoCluster(t *testing.T) {
	t.Parallel()
	// A test binary that does not understand serve runs its tests instead.
	_, err := Start(t.Context(), Options{Nodes: 1, Binary: os.Args[0], Dir: t.TempDir(), Env: []string{helper + "=exit", "BENCH_LOCAL_BINARY=" + os.Args[0]}})
	if err == nil || !strings.Contains(err.Error(), "a node cannot start a cluster") {
		t.Errorf("Start = %v, want that a node cannot start a bench", err)
	}
}

func TestReadTail(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	var many strings.Builder
	for i := range 1000 {
		fmt.Fprintf(&many, "line %d\n", i)
	}
	for _, c := range []struct {
		text string
		from int64
		want string
	}{
		{"", 0, ""},
		{"\n\n", 0, ""},
		{"one\ntwo\n", 0, "    one\n    two"},
		{"one\ntwo\n", 4, "    two"},
		{"one\ntwo\n", 8, ""},
		{"one\n" + strings.Repeat("x", 2*tailBytes), 0, "    " + strings.Repeat("x", tailBytes)},
		{"one\n" + strings.Repeat("x", tailBytes) + "\nlast", 0, "    last"},
	} {
		write(c.text)
		if got, err := readTail(path, c.from); err != nil || got != c.want {
			t.Errorf("tail of %.40q = %.60q, %v, want %.60q", c.text, got, err, c.want)
		}
	}
	write(many.String())
	got, err := readTail(path, 0)
	if lines := strings.Split(got, "\n"); err != nil || len(lines) != tailLines || lines[0] != "    line 985" || lines[tailLines-1] != "    line 999" {
		t.Errorf("tail of 1000 lines = %s, %v, want the last %d", got, err, tailLines)
	}
}
