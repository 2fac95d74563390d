// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/http/httptrace"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/internal/waittest"
)

// The windows of the policy end every 400 days.
const policyText = `
tiers:
  thousand:
    limits:
      - { dimension: requests, limit: 1_000, window: 9600h, algorithm: fixed_window }
  chat:
    limits:
      - { dimension: requests, limit: 1_000, window: 9600h, algorithm: fixed_window }
      - { dimension: tokens, limit: 10_000, window: 9600h, algorithm: fixed_window, on_exceed: degrade }
  four: { requests: 9_000_000_000/min, tokens: 9_000_000_000/min, concurrent: 9_000_000_000, spend: $900_000/day }
default_tier: thousand
prices:
  "*": { input: 0.01, output: 0.01 }
`

// The window of the rule ends with the decade.
const envoyText = `
domain: bucketring
descriptors:
  - key: key
    rate_limit: { unit: year, unit_multiplier: 10, requests_per_unit: 1_000 }
`

// startNodes starts a cluster and waits until its ring names all members.
func startNodes(t testing.TB, count int) (nodes []*node.Node) {
	t.Helper()
	if testing.Short() && count > 1 {
		t.Skip("several members with all partitions in one process take too long under the race detector")
	}
	path, rules := filepath.Join(t.TempDir(), "policy.yaml"), filepath.Join(t.TempDir(), "rules.yaml")
	for path, text := range map[string]string{path: policyText, rules: envoyText} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for i := range count {
		c := config.Default()
		c.Name, c.HTTP, c.GRPC, c.Gossip = fmt.Sprintf("n%d", i+1), "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
		c.Policy, c.EnvoyConfig, c.ForwardTimeout = path, rules, waitFor/2
		if i > 0 {
			c.Join = []string{nodes[0].GossipAddr()}
		}
		up := make(chan struct{}) // closed when the node is ready
		n, err := node.New(node.Options{Config: c, OnReady: func(*node.Node) { close(up) }, SkipLeave: true, ExpectedMembers: i + 1})
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(context.Background())
		done := make(chan error, 1)
		go func() { done <- n.Run(ctx) }()
		t.Cleanup(func() {
			stop()
			if err := <-done; err != nil {
				t.Errorf("Run = %v", err)
			}
		})
		select {
		case <-up:
		case <-time.After(waitFor):
			t.Fatal("the node is not ready")
		}
		nodes = append(nodes, n)
	}
	for _, n := range nodes {
		waittest.Until(t, "one ring", func() bool {
			s := n.Status().Cluster
			owners := 0
			for _, m := range s.Members {
				if m.Partitions > 0 {
					owners++
				}
			}
			return owners == count && s.RingDigest == nodes[0].Status().Cluster.RingDigest
		})
	}
	return nodes
}

// specs are the specs of the three ways into a cluster.
func doors(nodes []*node.Node) map[string]string {
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.GRPCAddr())
	}
	return map[string]string{
		"client": "client:" + strings.Join(addrs, ","),
		"grpc":   "grpc:" + addrs[0],
		"http":   "http://" + nodes[0].HTTPAddr(),
	}
}

func TestNodeIsExact(t *testing.T) {
	for name, spec := range doors(startNodes(t, 1)) {
		t.Run(name, func(t *testing.T) {
			target := open(t, spec, Options{})
			key := "acme/" + name
			wantExactly(t, target, bench.Call{Key: key, InputTokens: 5})
			if name != "http" {
				wantUsed(t, target, key, "", "requests", 1000, 1000)
			}
		})
	}
}

func TestClusterIsExact(t *testing.T) {
	nodes := startNodes(t, 3)
	routes := map[string]map[string]bool{}
	for name, spec := range doors(nodes) {
		target := open(t, spec, Options{})
		wantExactly(t, target, bench.Call{Key: name})
		routes[name] = map[string]bool{}
		for i := range 30 {
			a := check(t, target, bench.Call{Key: fmt.Sprintf("root%d", i)})
			routes[name][a.Route] = true
			if a.Owner == "" {
				t.Errorf("%s: answer %+v has no owner", name, a)
			}
		}
	}
	if got := routes["client"]; !got["local"] || len(got) != 1 {
		t.Errorf("routes of client = %v, want only local: it asks the owner", got)
	}
	for _, name := range []string{"grpc", "http"} {
		if got := routes[name]; !got["local"] || !got["forward"] || len(got) != 2 {
			t.Errorf("routes of %s = %v, want local and forward", name, got)
		}
	}
}

func TestNodeReportsReplays(t *testing.T) {
	specs := doors(startNodes(t, 1))
	left := open(t, specs["grpc"], Options{})
	for name, spec := range specs {
		target := open(t, spec, Options{})
		key := "acme/" + name
		call := bench.Call{Key: key, Tier: "chat", Requests: 3, InputTokens: 40, OutputTokens: 2, ID: key}
		want := bench.Answer{Outcome: bench.Allowed, ID: key, Route: "local", Owner: "n1"}
		if got := check(t, target, call); got != want {
			t.Errorf("%s: Check = %+v, want %+v", name, got, want)
		}
		want.Replayed = name != "http" // whose answers do not say
		if got := check(t, target, call); got != want {
			t.Errorf("%s: Check again = %+v, want %+v", name, got, want)
		}
		wantUsed(t, left, key, "chat", "requests", 3, 1000)
		wantUsed(t, left, key, "chat", "tokens", 42, 10_000)
	}
}

func TestNodeReservation(t *testing.T) {
	specs := doors(startNodes(t, 1))
	left := open(t, specs["client"], Options{})
	for name, spec := range specs {
		target := open(t, spec, Options{})
		key := name + "/alice"
		reserve := func(id string, output int64) bench.Answer {
			t.Helper()
			call := bench.Call{Key: key, Tier: "chat", LLM: true, ID: id, InputTokens: 1000, MaxOutputTokens: output, Duration: time.Minute}
			a, err := target.Reserve(t.Context(), &call)
			if err != nil {
				t.Fatalf("%s: Reserve(%+v) = %v", name, call, err)
			}
			return a
		}
		settle := func(u bench.Usage) {
			t.Helper()
			a, err := target.Settle(t.Context(), u)
			if want := (bench.Answer{Route: "local", Owner: "n1"}); err != nil || a != want {
				t.Fatalf("%s: Settle(%+v) = %+v, %v, want %+v", name, u, a, err, want)
			}
		}
		tokens := func(want int64) {
			t.Helper()
			wantUsed(t, left, key, "chat", "tokens", want, 10_000)
		}

		want := bench.Answer{Outcome: bench.Allowed, ID: "a", GrantedOutputTokens: 5000, Route: "local", Owner: "n1"}
		if got := reserve("a", 5000); got != want {
			t.Errorf("%s: Reserve = %+v, want %+v", name, got, want)
		}
		tokens(6000)
		// A grant that shrinks is a multiple of 16.
		want = bench.Answer{Outcome: bench.Degraded, ID: "b", GrantedOutputTokens: 2992, Route: "local", Owner: "n1"}
		if got := reserve("b", 4000); got != want {
			t.Errorf("%s: Reserve = %+v, want %+v", name, got, want)
		}
		tokens(9992)
		want = bench.Answer{Outcome: bench.Denied, Reason: "limit_exceeded", ID: "c", Route: "local", Owner: "n1"}
		if got := reserve("c", 4000); got != want {
			t.Errorf("%s: Reserve = %+v, want %+v", name, got, want)
		}
		want = bench.Answer{Outcome: bench.Denied, Reason: "exceeds_capacity", ID: "d", Route: "local", Owner: "n1"}
		if got := check(t, target, bench.Call{Key: key, Tier: "chat", ID: "d", InputTokens: 10_001}); got != want {
			t.Errorf("%s: Check = %+v, want %+v", name, got, want)
		}
		settle(bench.Usage{ID: "a", Key: key, InputTokens: 1000, OutputTokens: 200})
		tokens(9992) // what is reserved is larger
		settle(bench.Usage{ID: "a", Key: key, InputTokens: 1000, OutputTokens: 300, Final: true})
		tokens(5292)
		settle(bench.Usage{ID: "b", Key: key, Final: true}) // nothing was used, and that is what is charged
		tokens(1300)
		if _, err := target.Settle(t.Context(), bench.Usage{ID: "x", Key: key, Final: true}); err == nil || !strings.Contains(err.Error(), "unknown reservation") {
			t.Errorf("%s: Settle of an unknown id = %v, want that it is unknown", name, err)
		}
	}
}

func TestNodeErrors(t *testing.T) {
	for name, spec := range doors(startNodes(t, 1)) {
		target := open(t, spec, Options{})
		a, err := target.Check(t.Context(), &bench.Call{Key: "acme//alice"})
		if err == nil || !strings.Contains(err.Error(), "key") || a.Outcome != 0 {
			t.Errorf("%s: Check of a bad key = %+v, %v, want an error that names the key", name, a, err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := target.Check(ctx, &bench.Call{Key: "acme"}); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: Check with a context that was cancelled = %v, want context.Canceled", name, err)
		}
	}
}

func TestHTTPReusesConnections(t *testing.T) {
	n := startNodes(t, 1)[0]
	const connections = 4
	target := open(t, "http://"+n.HTTPAddr(), Options{Connections: connections})
	var fresh atomic.Int64
	ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) {
		if !c.Reused {
			fresh.Add(1)
		}
	}})
	var wg sync.WaitGroup
	for range 16 {
		wg.Go(func() {
			for range 50 {
				if _, err := target.Check(ctx, &bench.Call{Key: "acme"}); err != nil {
					t.Errorf("Check = %v", err)
				}
			}
		})
	}
	wg.Wait()
	if got := fresh.Load(); got > connections {
		t.Errorf("800 checks used %d new connections, want at most %d", got, connections)
	}
}

func TestHTTPServerThatIsNotANode(t *testing.T) {
	for _, c := range []struct {
		status int
		body   string
	}{{200, "<html>"}, {200, `{"outcome":"maybe"}`}, {302, ""}, {404, "<html>"}, {429, "slow down"}} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(c.status)
			_, _ = w.Write([]byte(c.body))
		}))
		target, err := Open(s.URL, Options{})
		if err != nil {
			t.Fatal(err)
		}
		if a, err := target.Check(t.Context(), &bench.Call{Key: "acme"}); err == nil {
			t.Errorf("Check of a server that answers %d %q = %+v, want an error", c.status, c.body, a)
		}
		_ = target.Close()
		s.Close()
	}
}
