// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package isolation tests promise I7: no tenant changes another tenant's decisions, nor
// slows them by more than 3x at p99, and nobody without credentials takes more than a
// bounded amount of memory. Each test floods real nodes in one way while a victim sends
// 200 calls per second for other roots. The nodes are processes, so that their memory
// can be measured; it is read from /proc, which is why the tests need Linux.
//
//	go test ./internal/isolation                        # each flood for some seconds
//	go test ./internal/isolation -run Mixed -floods 10m # all at once; make floods
package isolation

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

var (
	floods = flag.Duration("floods", 0, "time for which TestMixedFloods runs; 0 skips it")

	program string   // bucketring, as users run it
	control *cluster // a node that nobody floods
)

func TestMain(m *testing.M) {
	flag.Parse()
	code, err := run(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func run(m *testing.M) (code int, err error) {
	if testing.Short() {
		return m.Run(), nil // every test skips itself
	}
	dir, err := os.MkdirTemp("", "bucketring-isolation-")
	if err != nil {
		return 1, err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	program = filepath.Join(dir, "bucketring")
	if out, err := exec.Command("go", "build", "-o", program, "github.com/bucketring/bucketring/cmd/bucketring").CombinedOutput(); err != nil {
		return 1, fmt.Errorf("build: %w: %s", err, out)
	}
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	nodes, err := local.Start(ctx, local.Options{Nodes: 1, Binary: program, PolicyText: rules})
	if err != nil {
		return 1, err
	}
	defer func() { _ = nodes.Stop() }()
	control = &cluster{Cluster: nodes}
	return m.Run(), nil
}

// cluster is the nodes of a test.
type cluster struct {
	*local.Cluster
	proxy string // address; empty: none
}

// start starts nodes, and tears them down when the test ends.
func start(t *testing.T, nodes int, edit func(*local.Options)) *cluster {
	t.Helper()
	if testing.Short() {
		t.Skip("measures latencies and memory")
	}
	o := local.Options{Nodes: nodes, Binary: program, PolicyText: rules, Dir: t.TempDir(), StopTimeout: waittest.Limit}
	if edit != nil {
		edit(&o)
	}
	// A forward waits longer than by default, so that a busy machine causes no fallback.
	o.ExtraArgs = append(o.ExtraArgs, "--forward-timeout", "3s")
	nodesOf, err := local.Start(context.Background(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := nodesOf.Stop(); err != nil {
			t.Errorf("a node did not survive the flood: %v", err)
		}
	})
	return &cluster{Cluster: nodesOf}
}

// startProxy starts a node with a proxy in front of upstream. The header X-Key says
// who calls.
func startProxy(t *testing.T, upstream string) *cluster {
	t.Helper()
	at := freeport.Test(t)
	c := start(t, 1, func(o *local.Options) { o.ExtraArgs = proxyArgs(at, upstream) })
	c.proxy = at
	return c
}

func proxyArgs(at, upstream string) []string {
	return []string{"--proxy-listen", at, "--proxy-upstream", upstream, "--proxy-identity", "header:X-Key"}
}

// status is a part of what a node says about itself.
type status struct {
	Policy  struct{ Version string }
	Cluster struct {
		Label   string
		Members []struct {
			Name, Gossip string
			State        string
			Self         bool
		}
	}
}

func (c *cluster) status(t *testing.T, node int) (s status) {
	t.Helper()
	if err := json.Unmarshal([]byte(get(t, "http://"+c.HTTPAddrs()[node]+"/status")), &s); err != nil {
		t.Fatal(err)
	}
	return s
}

// gossip returns the gossip address of a node.
func (c *cluster) gossip(t *testing.T, node int) string {
	t.Helper()
	for _, m := range c.status(t, node).Cluster.Members {
		if m.Self {
			return m.Gossip
		}
	}
	t.Fatal("the status of a node does not list itself")
	return ""
}

// metric returns the sum of a metric over all nodes and labels.
func (c *cluster) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	for _, at := range c.HTTPAddrs() {
		for line := range strings.Lines(get(t, "http://"+at+"/metrics")) {
			rest, ok := strings.CutPrefix(line, name)
			if !ok || rest[0] != ' ' && rest[0] != '{' {
				continue
			}
			v, err := strconv.ParseFloat(strings.TrimSpace(rest[strings.LastIndexByte(rest, ' '):]), 64)
			if err != nil {
				t.Fatalf("metric %s: %v", line, err)
			}
			sum += v
		}
	}
	return sum
}

func get(t *testing.T, url string) string {
	t.Helper()
	page, err := read(waittest.Context(t, waittest.Limit), &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}, url)
	if err != nil {
		t.Fatal(err)
	}
	return page
}

func read(ctx context.Context, client *http.Client, url string) (string, error) {
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	answer, err := client.Do(q)
	if err != nil {
		return "", err
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err == nil && answer.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s = %d", url, answer.StatusCode)
	}
	return string(body), err
}

// memory watches the resident memory of the largest node.
type memory struct {
	before int64
	peak   atomic.Int64
	stop   chan struct{}
}

// watchMemory samples until the test ends.
func (c *cluster) watchMemory(t *testing.T) *memory {
	t.Helper()
	m := &memory{before: c.rss(), stop: make(chan struct{})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		tick := time.NewTicker(50 * time.Millisecond)
		defer tick.Stop()
		for {
			m.peak.Store(max(m.peak.Load(), c.rss()))
			select {
			case <-m.stop:
				return
			case <-tick.C:
			}
		}
	}()
	t.Cleanup(func() {
		close(m.stop)
		<-done
	})
	return m
}

// rss returns the resident memory of the node that has most.
func (c *cluster) rss() (most int64) {
	for _, n := range c.Nodes() {
		if u, err := local.ProcessUsage(n.PID); err == nil {
			most = max(most, u.RSS)
		}
	}
	return most
}

// within checks that no node took more than bound on top of what it had.
func (m *memory) within(t *testing.T, bound int64) {
	t.Helper()
	grown := m.peak.Load() - m.before
	t.Logf("memory of the largest node: %d MiB, grown by %d MiB", m.peak.Load()>>20, grown>>20)
	if grown > bound {
		t.Errorf("a node took %d MiB more during the flood, want at most %d", grown>>20, bound>>20)
	}
}

// flooderIP is another address than the victim's, because bounds per peer go by it.
const flooderIP = "127.0.0.2"

var flooderDialer = &net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(flooderIP)}, Timeout: waittest.Limit}

// flooderConn returns a gRPC connection of the flooder, for the time of the test.
func flooderConn(t *testing.T, at string) *grpc.ClientConn {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	return flooderConnUntil(ctx, at)
}

// flooderConnUntil returns a connection that is closed when ctx is done.
func flooderConnUntil(ctx context.Context, at string) *grpc.ClientConn {
	conn, err := grpc.NewClient("passthrough:///"+at,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, at string) (net.Conn, error) {
			return flooderDialer.DialContext(ctx, "tcp", at)
		}),
		grpc.WithNoProxy(), grpc.WithDisableRetry())
	if err != nil {
		panic(err) // the options are wrong
	}
	context.AfterFunc(ctx, func() { _ = conn.Close() })
	return conn
}
