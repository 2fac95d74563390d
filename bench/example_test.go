// SPDX-License-Identifier: Apache-2.0

package bench_test

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// counter is a limiter that allows each key a fixed number of calls, for ever.
type counter struct {
	limit int

	mu   sync.Mutex
	used map[string]int
}

func (c *counter) check(_ context.Context, call *bench.Call) (bench.Answer, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used[call.Key] == c.limit {
		return bench.Answer{Outcome: bench.Denied, Reason: "limit"}, nil
	}
	c.used[call.Key]++
	return bench.Answer{Outcome: bench.Allowed}, nil
}

// Run measures a limiter from Go: 1,000 calls per second for half a second, for
// five keys with a limit of 60 calls each.
func ExampleRun() {
	c := &counter{limit: 60, used: make(map[string]int)}
	n := 0
	calls := bench.WorkloadFunc(func(call *bench.Call) bool {
		call.Key, call.ID = fmt.Sprintf("user-%d", n%5), fmt.Sprintf("call-%d", n)
		n++
		return true
	})
	arrivals, err := bench.Constant(1000)
	if err != nil {
		fmt.Println(err)
		return
	}
	r, err := bench.Run(context.Background(), bench.Options{
		Target: bench.CheckFunc(c.check), Workload: calls, Arrivals: arrivals, Duration: 500 * time.Millisecond,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Printf("offered %d, allowed %d, denied %d, failed %d, dropped %d\n",
		r.Offered, r.Allowed, r.Denied, r.Failed, r.Dropped)
	fmt.Println("p99 below a second:", r.Latency(bench.OpCheck).P99 < time.Second)
	// Output:
	// offered 500, allowed 300, denied 200, failed 0, dropped 0
	// p99 below a second: true
}
