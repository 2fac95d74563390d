// SPDX-License-Identifier: Apache-2.0

package replay

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/bucketring/bucketring/internal/trace"
)

// The first hundred calls take 43 seconds of virtual time.
func Example() {
	calls, err := trace.Load()
	if err != nil {
		log.Fatal(err)
	}
	dir, err := os.MkdirTemp("", "bucketring")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	c, clock, stop, err := startNode(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer stop()

	history, err := replay(context.Background(), c, clock, calls[:100])
	if err != nil {
		log.Fatal(err)
	}
	outcomes := map[string]int{}
	var reserved, generated int64
	for _, e := range history {
		switch {
		case e.reserve != nil:
			outcomes[string(e.reserved.Outcome)]++
			reserved += e.reserved.Granted()
		case e.final:
			generated += *e.usage.OutputTokens
		}
	}
	fmt.Println(outcomes)
	fmt.Println(reserved, "output tokens reserved,", generated, "generated")
	// Output:
	// map[allowed:94 denied:6]
	// 96256 output tokens reserved, 15742 generated
}
