// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"fmt"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// The auditor finds that a limiter admitted 13 calls with a limit of 10.
func Example() {
	a, err := audit.New(audit.Options{Limits: []audit.Limit{
		{Dimension: audit.Requests, Amount: 10},
	}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for i := range 13 {
		sent := time.Duration(i) * time.Millisecond
		a.Add(&bench.Event{
			Op: bench.OpCheck, Call: &bench.Call{Key: "acme/alice", ID: fmt.Sprint(i), Requests: 1},
			Sent: sent, Done: sent + time.Millisecond,
			Answer: bench.Answer{Outcome: bench.Allowed},
		})
	}
	a.AddFinalUsage(audit.KeyUsage{Key: "acme/alice", Used: []bench.LimitUsage{{Scope: "acme/alice", Dimension: "requests", Used: 13}}})
	r := a.Report()
	fmt.Println(r.OK, r.Over[0].Amount)
	fmt.Print(r.Summary())
	// Output:
	// false 3
	// audit: the limiter was NOT right in 13 answers to 13 calls on 1 key
	// - 1 of 1 limit admitted too much:
	//   acme/alice: 13 requests admitted, 3 more than its limit of 10
	// - no call was denied that certainly had room
	// - every id was charged once (1 limit compared)
}
