// SPDX-License-Identifier: Apache-2.0

package node

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
)

// startCluster starts n nodes that join the first one, and waits until all are in
// the ring of each. edit may change the configuration of each.
func startCluster(t *testing.T, n int, edit func(i int, c *config.Config)) []*running {
	t.Helper()
	var nodes []*running
	for i := range n {
		nodes = append(nodes, start(t, func(c *config.Config) {
			c.Name = fmt.Sprintf("n%d", i+1)
			if i > 0 {
				c.Join = []string{nodes[0].GossipAddr()}
			}
			if edit != nil {
				edit(i, c)
			}
		}))
	}
	agree(t, nodes...)
	return nodes
}

// agree waits until exactly these nodes are in the ring of each of them.
func agree(t *testing.T, nodes ...*running) {
	t.Helper()
	if testing.Short() && len(nodes) > 1 {
		t.Skip("several members with all partitions in one process take too long under the race detector")
	}
	var names []string
	for _, n := range nodes {
		names = append(names, n.Name())
	}
	for _, n := range nodes {
		waittest.Until(t, fmt.Sprintf("the ring of %v at %s", names, n.Name()), func() bool {
			first, own := nodes[0].Status().Cluster, n.Status().Cluster
			if r := own.Replication; r == nil || len(nodes) > 1 && r.WithoutOwner+r.WithoutHeir+r.Copying+r.Moving > 0 {
				return false // partitions are on their way
			}
			return slices.Equal(own.serving(), names) && own.partitions() == ring.Partitions && own.RingDigest == first.RingDigest
		})
	}
}

// serving returns the names of members that own partitions.
func (s ClusterStatus) serving() (names []string) {
	for _, m := range s.Members {
		if m.State == "serving" && m.Partitions > 0 {
			names = append(names, m.Name)
		}
	}
	return names
}

// partitions returns the number of partitions that the members own. It is too low
// while the router still uses an earlier view.
func (s ClusterStatus) partitions() (n int) {
	for _, m := range s.Members {
		n += m.Partitions
	}
	return n
}

type checked struct {
	status       int
	Outcome      string
	Owner, Route string
	remaining    int64
}

// checkKey charges one request of a key.
func (r *running) checkKey(key string) (a checked) {
	r.t.Helper()
	resp, err := http.Post("http://"+r.HTTPAddr()+"/v1/check", "", strings.NewReader(fmt.Sprintf(`{"key":%q,"tier":"free"}`, key)))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var limits struct {
		*checked
		Limits []struct {
			Name      string
			Remaining int64
		}
	}
	limits.checked = &a
	if err := json.NewDecoder(resp.Body).Decode(&limits); err != nil {
		r.t.Fatal(err)
	}
	a.status = resp.StatusCode
	for _, l := range limits.Limits {
		if l.Name == "requests" {
			a.remaining = l.Remaining
		}
	}
	return a
}

// keyOf returns a key that a member owns.
func (r *running) keyOf(owner string) string {
	r.t.Helper()
	query := url.Values{}
	for i := range 200 {
		query.Add("key", fmt.Sprintf("root%d/user", i))
	}
	_, text := r.get("/v1/owner?" + query.Encode())
	var found struct{ Keys []struct{ Key, Owner string } }
	if err := json.Unmarshal([]byte(text), &found); err != nil {
		r.t.Fatalf("%v in %s", err, text)
	}
	for _, k := range found.Keys {
		if k.Owner == owner {
			return k.Key
		}
	}
	r.t.Fatalf("%s: %s owns none of %d keys; log:\n%s", r.Name(), owner, len(found.Keys), r.log)
	return ""
}

func TestThreeNodesAreOneLimiter(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 3, nil)
	waittest.Until(t, "each node to own about a third of the partitions", func() bool {
		for _, m := range nodes[0].Status().Cluster.Members {
			if m.Partitions < ring.Partitions/4 {
				return false
			}
		}
		return true
	})
	for _, owner := range nodes {
		key := nodes[0].keyOf(owner.Name())
		for i, asked := range nodes {
			want := checked{status: http.StatusOK, Outcome: "allowed", Owner: owner.Name(), Route: "forward", remaining: int64(9 - i)}
			if asked == owner {
				want.Route = "local"
			}
			if got := asked.checkKey(key); got != want {
				t.Errorf("%s: check %s = %+v, want %+v", asked.Name(), key, got, want)
			}
		}
	}

	// One node leaves: its keys get another owner, and no call falls back.
	leaver, rest := nodes[2], nodes[:2]
	leaver.skipLeave = false
	key := rest[0].keyOf(leaver.Name())
	if err := leaver.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if strings.Contains(leaver.log.String(), "leaving anyway") || strings.Contains(leaver.log.String(), "departure not announced") {
		t.Errorf("it did not leave cleanly:\n%s", leaver.log)
	}
	for _, n := range rest {
		if got := n.checkKey(key); got.status != http.StatusOK || got.Owner == leaver.Name() || got.Route == "fallback" {
			t.Errorf("%s: check %s after its owner has left = %+v, want another owner", n.Name(), key, got)
		}
	}
	agree(t, rest...)
	for _, n := range rest {
		waittest.Until(t, "a departure", func() bool { return len(n.Status().Cluster.Departed) > 0 })
		s := n.Status().Cluster
		if len(s.Departed) != 1 || s.Departed[0].Name != "n3" || s.Departed[0].Fate != "left" || s.Roster != 2 {
			t.Errorf("%s: departed = %+v, roster = %d, want that n3 left, 2", n.Name(), s.Departed, s.Roster)
		}
		if err := n.Ready(); err != nil {
			t.Errorf("%s: Ready = %v, want nil", n.Name(), err)
		}
	}

	// The last but one leaves: it ends the streams of the one that stays.
	leaver = rest[1]
	leaver.skipLeave = false
	if err := leaver.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if log := leaver.log.String(); strings.Contains(log, "calls cancelled") || !strings.Contains(log, "left the roster") {
		t.Errorf("it did not leave cleanly:\n%s", log)
	}
	agree(t, rest[0])
}

func TestOneCrashes(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("takes as long as it takes to miss a member")
	}
	first := start(t, nil)
	second := start(t, func(c *config.Config) { c.Name, c.Join = "n2", []string{first.GossipAddr()} })
	crashing := start(t, func(c *config.Config) { c.Name, c.Join = "n3", []string{first.GossipAddr()} })
	agree(t, first, second, crashing)
	key := first.keyOf("n3")
	began := time.Now()
	if err := crashing.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("a skipLeave shutdown took %s", took)
	}
	// Until the others detect the crash, they decide in fallback; all stay ready.
	for _, n := range []*running{first, second} {
		if got := n.checkKey(key); got.status != http.StatusOK || got.Route != "fallback" || got.Owner != n.Name() {
			t.Errorf("%s: check %s = %+v, want allowed, fallback", n.Name(), key, got)
		}
		if err := n.Ready(); err != nil {
			t.Errorf("%s: Ready = %v, want nil", n.Name(), err)
		}
	}
	for _, n := range []*running{first, second} {
		waittest.Until(t, n.Name()+" to miss n3", func() bool { return len(n.Status().Cluster.Departed) > 0 })
	}
	agree(t, first, second)
	for _, n := range []*running{first, second} {
		s := n.Status().Cluster
		if len(s.Departed) != 1 || s.Departed[0].Fate != "crashed" || s.Roster != 3 {
			t.Errorf("%s: departed = %+v, roster = %d, want that n3 crashed, 3", n.Name(), s.Departed, s.Roster)
		}
		if got := n.checkKey(key); got.Route == "fallback" {
			t.Errorf("%s: check %s = %+v, want an owner; fallbacks: %v", n.Name(), key, got, n.Status().Cluster.Fallbacks)
		}
	}
}

func TestPolicySkewIsShown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("policy%d.yaml", i)) }
	write := func(i, limit int) {
		text := fmt.Sprintf("tiers: { free: { requests: %d/min } }\n", limit)
		if err := os.WriteFile(path(i), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(0, 10)
	write(1, 20)
	nodes := startCluster(t, 2, func(i int, c *config.Config) { c.Policy = path(i) })
	for _, n := range nodes {
		waittest.Until(t, "skew", func() bool { return len(n.Status().Cluster.PolicySkew) == 2 })
		for _, group := range n.Status().Cluster.PolicySkew {
			if len(group.Members) != 1 {
				t.Errorf("%s: skew has group %+v, want one member", n.Name(), group)
			}
		}
	}
	write(1, 10)
	nodes[1].Reload()
	for _, n := range nodes {
		waittest.Until(t, "no skew", func() bool { return len(n.Status().Cluster.PolicySkew) == 0 })
		for _, m := range n.Status().Cluster.Members {
			if m.PolicyDigest.String() != n.Status().Policy.Version {
				t.Errorf("%s: policy of %s = %s, want %s", n.Name(), m.Name, m.PolicyDigest, n.Status().Policy.Version)
			}
		}
	}
	// A change of the file is detected without Reload.
	write(0, 30)
	waittest.Until(t, "skew again", func() bool { return len(nodes[1].Status().Cluster.PolicySkew) == 2 })
}

// keyFile writes a key file; each byte gives another key.
func keyFile(t *testing.T, path string, keys ...byte) string {
	t.Helper()
	var text strings.Builder
	for _, k := range keys {
		text.WriteString(base64.StdEncoding.EncodeToString([]byte(strings.Repeat(string(rune(k)), 32))) + "\n")
	}
	if err := os.WriteFile(path, []byte(text.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestKeysAreRotated(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("keys%d", i)) }
	nodes := startCluster(t, 2, func(i int, c *config.Config) { c.ClusterKeyFile = keyFile(t, path(i), 'a') })
	key := nodes[0].keyOf("n2")
	rotate := func(keys ...byte) {
		t.Helper()
		for i, n := range nodes {
			keyFile(t, path(i), keys...)
			n.Reload()
			if got := n.Status().Cluster.Keys; len(got) != len(keys) {
				t.Errorf("%s: keys = %v, want %d", n.Name(), got, len(keys))
			}
			if got := nodes[0].checkKey(key); got.Route != "forward" {
				t.Errorf("check %s = %+v, want forward; fallbacks: %v", key, got, nodes[0].Status().Cluster.Fallbacks)
			}
		}
	}
	before := nodes[0].Status().Cluster.Keys[0]
	rotate('a', 'b')
	rotate('b', 'a')
	rotate('b')
	if after := nodes[0].Status().Cluster.Keys[0]; after == before {
		t.Errorf("gossip is encrypted with %s still", after)
	}
	// A new member needs the new key, and can then reach both others.
	third := start(t, func(c *config.Config) {
		c.Name, c.ClusterKeyFile, c.Join = "n3", keyFile(t, path(2), 'b'), []string{nodes[1].GossipAddr()}
	})
	agree(t, nodes[0], nodes[1], third)
	for _, n := range nodes {
		if got := third.checkKey(third.keyOf(n.Name())); got.Route != "forward" || got.Owner != n.Name() {
			t.Errorf("check of a key of %s = %+v, want forward", n.Name(), got)
		}
	}
	// An invalid file changes nothing.
	if err := os.WriteFile(path(0), []byte("not a key\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	nodes[0].Reload()
	if got := nodes[0].Status().Cluster.Keys; len(got) != 1 {
		t.Errorf("keys after a bad file = %v, want one", got)
	}
	if log := nodes[0].log.String(); !strings.Contains(log, "cluster keys not reloaded") || strings.Contains(log, "not a key") {
		t.Errorf("log should say that the keys were not reloaded, and not show them:\n%s", log)
	}
}

func TestStrangersStayOut(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	first := start(t, func(c *config.Config) { c.ClusterKeyFile = keyFile(t, filepath.Join(dir, "keys1"), 'a') })
	for name, edit := range map[string]func(*config.Config){
		"another key":     func(c *config.Config) { c.ClusterKeyFile = keyFile(t, filepath.Join(dir, "keys2"), 'z') },
		"no key":          func(*config.Config) {},
		"another cluster": func(c *config.Config) { c.ClusterKeyFile, c.Cluster = first.config.ClusterKeyFile, "other" },
	} {
		t.Run(name, func(t *testing.T) {
			stranger := start(t, func(c *config.Config) {
				c.Name, c.Join, c.JoinTimeout = "n2", []string{first.GossipAddr()}, 300*time.Millisecond
				edit(c)
			})
			if !strings.Contains(stranger.log.String(), "none of the members to join can be reached") {
				t.Errorf("log does not say that nobody was reached:\n%s", stranger.log)
			}
			for _, n := range []*running{first, stranger} {
				if got := n.Status().Cluster.serving(); !slices.Equal(got, []string{n.Name()}) {
					t.Errorf("%s sees %v, want itself only", n.Name(), got)
				}
			}
			if s := stranger.Status().Cluster; s.Problem == "" {
				t.Error("status says nothing of a problem")
			}
			if got := stranger.checkKey("acme"); got.Route != "local" {
				t.Errorf("check = %+v, want that it decides", got)
			}
		})
	}
}

func TestTheNewerBootFences(t *testing.T) {
	t.Parallel()
	first := start(t, nil)
	second := start(t, func(c *config.Config) { c.Join = []string{first.GossipAddr()} }) // with the same name
	waittest.Until(t, "fenced", func() bool { return first.Ready() != nil })
	if err := first.Ready(); err == nil || !strings.Contains(err.Error(), "fenced") {
		t.Errorf("Ready = %v, want fenced", err)
	}
	if status, body := first.get("/readyz?verbose"); status != http.StatusServiceUnavailable || !strings.Contains(body, "fenced") {
		t.Errorf("/readyz = %d %s, want 503 fenced", status, body)
	}
	waittest.Until(t, "health", func() bool {
		health, err := healthpb.NewHealthClient(first.dial()).Check(t.Context(), &healthpb.HealthCheckRequest{})
		return err == nil && health.GetStatus() == healthpb.HealthCheckResponse_NOT_SERVING
	})
	if s := first.Status(); !s.Cluster.Fenced || s.Ready || !strings.Contains(s.NotReady, "fenced") {
		t.Errorf("status = fenced %t, ready %t %q, want fenced", s.Cluster.Fenced, s.Ready, s.NotReady)
	}
	if !strings.Contains(first.log.String(), "this node is fenced") {
		t.Errorf("log does not say so:\n%s", first.log)
	}
	if s := second.Status(); s.Cluster.Fenced || !s.Ready {
		t.Errorf("the newer one: fenced %t, ready %t, want ready", s.Cluster.Fenced, s.Ready)
	}
	// It shuts down like a node that is not in the ring.
	first.skipLeave = false
	if err := first.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

// TestTheOlderBootStaysFenced: after the newer boot of a name has ended, the older one decides
// nothing, says so, and has no place in the ring, so that nothing moves to it in vain.
func TestTheOlderBootStaysFenced(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 4, nil)
	older, others := nodes[0], nodes[1:]
	newer := start(t, func(c *config.Config) { c.Name, c.Join = "n1", []string{others[0].GossipAddr()} })
	waittest.Until(t, "fenced", func() bool { return older.Ready() != nil })
	newer.skipLeave = false
	if err := newer.ended(); err != nil {
		t.Errorf("Run of the newer one = %v, want nil", err)
	}
	for _, n := range others {
		waittest.Until(t, "a ring of the others at "+n.Name(), func() bool {
			s := n.Status().Cluster
			r := s.Replication
			return slices.Equal(s.serving(), []string{"n2", "n3", "n4"}) && r != nil && r.WithoutOwner+r.WithoutHeir+r.Copying+r.Moving == 0
		})
		if got := n.checkKey("acme"); got.status != http.StatusOK || got.Route == "fallback" {
			t.Errorf("check by %s = %+v, want that an owner allows it", n.Name(), got)
		}
	}
	if err := older.Ready(); !errors.Is(err, errFenced) {
		t.Errorf("Ready = %v, want fenced", err)
	}
	if err := older.Safe(); err == nil {
		t.Error("Safe = nil, want that the vote of a fenced node does not count")
	}
}

func TestWithoutGossipTheNodeEnds(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	if err := r.cluster.Leave(t.Context()); err != nil {
		t.Fatal(err)
	}
	r.await("the end of Run", r.done)
	if r.err == nil || !strings.Contains(r.err.Error(), "gossip ended") {
		t.Errorf("Run = %v, want that gossip ended", r.err)
	}
}

func TestAlone(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	s := r.Status().Cluster
	if s.Label != "bucketring" || s.State != "serving" || s.Roster != 1 || s.View == 0 || len(s.Members) != 1 || len(s.Keys) != 0 {
		t.Errorf("cluster status = %+v, want one member that serves", s)
	}
	if m := s.Members[0]; !m.Self || m.Partitions != ring.Partitions || m.GRPC != r.GRPCAddr() || m.HTTP != r.HTTPAddr() || m.Gossip != r.GossipAddr() {
		t.Errorf("member = %+v, want this node with all partitions", m)
	}
	began := time.Now()
	r.skipLeave = false
	if err := r.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the shutdown of a node alone took %s", took)
	}
}

// Package config repeats the limit, because it cannot import package cluster.
func TestNamesFit(t *testing.T) {
	if config.MaxName != cluster.MaxName {
		t.Errorf("config.MaxName = %d, want %d", config.MaxName, cluster.MaxName)
	}
}
