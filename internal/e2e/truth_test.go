// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/mockllm"
	"github.com/bucketring/bucketring/internal/waittest"
)

// truthPolicy has limits that deny nothing and do not refill, so that they show all
// charges.
const truthPolicy = `
tiers:
  truth:
    limits:
      - { name: requests,   dimension: requests,      limit: 1_000_000,     window: month }
      - { name: tokens,     dimension: tokens,        limit: 1_000_000_000, window: month }
      - { name: input,      dimension: input_tokens,  limit: 1_000_000_000, window: month }
      - { name: output,     dimension: output_tokens, limit: 1_000_000_000, window: month }
      - { name: spend,      dimension: spend,         limit: $1_000_000,    window: month }
      - { name: concurrent, dimension: concurrent,    limit: 100_000 }
default_tier: truth
prices:
  "*": { input: 2.00, cached_input: 1.00, cache_write: 5.00, output: 3.00 }
`

const (
	truthCalls   = 1_900
	truthDrained = 40
	truthKilled  = 60
	truthLease   = "3s"
)

// TestChargesAreTheTruth makes 2,000 calls, most of them of the Azure trace, through
// proxies over three nodes. One in ten callers leaves, one in twenty calls fails at the
// model, some are interrupted or stall, and one proxy is killed. In the end every key
// must be charged the usage in the ledger of the model, which reports it in one of three
// dialects at random:
//
//   - exactly, to the token and the micro-dollar, for calls that were complete, and
//     for interrupted ones whose output was delivered completely;
//   - between the delivered and the generated output, if the caller left while the
//     model generated;
//   - at least the generated output, if the model reported no usage;
//   - in full, if the proxy drained the call after its caller left;
//   - for calls of the killed proxy: the input, and between the last progress and the
//     generated output.
func TestChargesAreTheTruth(t *testing.T) {
	policy := t.TempDir()
	if err := os.WriteFile(filepath.Join(policy, "policy.yaml"), []byte(truthPolicy), 0o644); err != nil {
		t.Fatal(err)
	}
	mock, upstream := startModel(t)
	nodes := startProcesses(t, 3, "--policy", policy)
	one, two := startProxy(t, "proxy-1", upstream, nodes), startProxy(t, "proxy-2", upstream, nodes)
	calls, victims := planCalls(t, truthCalls, 1), planKilled(truthKilled)
	b := &ledgerCheck{t: t, mock: mock, all: nodes, calls: map[string]madeCall{}}
	callers := newModelCaller()
	defer callers.client.CloseIdleConnections()

	// Calibrate the estimates of the proxies.
	for _, p := range []*proxyProcess{one, two} {
		b.make(callers, planCalibration(p.name, calls, victims), func(int) []string { return []string{p.address} })
	}

	// A proxy that drains calls of callers that leave.
	three := startProxy(t, "proxy-3", upstream, nodes, "--on-disconnect", "drain")
	b.make(callers, planDrained(truthDrained), func(int) []string { return []string{three.address} })

	// Both proxies are up.
	both := []string{one.address, two.address}
	b.make(callers, calls[:truthCalls/2], func(i int) []string { return both[i%2 : i%2+1] })
	b.awaitSlots()

	// One proxy is killed, and its callers use the other one.
	b.kill(callers, victims, two)
	b.make(callers, calls[truthCalls/2:], func(i int) []string {
		if i%2 == 1 {
			return []string{two.address, one.address}
		}
		return both[:1]
	})
	b.awaitSlots()
	b.compare()
}

// startModel runs the mock model in this process.
func startModel(t *testing.T) (*mockllm.Server, string) {
	t.Helper()
	mock, err := mockllm.New(mockllm.Options{TTFT: 2 * time.Millisecond, Speed: 5_000, CallerHeader: "X-User", Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: mock, ReadHeaderTimeout: waittest.Limit}
	done := make(chan error, 1) // why it no longer serves
	go func() { done <- server.Serve(l) }()
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
		if err := <-done; !errors.Is(err, http.ErrServerClosed) {
			t.Errorf("the model ended with %v", err)
		}
	})
	return mock, l.Addr().String()
}

// proxyProcess is a proxy that can be killed.
type proxyProcess struct {
	*process
	address string
}

func startProxy(t *testing.T, name, upstream string, nodes *processes, flags ...string) *proxyProcess {
	t.Helper()
	servers := ""
	for _, m := range nodes.members {
		servers += "," + m.grpc
	}
	p := &proxyProcess{address: freeport.Test(t)}
	p.process = startProcess(t, name, append([]string{
		binary(t), "proxy", "--listen", p.address, "--admin", freeport.Test(t), "--upstream", "http://" + upstream,
		"--servers", servers[1:], "--identity", "header:X-User", "--lease", truthLease,
	}, flags...)...)
	waittest.Until(t, name+" to forward requests", func() bool {
		r, err := http.Get("http://" + p.address + "/v1/models")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
	return p
}

// make makes calls, 48 at a time, and waits until all have ended.
func (b *ledgerCheck) make(callers *modelCaller, calls []*modelCall, proxies func(i int) []string) {
	b.t.Helper()
	next := make(chan int) // indexes of calls; closed when there are no more
	var work sync.WaitGroup
	for range 48 {
		work.Go(func() {
			for i := range next {
				seen := &observed{}
				callers.do(b.t.Context(), calls[i], seen, proxies(i)...)
				if err := calls[i].want(seen); err != nil {
					b.t.Error(err)
				}
				b.record(calls[i], seen.received.Load())
			}
		})
	}
	for i := range calls {
		next <- i
	}
	close(next)
	work.Wait()
	if b.t.Failed() {
		b.t.FailNow()
	}
}

// kill starts calls through a proxy, waits until all have reported progress, and
// kills the proxy.
func (b *ledgerCheck) kill(callers *modelCaller, calls []*modelCall, p *proxyProcess) {
	b.t.Helper()
	all := make([]*observed, len(calls))
	var work sync.WaitGroup
	for i, c := range calls {
		all[i] = &observed{}
		work.Go(func() { callers.do(b.t.Context(), c, all[i], p.address) })
	}
	waittest.Until(b.t, "the planned output of every call", func() bool {
		for i, c := range calls {
			if got := all[i].received.Load(); got < minInterrupted || c.fate == killedStalled && got < c.after {
				return false
			}
		}
		return true
	})
	// Progress is reported at regular intervals. After three reports per call, each
	// call has reported at least the output that its caller had before.
	progress := make([]int64, len(calls))
	for i := range calls {
		progress[i] = all[i].received.Load()
	}
	before := b.reports()
	waittest.Until(b.t, "a report of progress of every call", func() bool {
		time.Sleep(slowPoll)
		return b.reports() >= before+3*int64(len(calls))
	})
	p.kill(b.t)
	work.Wait()
	b.idle()
	for i, c := range calls {
		if all[i].ended || all[i].status != http.StatusOK {
			b.t.Errorf("%s of the proxy that was killed: status %d, ended %v", c.label, all[i].status, all[i].ended)
		}
		b.record(c, progress[i])
	}
}

var held = regexp.MustCompile(`bucketring_settlements_total\{status="held"\} (\d+)`)

// reports returns the number of progress reports that the nodes have received.
func (b *ledgerCheck) reports() (sum int64) {
	for _, m := range b.all.members {
		text := must(b.t, "curl", "-s", "http://"+m.http+"/metrics")
		if found := held.FindStringSubmatch(text); found != nil {
			n, err := strconv.ParseInt(found[1], 10, 64)
			if err != nil {
				b.t.Fatal(fmt.Errorf("metric of %s: %w", m.name, err))
			}
			sum += n
		}
	}
	return sum
}
