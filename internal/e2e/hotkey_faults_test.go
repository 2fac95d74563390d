// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

const (
	// hotRate is how often each hot key is checked per second, at all nodes in turn.
	hotRate = 1_500
	// hotLimit is the limit of each hot key, which it reaches after about 13 s. A slice that
	// is lost, with its holder or with the owner that was about to lend it, is at most what
	// one of four holders decides in a second: less than 2 % of that.
	hotLimit = 19_500
	// hotDenials is how many denials of each key end a load.
	hotDenials = 1_000
)

// hotCluster is a cluster with hot keys, which are checked at all nodes that are up.
type hotCluster struct {
	*processes
	t       *testing.T
	policy  *policy.Policy
	targets []bench.Target
	down    []atomic.Bool  // by the index of a node
	apart   map[string]int // the node at which a key is not checked, by its index
	next    atomic.Uint64

	mu      sync.Mutex
	keys    map[string]*hotKey
	refused int // checks of all keys, because of overload
}

// hotKey is what became of the checks of a key. Times are since the start of the load.
type hotKey struct {
	sent        []time.Duration // of the admitted checks
	fromSlices  int
	failed      int
	denied      int           // by the limit
	firstDenial time.Duration // when the first of these was answered; 0: there was none
}

// startHot starts a cluster of n nodes.
func startHot(t *testing.T, n int) *hotCluster {
	t.Helper()
	return newHot(t, n, func(policies string) *processes { return startProcesses(t, n, "--policy", policies) })
}

// startHotApart starts a cluster of three nodes in namespaces of a network.
func startHotApart(t *testing.T, network *network) *hotCluster {
	t.Helper()
	return newHot(t, 3, func(policies string) *processes {
		ps := &processes{}
		join := network.ip(1) + "," + network.ip(2) + "," + network.ip(3)
		for i, name := range []string{"n1", "n2", "n3"} {
			network.host(t, name, i+1, false)
			ip := network.ip(i + 1)
			ps.run = append(ps.run, startProcess(t, name, network.inside(name, binary(t), "serve", "--name", name, "--http", ip+":6470", "--grpc", ip+":6471",
				"--gossip", ip+":6472", "--join", join, "--insecure", "--policy", policies)...))
			ps.members = append(ps.members, newMember(t, name, ip+":6470", ip+":6471"))
		}
		ps.client = ps.dial(t)
		for _, m := range ps.members {
			ready(t, m.http)
		}
		ps.awaitOneView(t, waittest.Limit)
		return ps
	})
}

// newHot has a cluster of n nodes started with a policy.
func newHot(t *testing.T, n int, start func(policies string) *processes) *hotCluster {
	t.Helper()
	text := fmt.Sprintf("tiers:\n  hot:\n    limits:\n      - { dimension: requests, limit: %d, window: day, unreachable: closed }\ndefault_tier: hot\n", hotLimit)
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "policy.yaml"), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	h := &hotCluster{t: t, down: make([]atomic.Bool, n), apart: map[string]int{}, keys: map[string]*hotKey{}}
	var err error
	if h.policy, err = policy.Parse("policy.yaml", []byte(text), limiter.NewCatalog()); err != nil {
		t.Fatal(err)
	}
	h.processes = start(dir)
	for _, m := range h.members {
		to, err := target.Open("grpc:"+m.grpc, target.Options{Insecure: true, NoIDs: true, Timeout: time.Second})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = to.Close() })
		h.targets = append(h.targets, to)
		if err := target.Ready(waittest.Context(t, waittest.Limit), to); err != nil {
			t.Fatal(err)
		}
	}
	return h
}

// add has a key of an owner checked, at all nodes but one: if that is the owner, all that it
// is asked comes from holders. -1: at all nodes.
func (h *hotCluster) add(name string, owner, apart int) {
	h.t.Helper()
	key := h.keysOf(h.t, h.members[owner], name, 1)[0]
	h.keys[key], h.apart[key] = &hotKey{}, apart
}

// check sends a check to the next node that is up.
func (h *hotCluster) check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	for {
		i := int(h.next.Add(1) % uint64(len(h.targets)))
		if !h.down[i].Load() && i != h.apart[c.Key] {
			return h.targets[i].Check(ctx, c)
		}
	}
}

// event takes note of an answer.
func (h *hotCluster) event(e *bench.Event) {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.keys[e.Call.Key]
	switch {
	case errors.Is(e.Err, bench.ErrOverloaded): // it charges nothing
		h.refused++
	case e.Err != nil:
		k.failed++
	case e.Answer.Outcome == bench.Allowed:
		k.sent = append(k.sent, e.Sent)
		if e.Answer.Route == "slice" {
			k.fromSlices++
		}
	case e.Answer.Reason == "limit_exceeded":
		if k.denied++; k.firstDenial == 0 || e.Done < k.firstDenial {
			k.firstDenial = e.Done
		}
	}
}

// awaitLimits waits until all keys have reached their limit, which takes longer on a machine
// that is busy.
func (h *hotCluster) awaitLimits() {
	h.t.Helper()
	for end := time.Now().Add(2 * waittest.Limit); ; time.Sleep(slowPoll) {
		problem := h.belowLimit()
		switch {
		case problem == "":
			return
		case time.Now().After(end):
			h.t.Fatal(problem)
		}
	}
}

// belowLimit names a key that has not reached its limit, "" if there is none.
func (h *hotCluster) belowLimit() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	for key, k := range h.keys {
		if k.denied < hotDenials {
			return fmt.Sprintf("%s has not reached its limit: %d admitted, %d denied, %d failed, %d of all keys refused", key, len(k.sent), k.denied, k.failed, h.refused)
		}
	}
	return ""
}

// run checks the keys until all have reached their limit, while the faults happen, and
// returns what the auditor says of the answers and of the usage in the end.
func (h *hotCluster) run(faults func()) *audit.Report {
	h.t.Helper()
	arrivals, err := bench.Poisson(float64(hotRate*len(h.keys)), 1)
	if err != nil {
		h.t.Fatal(err)
	}
	var keys []string
	for key := range h.keys {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	began := time.Now()
	limits := suite.PolicyAuditOptions(h.policy, began, true)
	limits.ClockSkew, limits.Members = time.Millisecond, len(h.members)
	auditor, err := audit.New(limits)
	if err != nil {
		h.t.Fatal(err)
	}
	ctx, stop := context.WithTimeout(h.t.Context(), 4*waittest.Limit)
	defer stop()
	var result *bench.Result
	done := make(chan struct{})
	n := 0
	go func() {
		defer close(done)
		result, _ = bench.Run(ctx, bench.Options{ // its error is that of ctx
			Target: bench.CheckFunc(h.check), Arrivals: arrivals, MaxLag: time.Second,
			Workload: bench.WorkloadFunc(func(c *bench.Call) bool {
				n++
				c.Key, c.Tier, c.ID, c.Requests = keys[n%len(keys)], "hot", fmt.Sprint("hot-", n), 1
				return true
			}),
			OnEvent: func(e bench.Event) {
				auditor.Add(&e)
				h.event(&e)
			},
		})
	}()
	time.Sleep(2 * time.Second)
	faults()
	h.awaitLimits()
	stop()
	<-done
	if result == nil {
		h.t.Fatal("there is no result of the load")
	}
	h.awaitNoSlices()
	for _, key := range keys {
		sent := time.Since(result.Started)
		used, err := h.up().ReadUsage(waittest.Context(h.t, waittest.Limit), key, "hot", "")
		if err != nil {
			h.t.Fatal(err)
		}
		auditor.AddFinalUsage(audit.KeyUsage{Key: key, Tier: "hot", Used: used, Sent: sent, Done: time.Since(result.Started)})
	}
	return auditor.Report()
}

// up returns a node that is up.
func (h *hotCluster) up() bench.UsageReader {
	for i, to := range h.targets {
		if !h.down[i].Load() {
			return to.(bench.UsageReader)
		}
	}
	h.t.Fatal("no node is up")
	return nil
}

// awaitNoSlices waits until no node holds a slice or waits for its return, and those that
// nobody returns are over.
func (h *hotCluster) awaitNoSlices() {
	h.t.Helper()
	waittest.Until(h.t, "all slices to be returned or over", func() bool {
		for i, m := range h.members {
			if h.down[i].Load() {
				continue
			}
			if s := statusOf(h.t, m.http).Slices; s.Held+s.Lent+s.PendingReturns > 0 {
				return false
			}
		}
		return true
	})
}

// awaitHolder waits until a node holds a slice, but not for long: on a busy machine a key is
// not hot at every moment, and the limits end.
func (h *hotCluster) awaitHolder(i int) {
	h.t.Helper()
	for end := time.Now().Add(3 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if statusOf(h.t, h.members[i].http).Slices.Held > 0 {
			return
		}
	}
	h.t.Logf("%s holds no slice", h.members[i].name)
}

// wantExact checks that no limit was exceeded by more than a bound, and no more charges lost,
// whatever happened, and that some of a limit was answered from slices and less than 10 % of it
// denied early: unless the machine was so busy that nodes refused calls, so that others got
// more than their part.
func (h *hotCluster) wantExact(r *audit.Report, bound int64) {
	h.t.Helper()
	h.t.Logf("%s", r.Summary())
	for _, d := range r.Dimensions {
		if max(d.Over, d.Missing) > bound || d.BeyondBound > 0 {
			h.t.Errorf("over-admitted %d, beyond the bound of fallback %d, lost charges %d, want at most %d, 0 and %d: %+v, %+v", d.Over, d.BeyondBound, d.Missing, bound, bound, r.Over, r.Charges)
		}
	}
	if r.DuplicateAdmissions > 0 {
		h.t.Errorf("%d calls were admitted again, want none", r.DuplicateAdmissions)
	}
	const most = hotLimit / 10 // a holder that is killed or paused costs its slices
	for key, k := range h.keys {
		before := 0
		for _, sent := range k.sent {
			if sent < k.firstDenial {
				before++
			}
		}
		early, lost := hotLimit-before-k.failed, hotLimit-len(k.sent)-k.failed
		h.t.Logf("%s: %d of %d admitted, %d of them from slices, %d failed; room at the first denial %d, in the end %d", key, len(k.sent), hotLimit, k.fromSlices, k.failed, early, lost)
		if h.refused > len(k.sent)/100 {
			h.t.Logf("%d calls were refused because of overload: what slices cost says nothing", h.refused)
			continue
		}
		if early > most || lost > most {
			h.t.Errorf("%s: room for %d at the first denial, and for %d in the end, want at most %d", key, early, lost, most)
		}
		if k.fromSlices == 0 {
			h.t.Errorf("%s: none of %d were answered from slices", key, len(k.sent))
		}
	}
}

// TestHotKeyFaults: while hot keys are answered from slices, a node is killed, paused and cut off,
// each time a holder of slices of one key and the owner of another, and all nodes are restarted.
func TestHotKeyFaults(t *testing.T) {
	t.Run("kill and pause", func(t *testing.T) {
		h := startHot(t, 5)
		const owner, killed, paused = 0, 1, 2
		h.add("of-killed-holder", owner, paused)
		h.add("of-killed-owner", killed, killed)
		h.add("of-paused-holder", owner, killed)
		h.add("of-paused-owner", paused, paused)
		h.wantExact(h.run(func() {
			h.awaitHolder(killed)
			h.processes.run[killed].kill(t)
			h.down[killed].Store(true)
			time.Sleep(2 * time.Second)
			h.awaitHolder(paused)
			h.processes.run[paused].freeze(t)
			h.down[paused].Store(true)
			time.Sleep(3 * time.Second)
			h.processes.run[paused].thaw(t)
			h.down[paused].Store(false)
		}), hotRate/10) // small charges of the last 0.1 s of an owner that is killed may be lost with it
	})
	t.Run("split", func(t *testing.T) {
		network := newNetwork(t)
		h := startHotApart(t, network)
		const owner, cut = 0, 2
		h.add("of-cut-holder", owner, -1)
		h.add("of-cut-owner", cut, -1)
		rules := func(action string) {
			for _, other := range []int{1, 2} {
				for _, match := range [][]string{{"INPUT", "--source"}, {"OUTPUT", "--destination"}} {
					command := network.inside("n3", "iptables", "--wait", action, match[0], match[1], network.ip(other), "--jump", "DROP")
					must(t, command[0], command[1:]...)
				}
			}
		}
		h.wantExact(h.run(func() {
			h.awaitHolder(cut)
			rules("--insert")
			time.Sleep(1500 * time.Millisecond) // longer than the lease of a slice
			h.down[cut].Store(true)
			time.Sleep(4 * time.Second)
			rules("--delete")
			h.awaitOneView(t, healTimeout)
			h.down[cut].Store(false)
		}), hotRate/10) // small charges of the last 0.1 s of an owner that is cut off
	})
	t.Run("rolling restart", func(t *testing.T) {
		h := startHot(t, 3)
		h.add("hot", 0, -1)
		h.wantExact(h.run(func() {
			for i, p := range h.processes.run {
				h.down[i].Store(true)
				p.stop(t)
				p.start(t)
				ready(t, h.members[i].http)
				h.down[i].Store(false)
				waittest.Until(t, "any node to be safe to lose", func() bool {
					return statusOf(t, h.members[i].http).Cluster.Replication.NotSafe == ""
				})
			}
		}), 0)
	})
}
