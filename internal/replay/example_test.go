// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"fmt"
	"log"

	"github.com/bucketring/bucketring/internal/trace"
)

// The first hundred calls of the trace take two minutes and a half of the
// node's time, and a moment of ours.
func Example() {
	calls, err := trace.Load()
	if err != nil {
		log.Fatal(err)
	}
	c, clock, stop, err := startNode()
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	history, err := replay(context.Background(), c, clock, calls[:100])
	if err != nil {
		log.Fatal(err)
	}
	outcomes := map[string]int{}
	var reserved, settled int64
	for _, e := range history {
		if e.reserve != nil {
			outcomes[string(e.reserved.Outcome)]++
			reserved += e.reserve.InputTokens + e.reserved.Granted()
		}
		if e.final {
			settled += e.usage.OutputTokens
		}
	}
	fmt.Println(outcomes)
	fmt.Println(calls[99].Offset.Round(1e9), reserved, settled)
	// Output:
}
