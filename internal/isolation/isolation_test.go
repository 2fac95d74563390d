// SPDX-License-Identifier: Apache-2.0

//go:build linux

package isolation

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Sizes of the nodes under test.
const (
	smallIDs         = 20_000 // --max-ids
	smallKeys        = 5_000  // --max-keys
	smallDescriptors = 2_048
)

// Bounds on the memory that a flood from one address makes one node take, on top of what
// it had. Resident memory includes garbage, up to as much as is in use.
const (
	bodiesBound  = 300 << 20 // bodies under way at the proxy
	streamsBound = 160 << 20 // Watch and Exchange streams
	gossipBound  = 128 << 20 // gossip of peers without the key
)

// The time for which ids are remembered after a check or a cancel, and what a node may
// take longer to forget them.
const (
	remembered = 30 * time.Second
	graceOfIDs = 5 * time.Second
)

// metricIDs is the number of ids that a node remembers.
const metricIDs = "bucketring_remembered_ids"

// TestIDsAreGoneOnTime floods at once and looks at the end of all tests, so that the
// time in between is not lost.
func TestIDsAreGoneOnTime(t *testing.T) {
	const checks, cancelled = 40_000, 10_000
	c := start(t, 1, nil)
	f := newFlood(t.Context())
	conn := flooderConn(t, c.GRPCAddrs()[0])
	f.checks(conn, "flood-checks", 0, checks)
	f.pairs(conn, "flood-cancels", 0, cancelled, reserve, cancel)
	ended := time.Now()
	if got := c.metric(t, metricIDs); got < checks/2 {
		t.Fatalf("the node remembers %v ids after %d checks", got, f.sent.Load())
	}

	t.Parallel() // goes on when the other tests have ended

	time.Sleep(time.Until(ended.Add(remembered + graceOfIDs)))
	if got := c.metric(t, metricIDs); got > (checks+cancelled)/100 {
		t.Errorf("%s after a flood of %d ids %v are remembered, want none", time.Since(ended).Round(time.Second), checks+cancelled, got)
	}
}

func TestFloodOfIDs(t *testing.T) {
	c := start(t, 3, func(o *local.Options) { o.ExtraArgs = []string{"--max-ids", fmt.Sprint(smallIDs)} })
	v := c.victimOf(t, freshCalls())
	conn := flooderConn(t, c.GRPCAddrs()[0])
	isolated(t, func(ctx context.Context) func() {
		f := newFlood(ctx)
		f.ids(conn, smallIDs)
		return f.workers.Wait
	}, v)
}

func TestSnapshotOfALargeRoot(t *testing.T) {
	const keys = 200_000
	c := start(t, 3, func(o *local.Options) {
		o.Persist, o.ExtraArgs = true, []string{"--snapshot-every", "500ms"}
	})
	v := c.victimOf(t, callsOf(neighbours("flood-big", 4)...))
	var conns []*grpc.ClientConn
	for _, at := range c.GRPCAddrs() {
		conns = append(conns, flooderConn(t, at))
	}
	isolated(t, func(ctx context.Context) func() {
		f := newFlood(ctx)
		f.keys(conns[0], "flood-big", keys)
		for _, conn := range conns {
			f.touch(conn, "flood-big", keys)
		}
		return f.workers.Wait
	}, v)
	if got := c.metric(t, "bucketring_snapshot_failures_total"); got > 0 {
		t.Errorf("%v snapshots failed", got)
	}
}

// neighbours returns roots of the partition of another root.
func neighbours(root string, n int) (roots []string) {
	for i := 0; len(roots) < n; i++ {
		if name := fmt.Sprintf("neighbour-%d", i); keypath.Partition(name, ring.Partitions) == keypath.Partition(root, ring.Partitions) {
			roots = append(roots, name)
		}
	}
	return roots
}

func TestPinnedKeys(t *testing.T) {
	c := start(t, 1, func(o *local.Options) { o.ExtraArgs = []string{"--max-keys", fmt.Sprint(smallKeys)} })
	conn := flooderConn(t, c.GRPCAddrs()[0])
	// A budget of which half is used must not be forgotten for the flood.
	spent := &pb.CheckRequest{Key: "pin-victim/half", InputTokens: 500_000}
	if d, err := pb.NewRateLimiterClient(conn).Check(t.Context(), spent); err != nil || d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED {
		t.Fatalf("Check = %v, %v, want allowed", d, err)
	}
	v := c.victimOf(t, freshCalls())
	v.forgettable = true
	isolated(t, func(ctx context.Context) func() {
		f := newFlood(ctx)
		f.keys(conn, "pin-flood", smallKeys+smallKeys/5)
		f.loop(500*time.Millisecond, func(int) { f.keys(conn, "pin-flood", smallKeys+smallKeys/5) })
		return f.workers.Wait
	}, v)
	left, err := pb.NewRateLimiterClient(conn).Peek(t.Context(), &pb.PeekRequest{Key: spent.GetKey()})
	if err != nil || len(left.GetLimits()) != 1 || left.GetLimits()[0].GetRemaining() != 500_000 {
		t.Errorf("Peek after the flood = %v, %v, want 500000 remaining", left, err)
	}
}

// startUpstream returns a model server that rejects calls with the header X-Reject, and
// counts those.
func startUpstream(t *testing.T) (url string, rejected *atomic.Int64) {
	t.Helper()
	mock, err := mockllm.New(mockllm.Options{})
	if err != nil {
		t.Fatal(err)
	}
	rejected = &atomic.Int64{}
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("X-Reject") != "" {
			rejected.Add(1)
			http.Error(w, `{"error":{"message":"no","type":"invalid_request_error"}}`, http.StatusBadRequest)
			return
		}
		mock.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	return s.URL, rejected
}

// proxiedVictim calls a model through the proxy.
func (c *cluster) proxiedVictim(t *testing.T) *victim {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: waittest.Limit}
	t.Cleanup(client.CloseIdleConnections)
	return startVictim(t, spread{next: &counter{}, nodes: []bench.Target{bench.CheckFunc(func(ctx context.Context, q *bench.Call) (bench.Answer, error) {
		status, err := ask(ctx, client, c.proxy, q.Key, "hello")
		switch {
		case err != nil:
			return bench.Answer{}, err
		case status == http.StatusTooManyRequests:
			return bench.Answer{Outcome: bench.Denied, Reason: "429"}, nil
		case status != http.StatusOK:
			return bench.Answer{}, fmt.Errorf("the proxy answers %d", status)
		}
		return bench.Answer{Outcome: bench.Allowed, Route: "local"}, nil
	})}}, checksOf("proxied"), victimRate/2)
}

func TestLargeBodies(t *testing.T) {
	const connections, size = 100, 8 << 20 // size is the default of --proxy-max-body
	upstream, _ := startUpstream(t)
	c := startProxy(t, upstream)
	v, proxied := c.victimOf(t, callsOf()), c.proxiedVictim(t)
	var m *memory
	var f *flood
	isolated(t, func(ctx context.Context) func() {
		m, f = c.watchMemory(t), newFlood(ctx)
		f.bodies(c.proxy, "two-flood/u", connections, size)
		return f.workers.Wait
	}, v, proxied)
	if f.sent.Load() == 0 {
		t.Error("no body was sent")
	}
	m.within(t, bodiesBound)
}

func TestCallsThatTheUpstreamRejects(t *testing.T) {
	const limit = 10 // of the tier few
	upstream, rejected := startUpstream(t)
	c := startProxy(t, upstream)
	v, proxied := c.victimOf(t, callsOf()), c.proxiedVictim(t)
	var f *flood
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, DialContext: flooderDialer.DialContext}, Timeout: waittest.Limit}
	t.Cleanup(client.CloseIdleConnections)
	isolated(t, func(ctx context.Context) func() {
		f = newFlood(ctx)
		for range 4 {
			f.loop(10*time.Millisecond, func(int) {
				if _, err := ask(ctx, client, c.proxy, "few-flood/u", "hello", "X-Reject", "1"); err == nil {
					f.sent.Add(1)
				}
			})
		}
		return f.workers.Wait
	}, v, proxied)
	if sent, got := f.sent.Load(), rejected.Load(); sent < 5*limit || got > limit {
		t.Errorf("of %d calls of a key with a limit of %d requests, %d reached the model server", sent, limit, got)
	}
}

// TestPoisonedEstimates: a tenant whose texts have a token per byte, which is the truth,
// does not get another tenant's usual prompts denied.
func TestPoisonedEstimates(t *testing.T) {
	upstream, _ := startUpstream(t)
	c := startProxy(t, upstream)
	client := &http.Client{Transport: &http.Transport{}, Timeout: waittest.Limit}
	t.Cleanup(client.CloseIdleConnections)
	// 6,000 bytes are estimated as some 2,000 tokens; the tier tight has 4,000 per key.
	prompt := strings.Repeat("word ", 1200)
	users := 0
	probe := func(root, when string) {
		t.Helper()
		users++
		status, err := ask(t.Context(), client, c.proxy, fmt.Sprintf("tight-%s/u%d", root, users), prompt)
		if err != nil || status != http.StatusOK {
			t.Errorf("%s: a prompt of tenant %s = %d, %v, want 200", when, root, status, err)
		}
	}
	for range 5 {
		probe("known", "before")
	}
	gibberish := strings.Repeat("x", 16<<10)
	for i := range 40 {
		status, err := ask(t.Context(), client, c.proxy, "flood-estimates/u", gibberish, "X-Mock-Input-Tokens", fmt.Sprint(len(gibberish)))
		if err != nil || status != http.StatusOK {
			t.Fatalf("call %d of the flooder = %d, %v, want 200", i, status, err)
		}
	}
	for range 3 {
		probe("known", "after the flood")
		probe("new", "after the flood")
	}
}

func TestStreams(t *testing.T) {
	const watches, exchanges, metadataSize = 10_000, 40, 1 << 20
	c := start(t, 1, nil)
	v := c.victimOf(t, callsOf())
	at := c.GRPCAddrs()[0]
	var conns []*grpc.ClientConn
	for range 10 {
		conns = append(conns, flooderConn(t, at))
	}
	var m *memory
	var f *flood
	isolated(t, func(ctx context.Context) func() {
		m, f = c.watchMemory(t), newFlood(ctx)
		f.exchanges(conns, exchanges)
		f.workers.Go(func() { f.watches(conns, watches) })
		f.loop(20*time.Millisecond, func(int) { _ = withMetadata(ctx, conns[0], metadataSize) })
		return f.workers.Wait
	}, v)
	m.within(t, streamsBound)
	ctx := waittest.Context(t, waittest.Limit)
	if err := withMetadata(ctx, flooderConn(t, at), metadataSize); err == nil {
		t.Errorf("a call with %d bytes of metadata succeeds, want an error", metadataSize)
	}
	if err := withMetadata(ctx, flooderConn(t, at), 1000); err != nil {
		t.Errorf("a call with 1000 bytes of metadata: %v", err)
	}
}

func TestGossipWithoutTheKey(t *testing.T) {
	const connections, size = 60, 19 << 20 // memberlist accepts 20 MiB
	keys := clusterKey(t)
	c := start(t, 3, func(o *local.Options) { o.ExtraArgs = []string{"--cluster-key-file", keys} })
	v := c.victimOf(t, callsOf())
	at, label := c.gossip(t, 0), c.status(t, 0).Cluster.Label
	var m *memory
	var f *flood
	isolated(t, func(ctx context.Context) func() {
		m, f = c.watchMemory(t), newFlood(ctx)
		f.gossip(at, label, connections, size)
		return f.workers.Wait
	}, v)
	if f.sent.Load() == 0 {
		t.Error("nothing was sent")
	}
	m.within(t, gossipBound)
	for node := range 3 {
		for _, member := range c.status(t, node).Cluster.Members {
			if member.State != "serving" {
				t.Errorf("node %d sees %s %s, want serving", node, member.Name, member.State)
			}
		}
	}
}

func TestIdleConnections(t *testing.T) {
	const connections = 1_100
	dir := t.TempDir()
	limited := filepath.Join(dir, "limited")
	script := fmt.Sprintf("#!/bin/sh\nulimit -n %d\nexec %s \"$@\"\n", smallDescriptors, program)
	if err := os.WriteFile(limited, []byte(script), 0o700); err != nil { //nolint:gosec // it is run
		t.Fatal(err)
	}
	rulesFile := filepath.Join(dir, "policy.yaml")
	if err := os.WriteFile(rulesFile, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	c := start(t, 1, func(o *local.Options) { o.Binary, o.PolicyText, o.Policy = limited, "", rulesFile })
	v, arriving := c.victimOf(t, callsOf()), c.arrivingVictim(t)
	version := c.status(t, 0).Policy.Version
	kept := &http.Client{Transport: &http.Transport{}, Timeout: waittest.Limit} // one connection, from before the flood
	t.Cleanup(kept.CloseIdleConnections)
	if _, err := kept.Get("http://" + c.HTTPAddrs()[0] + "/livez"); err != nil {
		t.Fatal(err)
	}
	reloaded := make(chan bool, 1)
	isolated(t, func(ctx context.Context) func() {
		f := newFlood(ctx)
		f.idle(c.HTTPAddrs()[0], connections)
		f.idle(c.GRPCAddrs()[0], connections)
		f.workers.Go(func() {
			time.Sleep(windowTime) // until the connections are there
			_ = os.WriteFile(rulesFile, []byte(strings.Replace(rules, "4_000/day", "4_001/day", 1)), 0o600)
			reloaded <- becomes(waittest.Context(t, 2*windowTime), kept, "http://"+c.HTTPAddrs()[0]+"/status", version)
		})
		return f.workers.Wait
	}, v, arriving)
	if !<-reloaded {
		t.Error("a changed policy was not loaded during the flood")
	}
}

// becomes reports whether a page is read that lacks text, before ctx is done.
func becomes(ctx context.Context, client *http.Client, url, without string) bool {
	for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
		if page, err := read(ctx, client, url); err == nil && !strings.Contains(page, without) {
			return true
		}
	}
	return false
}

// arrivingVictim opens a new connection for each call, of HTTP and gRPC in turn.
func (c *cluster) arrivingVictim(t *testing.T) *victim {
	t.Helper()
	const patience = 3 * time.Second // a SYN may be lost, which is sent again after one
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	var turn atomic.Int64
	return startVictim(t, spread{next: &counter{}, nodes: []bench.Target{bench.CheckFunc(func(ctx context.Context, q *bench.Call) (bench.Answer, error) {
		ctx, cancel := context.WithTimeout(ctx, patience)
		defer cancel()
		if turn.Add(1)%2 == 0 {
			if _, err := read(ctx, client, "http://"+c.HTTPAddrs()[0]+"/v1/limits?key="+q.Key); err != nil {
				return bench.Answer{}, err
			}
			return bench.Answer{Outcome: bench.Allowed, Route: "local"}, nil
		}
		conn, err := grpc.NewClient("passthrough:///"+c.GRPCAddrs()[0], grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, at string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "tcp", at)
			}))
		if err != nil {
			return bench.Answer{}, err
		}
		defer conn.Close()
		if _, err := pb.NewRateLimiterClient(conn).Peek(ctx, &pb.PeekRequest{Key: q.Key}, grpc.WaitForReady(true)); err != nil {
			return bench.Answer{}, err
		}
		return bench.Answer{Outcome: bench.Allowed, Route: "local"}, nil
	})}}, checksOf("arriving"), victimRate/10)
}
