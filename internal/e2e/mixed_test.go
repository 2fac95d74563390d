// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// taggedBinary builds a binary that claims to speak other versions of the protocol between
// members, see rpc/internal/handshake.
func taggedBinary(t *testing.T, tag string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	path := filepath.Join(t.TempDir(), tag)
	// With -trimpath it uses the packages that make build has compiled.
	cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-tags", tag, "-o", path, "./cmd/bucketring")
	cmd.Dir, cmd.Env = root, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build with the tag %s: %v\n%s", tag, err, out)
	}
	return path
}

// startMixed starts a cluster of one node for each binary. It is founded by the first ones.
func startMixed(t *testing.T, founders int, binaries ...string) *processes {
	t.Helper()
	policies := policyDir(t)
	var join []string
	for range binaries {
		join = append(join, freeport.Test(t))
	}
	ps := &processes{}
	for i, path := range binaries {
		if i == founders {
			ps.awaitReady(t)
		}
		name, http, grpc := fmt.Sprintf("node-%d", i+1), freeport.Test(t), freeport.Test(t)
		ps.run = append(ps.run, startProcess(t, name, path, "serve", "--name", name, "--http", http, "--grpc", grpc,
			"--gossip", join[i], "--join", strings.Join(join, ","), "--bootstrap-expect", fmt.Sprint(founders), "--policy", policies))
		ps.members = append(ps.members, newMember(t, name, http, grpc))
	}
	return ps
}

// awaitReady waits until all members are ready and have one view.
func (ps *processes) awaitReady(t *testing.T) {
	t.Helper()
	for _, m := range ps.members {
		ready(t, m.http)
	}
	ps.awaitOneView(t, waittest.Limit)
}

// TestNextVersion runs a cluster of two members of this build and one whose protocol has a
// later version, and speaks the present one too. They count together, and hand over counts
// in both directions.
func TestNextVersion(t *testing.T) {
	next := taggedBinary(t, "bucketring_next")
	ps := startMixed(t, 3, binary(t), binary(t), next)
	ps.awaitReady(t)
	ps.client = ps.dial(t)
	ps.wantOneCount(t, "mixed", viaNodes(ps.members, "exact"), 10)

	for _, leaving := range []int{2, 0} { // the later version, and then this one
		m, process := ps.members[leaving], ps.run[leaving]
		keys := ps.keysOf(t, m, "mixed-"+m.name, 8)
		for _, key := range keys {
			if s := ask(t.Context(), viaNode(m, "exact"), key); s.err != nil || !s.allowed {
				t.Fatalf("%s: the first call for %s = %+v", m.name, key, s)
			}
		}
		asked := ps.but(m)[0]
		before := asked.remaining(t, keys[0], "exact", "exact")
		process.stop(t)
		ps.but(m).awaitOneView(t, waittest.Limit)
		for _, key := range keys {
			if left := asked.remaining(t, key, "exact", "exact"); left != before {
				t.Errorf("after %s has left, %d of %s are left, want %d", m.name, left, key, before)
			}
		}
		process.start(t)
		m.connect(t)
		ps.awaitReady(t)
		for _, key := range keys {
			if left := m.remaining(t, key, "exact", "exact"); left != before {
				t.Errorf("after %s is back, %d of %s are left, want %d", m.name, left, key, before)
			}
		}
	}
	for i, p := range ps.run {
		if log := p.log.tail(1 << 20); strings.Contains(log, "speaks protocol") {
			t.Errorf("%s has rejected a member:\n%s", ps.members[i].name, log)
		}
	}
}

// TestBreakingVersion adds a member that speaks only a later protocol to a cluster of this
// build. Both sides say why they reject each other, and the cluster goes on without it.
func TestBreakingVersion(t *testing.T) {
	breaking := taggedBinary(t, "bucketring_breaking")
	ps := startMixed(t, 2, binary(t), binary(t), breaking)
	old, foreign := members(ps.members[:2]), ps.members[2]
	const theirs = "node-3 speaks protocol 2 only, and this member protocol 1 only: upgrade this member"
	const ours = "node-1 speaks protocol 1 only, and this member protocol 2 only: upgrade node-1"
	for _, side := range []struct {
		m    *member
		p    *process
		text string
	}{{old[0], ps.run[0], theirs}, {foreign, ps.run[2], ours}} {
		waittest.Until(t, side.m.name+" to log why it rejects the other one", func() bool {
			return strings.Contains(side.p.log.tail(1<<20), side.text)
		})
		waittest.Until(t, side.m.name+" to show why it rejects the other one", func() bool {
			out, code := run(t, binary(t), "status", "--http", side.m.http)
			return code == 0 && strings.Contains(out, side.text)
		})
	}

	(&cluster{members: old}).wantOneCount(t, "old", viaNodes(old, "exact"), 10)
	for _, asked := range old {
		var owners []string
		for _, m := range statusOf(t, asked.http).Cluster.Members {
			if m.Partitions > 0 {
				owners = append(owners, m.Name)
			}
		}
		if !slices.Equal(owners, old.names()) {
			t.Errorf("%s: partitions are at %v, want %v", asked.name, owners, old.names())
		}
	}
	if out, code := run(t, binary(t), "health", "--ready", "--http", foreign.http); code != 4 {
		t.Errorf("health --ready of the member of another version = %d, want 4: %s", code, out)
	}
	if out, code := run(t, binary(t), "health", "--safe", "--http", foreign.http); code != 4 || !strings.Contains(out, "speaks protocol 1 only") {
		t.Errorf("health --safe of the member of another version = %d, want 4 and the reason: %s", code, out)
	}
	ps.run[2].stop(t)
	old.awaitOneView(t, waittest.Limit)
}
