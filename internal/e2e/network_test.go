// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
)

// TestNetworkFaults runs three nodes in network namespaces, with a cluster key,
// and breaks the network of the third.
func TestNetworkFaults(t *testing.T) {
	n := newNetwork(t)
	keys := &keyFile{path: filepath.Join(t.TempDir(), "cluster.key")}
	first := newKey()
	keys.write(t, first)
	policies := policyDir(t)
	c := &cluster{}
	for i, name := range []string{"n1", "n2", "n3"} {
		n.host(t, name, i+1, name == "n3")
		ip := n.ip(i + 1)
		keys.readers = append(keys.readers, startProcess(t, name, n.inside(name, binary(t), "serve", "--name", name, "--http", ip+":6470", "--grpc", ip+":6471", "--gossip", ip+":6472",
			"--join", n.ip(1)+","+n.ip(2)+","+n.ip(3), "--cluster-key-file", keys.path, "--insecure", "--policy", policies)...))
		c.members = append(c.members, newMember(t, name, ip+":6470", ip+":6471"))
	}
	c.client = c.dial(t)
	for _, m := range c.members {
		ready(t, m.http)
	}
	c.awaitOneView(t, waittest.Limit)
	c.wantOneCount(t, "all", append(viaNodes(c.members, "exact"), viaClient(c.client, "exact")), 3)
	wire := n.wires["n3"]

	t.Run("another cluster key", func(t *testing.T) { c.surviveRotation(t, keys, first) })
	t.Run("50 ms and 5 % loss", func(t *testing.T) { c.surviveSlow(t, c.members[2], wire) })
	t.Run("50 ms to the owner", func(t *testing.T) {
		c.wantSlowOwnerAlone(t, c.members[2], func(stop <-chan struct{}) {
			wire.out.set(50*time.Millisecond, 0)
			<-stop
			wire.out.set(0, 0)
		})
	})
	t.Run("one way between two", func(t *testing.T) { c.surviveCut(t, n) })
	t.Run("one way to all", func(t *testing.T) {
		c.survive(t, c.members[2], fault{
			name:   "mute",
			inject: func(*testing.T) { wire.out.set(0, 100) }, // it receives, but its packets are lost
			repair: func(*testing.T) { wire.out.set(0, 0) },
		})
	})
}

// keyFile is the cluster key file of some nodes.
type keyFile struct {
	path    string
	readers []*process
}

// newKey returns a key like `openssl rand -base64 32`.
func newKey() string {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	return base64.StdEncoding.EncodeToString(key)
}

func (f *keyFile) write(t *testing.T, keys ...string) {
	t.Helper()
	if err := os.WriteFile(f.path, []byte(strings.Join(keys, "\n")+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// surviveRotation rotates the cluster key in the three steps of docs/operating.md,
// without a failed call or a fallback.
func (c *cluster) surviveRotation(t *testing.T, f *keyFile, old string) {
	callers := append(viaNodes(c.members, "plenty"), viaClient(c.client, "plenty"))
	calls := (&load{callers: callers, keys: numbered("rotation", 0, 64), workers: 2, pause: 4 * time.Millisecond}).start(t)
	next := newKey()
	inUse := statusOf(t, c.members[0].http).Cluster.Keys
	for _, step := range [][]string{{old, next}, {next, old}, {next}} {
		f.write(t, step...)
		for _, p := range f.readers {
			p.signal(t, syscall.SIGHUP)
		}
		for _, m := range c.members {
			waittest.Until(t, fmt.Sprintf("%s has %d keys", m.name, len(step)), func() bool {
				got := statusOf(t, m.http).Cluster.Keys
				return len(got) == len(step) && (got[0] == inUse[0]) == (step[0] == old)
			})
		}
	}
	c.awaitOneView(t, healTimeout)
	all := calls.end()
	t.Logf("while the key changes: %v", all)
	all.wantAnswered(t, "while the key changes")
	if n := len(all.by(client.Fallback)); n > 0 {
		t.Errorf("%d of %d calls were decided in fallback while the key changed, want none", n, len(all))
	}
}

// surviveSlow gives a member a slow and lossy network. It stays a member.
func (c *cluster) surviveSlow(t *testing.T, slow *member, w *wire) {
	others := c.but(slow)
	nearKeys := append(c.keysApart(t, others[0], slow, "slow-theirs", 16), c.keysApart(t, others[1], slow, "slow-theirs", 16)...)
	far := c.keysOf(t, slow, "slow-far", 32)
	exact := c.keysOf(t, others[1], "slow-exact", 1)[0]
	callers := append(viaNodes(others, "plenty"), viaClient(c.client, "plenty"))
	healthy := func() *load {
		return &load{callers: callers, keys: nearKeys, workers: 2, pause: 4 * time.Millisecond}
	}
	healthy().runFor(t, 300*time.Millisecond)
	before := healthy().runFor(t, 1500*time.Millisecond)

	w.out.set(50*time.Millisecond, 5)
	w.in.set(0, 5)
	during := healthy().start(t)
	problem := slowOwner(t, callers, far, func() {
		wantExactly(t, "beside a slow member", append(viaNodes(others, "exact"), viaClient(c.client, "exact")), exact)
	})
	for range 2 {
		if problem != "" {
			t.Logf("keys of the slow member: %s", problem)
			problem = slowOwner(t, callers, far, func() {})
		}
	}
	if problem != "" {
		t.Errorf("keys of the slow member, measured three times: %s", problem)
	}
	wantUndisturbed(t, "keys of others", before, during.end())
	w.out.set(0, 0)
	w.in.set(0, 0)
	c.awaitOneView(t, healTimeout)
	waittest.Until(t, "decisions of the slow member for its keys", func() bool {
		for _, call := range callers {
			if s := ask(t.Context(), call, far[0]); s.err != nil || s.owner != slow.name || s.route == client.Fallback {
				return false
			}
		}
		return true
	})
}

// slowOwner makes 1,000 calls for keys of a member that takes 50 ms and loses packets, and something
// beside them. It returns what was not as it is between losses: a packet that is lost three times in
// a row delays all on its connection by more than a second, and then calls are decided in
// fallback, rightly.
func slowOwner(t *testing.T, callers []caller, keys []string, beside func()) (problem string) {
	t.Helper()
	calls := (&load{callers: callers, keys: keys, workers: 4, pause: 4 * time.Millisecond}).start(t)
	waittest.Until(t, "1,000 calls for keys of the slow member", func() bool { return calls.count.Load() >= 1000 })
	beside()
	all := calls.end()
	t.Logf("keys of the slow member: %v", all)
	all.wantAnswered(t, "keys of the slow member")
	if p50 := all.quantile(500); p50 < 50*time.Millisecond || p50 > 400*time.Millisecond {
		return fmt.Sprintf("the median is %v, want little more than 50 ms", p50)
	}
	if fallback, lasted := all.by(client.Fallback).activeTenths(), all.activeTenths(); fallback > lasted/4 {
		return fmt.Sprintf("in %d of %d tenths of a second calls were decided in fallback, want few: it answers", fallback, lasted)
	}
	return ""
}

// surviveCut drops packets from n1 to n3 only. All stay members, because n2 reaches
// both, and n1 decides for keys of n3 in fallback.
func (c *cluster) surviveCut(t *testing.T, n *network) {
	n1, n2, n3 := c.members[0], c.members[1], c.members[2]
	nearKeys := append(c.keysOf(t, n1, "cut-ours", 16), c.keysOf(t, n2, "cut-ours", 16)...)
	far := c.keysOf(t, n3, "cut-far", 32)
	modes := c.keysOf(t, n3, "cut-mode", 3)
	near := func() *load {
		return &load{callers: append(viaNodes(members{n1, n2}, "plenty"), viaClient(c.client, "plenty")), keys: nearKeys, workers: 2, pause: 4 * time.Millisecond}
	}
	well := func() *load { // n2 and the client reach n3
		return &load{callers: []caller{viaNode(n2, "plenty"), viaClient(c.client, "plenty")}, keys: far, workers: 2, pause: 4 * time.Millisecond}
	}
	near().runFor(t, 300*time.Millisecond)
	well().runFor(t, 300*time.Millisecond)
	nearBefore, wellBefore := near().runFor(t, time.Second), well().runFor(t, time.Second)

	rule := func(action string) []string {
		return n.inside("n3", "iptables", "--wait", action, "INPUT", "--source", n.ip(1), "--jump", "DROP")
	}
	command := rule("--insert")
	must(t, command[0], command[1:]...)
	nearDuring, wellDuring := near().start(t), well().start(t)
	cut := (&load{callers: []caller{viaNode(n1, "plenty")}, keys: far, workers: 4, pause: 4 * time.Millisecond}).start(t)
	wantDeclaredFallback(t, n1, modes, len(c.members))
	// Longer than the detection time of a crash.
	for until := time.Now().Add(6 * time.Second); time.Now().Before(until); time.Sleep(100 * time.Millisecond) {
		if err := c.oneView(t.Context()); err != nil {
			t.Errorf("while n1 cannot send to n3: %v, want one view: n2 reaches both", err)
			break
		}
	}
	all := cut.end()
	wantUndisturbed(t, "keys of n1 and n2", nearBefore, nearDuring.end())
	wantUndisturbed(t, "keys of n3, not through n1", wellBefore, wellDuring.end())
	t.Logf("keys of n3, through n1: %v", all)
	all.wantAnswered(t, "keys of n3, through n1")
	if fallback := len(all.by(client.Fallback)); fallback != len(all) {
		t.Errorf("%d of %d calls for keys of n3 through n1 were decided in fallback, want all", fallback, len(all))
	}

	command = rule("--delete")
	must(t, command[0], command[1:]...)
	healed := time.Now()
	waittest.Until(t, "n1 reaches n3 again", func() bool {
		s := ask(t.Context(), viaNode(n1, "plenty"), far[0])
		return s.err == nil && s.route == client.Forward && s.owner == n3.name
	})
	t.Logf("n1 reached n3 again after %v", time.Since(healed).Round(10*time.Millisecond))
	c.awaitOneView(t, healTimeout)
}
