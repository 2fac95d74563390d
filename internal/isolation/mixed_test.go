// SPDX-License-Identifier: Apache-2.0

//go:build linux

package isolation

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// Memory of a process under TestMixedFloods is flat if its peak of the second half is at
// most this much above that of the first, both without the time that it has to settle.
const (
	flatShare = 10       // percent
	flatSlack = 32 << 20 // bytes
	// mixedBound is what any process takes on top of what it had at the start.
	mixedBound = bodiesBound + streamsBound + gossipBound
)

// TestMixedFloods runs all floods at once against three nodes and a proxy.
func TestMixedFloods(t *testing.T) {
	if *floods == 0 {
		t.Skip("runs with -floods 10m, as make floods does")
	}
	keys := clusterKey(t)
	c := start(t, 3, func(o *local.Options) {
		o.Persist = true
		o.ExtraArgs = []string{
			"--cluster-key-file", keys, "--snapshot-every", "5s",
			"--max-ids", "100000", "--max-keys", "200000", "--max-keys-per-root", "150000",
		}
	})
	upstream, _ := startUpstream(t)
	proxy := c.startProxyProcess(t, upstream)
	v := c.victimOf(t, auditedCalls())
	calm := control.victimOf(t, callsOf())
	quiet := quietWindows(t, []*victim{calm, v})

	ctx, cancel := context.WithTimeout(t.Context(), *floods)
	defer cancel()
	began := time.Now()
	f := newFlood(ctx)
	f.mixed(t, c)
	m := c.sampleMemory(ctx, t, proxy)
	<-ctx.Done()
	flooded, machine := v.since(began), max(1, calm.since(began).ratio(quiet[0]))
	f.workers.Wait()
	t.Logf("the flooder sent %d calls, streams and connections", f.sent.Load())
	t.Logf("quiet: %s; flood: %s, %.1fx of quiet (machine %.1fx)", quiet[1], flooded, flooded.ratio(quiet[1]), machine)
	flooded.correct(t, "during the floods")
	if flooded.ratio(quiet[1]) > mostSlower*machine {
		t.Errorf("the floods slow the victim: p99 %s, quiet %s, want at most %dx", flooded.p99, quiet[1].p99, mostSlower)
	}
	v.end()
	m.flat(t)
}

func clusterKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "cluster.key")
	if err := os.WriteFile(path, []byte("MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// startProxyProcess runs a proxy of its own, and returns its process id.
func (c *cluster) startProxyProcess(t *testing.T, upstream string) (pid int) {
	t.Helper()
	c.proxy = freeport.Test(t)
	admin := freeport.Test(t)
	cmd := exec.Command(program, "proxy", "--listen", c.proxy, "--admin", admin, "--servers", strings.Join(c.GRPCAddrs(), ","), "--upstream", upstream, "--identity", "header:X-Key")
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		if err := cmd.Wait(); err != nil {
			t.Errorf("the proxy did not survive the floods: %v", err)
		}
	})
	waittest.Until(t, "the proxy", func() bool {
		answer, err := http.Get("http://" + admin + "/readyz")
		if err != nil {
			return false
		}
		defer answer.Body.Close()
		_, _ = io.Copy(io.Discard, answer.Body)
		return answer.StatusCode == http.StatusOK
	})
	return cmd.Process.Pid
}

// mixed begins all floods, each at a rate that leaves the machine room for the others.
func (f *flood) mixed(t *testing.T, c *cluster) {
	t.Helper()
	const bigRoot = 100_000
	var conns []*grpc.ClientConn
	for _, at := range c.GRPCAddrs() {
		conns = append(conns, flooderConn(t, at))
	}
	label := c.status(t, 0).Cluster.Label
	gossip := c.gossip(t, 0)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 8, DialContext: flooderDialer.DialContext}, Timeout: waittest.Limit}
	t.Cleanup(client.CloseIdleConnections)

	f.workers.Go(func() { f.keys(conns[0], "flood-big", bigRoot) })
	f.touch(conns[1], "flood-big", bigRoot)
	f.workers.Go(func() { f.ids(conns[2], 100_000) })
	f.loop(200*time.Millisecond, func(i int) { f.keys(conns[i%3], fmt.Sprintf("pin-%d", i%500), 500) })
	f.loop(20*time.Millisecond, func(int) {
		if _, err := ask(f.ctx, client, c.proxy, "few-flood/u", "hello", "X-Reject", "1"); err == nil {
			f.sent.Add(1)
		}
	})
	f.loop(100*time.Millisecond, func(int) { _ = withMetadata(f.ctx, conns[0], 1<<20) })
	f.wave(func(w *flood) { w.bodies(c.proxy, "two-flood/u", 40, 8<<20) })
	f.wave(func(w *flood) { w.gossip(gossip, label, 20, 8<<20) })
	f.wave(func(w *flood) {
		own := []*grpc.ClientConn{flooderConnUntil(w.ctx, c.GRPCAddrs()[0])}
		w.exchanges(own, 10)
		w.watches(own, 1000)
	})
	f.wave(func(w *flood) {
		for _, at := range append(c.HTTPAddrs(), c.GRPCAddrs()...) {
			w.idle(at, 50)
		}
	})
}

// wave runs a flood for some seconds, and then again.
func (f *flood) wave(begin func(*flood)) {
	f.loop(2*time.Second, func(int) {
		ctx, cancel := context.WithTimeout(f.ctx, 5*time.Second)
		defer cancel()
		w := newFlood(ctx)
		w.pause = 20 * time.Millisecond
		begin(w)
		<-ctx.Done()
		w.workers.Wait()
		f.sent.Add(w.sent.Load())
	})
}

// samples are the memory of each process, one per second.
type samples struct {
	done chan struct{}
	rss  map[string][]int64
}

func (c *cluster) sampleMemory(ctx context.Context, t *testing.T, proxy int) *samples {
	t.Helper()
	s := &samples{done: make(chan struct{}), rss: map[string][]int64{}}
	processes := map[string]int{"proxy": proxy}
	for _, n := range c.Nodes() {
		processes[n.Name] = n.PID
	}
	go func() {
		defer close(s.done)
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for ctx.Err() == nil {
			for name, pid := range processes {
				if u, err := local.ProcessUsage(pid); err == nil {
					s.rss[name] = append(s.rss[name], u.RSS)
				}
			}
			select {
			case <-ctx.Done():
			case <-tick.C:
			}
		}
	}()
	return s
}

// flat compares the peaks of two halves, after the first minute or, in a short run, the
// first quarter.
func (s *samples) flat(t *testing.T) {
	t.Helper()
	<-s.done
	for name, rss := range s.rss {
		settle := min(len(rss)/4, 60)
		half := (settle + len(rss)) / 2
		if half == settle {
			t.Fatalf("%s: only %d samples of memory", name, len(rss))
		}
		first, second := peak(rss[settle:half]), peak(rss[half:])
		t.Logf("%s: %d MiB at first, peaks %d, then %d MiB", name, rss[0]>>20, first>>20, second>>20)
		if second > first+first*flatShare/100+flatSlack {
			t.Errorf("memory of %s grows: a peak of %d MiB, and then %d", name, first>>20, second>>20)
		}
		if grown := max(first, second) - rss[0]; grown > mixedBound {
			t.Errorf("memory of %s has grown by %d MiB, want at most %d", name, grown>>20, mixedBound>>20)
		}
	}
}

func peak(list []int64) (most int64) {
	for _, n := range list {
		most = max(most, n)
	}
	return most
}
