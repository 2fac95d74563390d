// SPDX-License-Identifier: Apache-2.0

package workload_test

import (
	"fmt"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/workload"
)

func Example() {
	spec, err := workload.Parse("keys=zipf:1.1x100k tiers=free=70,paid=30 tokens=fixed:900+100 seed=7")
	if err != nil {
		fmt.Println(err)
		return
	}
	calls, err := workload.New(spec)
	if err != nil {
		fmt.Println(err)
		return
	}
	var c bench.Call
	for range 3 {
		calls.Next(&c)
		fmt.Println(c.ID, c.Key, c.Tier, c.InputTokens, c.OutputTokens)
	}
	fmt.Print(calls.Describe())
	// Output:
	// 7-000000 user-00213 paid 900 100
	// 7-000001 user-03383 free 900 100
	// 7-000002 user-00000 free 900 100
	// keys     Zipf with exponent 1.1 over 100,000 keys, user-00000 to user-99999; user-00000 has 13.5% of these calls, the first hundred have 57.6%
	// tokens   input 900, output 100
	// tiers    free 70%, paid 30% of the keys, by a hash of the key
	// llm      none: all calls are checks
	// ids      7-000000, …
	// seed     7
}
