// SPDX-License-Identifier: Apache-2.0

//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/bench/workload"
	"github.com/bucketring/bucketring/internal/cputime"
	"github.com/bucketring/bucketring/internal/waittest"
)

// offer sends calls through the client library at a fixed rate, however slow the answers
// are, and keeps how each check and reserve ended.
type offer struct {
	began time.Time
	done  chan struct{} // closed when all calls have ended

	mu    sync.Mutex
	calls []offeredCall
	err   error
	// settlesFailed counts settles and reports of progress without an answer.
	settlesFailed int
}

// offeredCall is a check or a reserve. Times are since offer.began.
type offeredCall struct {
	key       string
	due, done time.Duration
	outcome   bench.Outcome
	fallback  bool
	err       error
}

// startOffer begins a load of that length. The client is a new one.
func (ms members) startOffer(t *testing.T, spec string, rate float64, length, timeout time.Duration) *offer {
	t.Helper()
	o := &offer{done: make(chan struct{})}
	s, err := workload.Parse(spec)
	if err != nil {
		t.Fatal(err)
	}
	calls, err := workload.New(s)
	if err != nil {
		t.Fatal(err)
	}
	arrivals, err := bench.Poisson(rate, 1)
	if err != nil {
		t.Fatal(err)
	}
	to, err := target.Open("client:"+strings.Join(ms.addresses(), ","), target.Options{Timeout: timeout, Insecure: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
	defer cancel()
	if err := target.Ready(ctx, to); err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	o.began = time.Now()
	go func() {
		defer close(o.done)
		_, o.err = bench.Run(ctx, bench.Options{
			Target: to, Workload: calls, Arrivals: arrivals, Duration: length, Timeout: timeout, OnEvent: o.add,
		})
	}()
	t.Cleanup(func() {
		stop()
		<-o.done
		if err := to.Close(); err != nil {
			t.Error(err)
		}
	})
	return o
}

func (o *offer) add(e bench.Event) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if e.Op != bench.OpCheck && e.Op != bench.OpReserve {
		if e.Err != nil {
			o.settlesFailed++
		}
		return
	}
	c := offeredCall{key: e.Call.Key, due: e.Due, done: e.Done, outcome: e.Answer.Outcome, fallback: e.Answer.Route == "fallback", err: e.Err}
	if e.Err != nil && c.outcome != bench.Refused {
		c.outcome = bench.Failed
	}
	o.calls = append(o.calls, c)
}

// sleepUntil waits until a time of the load.
func (o *offer) sleepUntil(at time.Duration) { time.Sleep(time.Until(o.began.Add(at))) }

// wait waits until all calls have ended.
func (o *offer) wait(t *testing.T) {
	t.Helper()
	<-o.done
	if o.err != nil {
		t.Fatal(o.err)
	}
}

// due returns the calls that were due in a span.
func (o *offer) due(from, to time.Duration) offered {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(o.calls), func(c offeredCall) bool { return c.due < from || c.due >= to })
}

// offered are some of the calls of an offer.
type offered []offeredCall

// of returns the calls for which keep returns true.
func (cs offered) of(keep func(*offeredCall) bool) offered {
	return slices.DeleteFunc(slices.Clone(cs), func(c offeredCall) bool { return !keep(&c) })
}

// answered returns how many have a decision.
func (cs offered) answered() int { return len(cs.of((*offeredCall).answered)) }

func (c *offeredCall) answered() bool { return c.outcome != bench.Failed && c.outcome != bench.Refused }

// quantile returns a quantile of the latencies of answered calls, in thousandths.
func (cs offered) quantile(thousandths int) time.Duration {
	var took []time.Duration
	for _, c := range cs {
		if c.answered() {
			took = append(took, c.done-c.due)
		}
	}
	if len(took) == 0 {
		return 0
	}
	slices.Sort(took)
	return took[(len(took)-1)*thousandths/1000]
}

func (cs offered) String() string {
	count := func(outcome bench.Outcome) int {
		return len(cs.of(func(c *offeredCall) bool { return c.outcome == outcome }))
	}
	text := fmt.Sprintf("%d calls, %d answered, %d refused, %d failed, %d in fallback, p50 %v, p99 %v", len(cs), cs.answered(), count(bench.Refused),
		count(bench.Failed), len(cs.of(func(c *offeredCall) bool { return c.fallback })),
		cs.quantile(500).Round(10*time.Microsecond), cs.quantile(990).Round(10*time.Microsecond))
	for _, c := range cs {
		if c.outcome == bench.Failed {
			return fmt.Sprintf("%s; the first failure: %v", text, c.err)
		}
	}
	return text
}

// metric returns the sum of a metric over some members and over all its labels.
func (ms members) metric(t *testing.T, name string) (sum float64) {
	t.Helper()
	for _, m := range ms {
		ctx, cancel := context.WithTimeout(t.Context(), waittest.Limit)
		defer cancel()
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+m.http+"/metrics", http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		response, err := http.DefaultClient.Do(request)
		if err != nil {
			t.Fatal(err)
		}
		found := false
		for lines := bufio.NewScanner(response.Body); lines.Scan(); {
			line := lines.Text()
			if rest, ok := strings.CutPrefix(line, name); !ok || rest[0] != ' ' && rest[0] != '{' {
				continue
			}
			v, err := strconv.ParseFloat(line[strings.LastIndexByte(line, ' ')+1:], 64)
			if err != nil {
				t.Fatal(err)
			}
			sum, found = sum+v, true
		}
		_ = response.Body.Close()
		if !found {
			t.Fatalf("%s has no metric %s", m.name, name)
		}
	}
	return sum
}

// processorTime returns the processor time that the nodes and this process have used.
func (ps *processes) processorTime(t *testing.T) time.Duration {
	t.Helper()
	const tick = 10 * time.Millisecond // on every known architecture
	sum := cputime.Used()
	for _, p := range ps.run {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
		if err != nil {
			t.Fatal(err)
		}
		_, rest, _ := strings.Cut(string(text), ") ")
		fields := strings.Fields(rest) // from the third on
		for _, field := range fields[11:13] {
			n, err := strconv.ParseInt(field, 10, 64)
			if err != nil {
				t.Fatal(err)
			}
			sum += time.Duration(n) * tick
		}
	}
	return sum
}
