// SPDX-License-Identifier: Apache-2.0

// Package sizing measures what a node takes in memory for the keys, request ids and
// reservations that come through the client library. It has tests only.
//
//	go test ./internal/sizing                        # bytes of each on the heap
//	go test ./internal/sizing -v -run Table -full    # the table of docs/operating.md, as make sizing does
package sizing

import (
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var (
	full       = flag.Bool("full", false, "run TestTable, which takes some minutes")
	binaryPath = flag.String("binary", "", "bucketring binary for TestTable, which is run as bucketring serve in place of the nodes of the test; on a busy machine it forgets ids before all calls are made")
	writeDocs  = flag.Bool("write", false, "TestTable writes its table to docs/operating.md")
)

// asNode is the first argument of this program when it is to be a node, not to test.
const asNode = "as-node"

// page is the page of the documentation with the tables.
var page = filepath.Join("..", "..", "docs", "operating.md")

// rules are four limits for each key, the dimensions of the benchmarks of the engine, which
// admit all calls.
const rules = `
tiers:
  all:
    limits:
      - { name: requests, dimension: requests, limit: 1_000_000, window: 1m }
      - { name: tokens, dimension: tokens, limit: 1_000_000_000, window: 1m }
      - { name: running, dimension: concurrent, limit: 1_000 }
      - { name: spend, dimension: spend, limit: $1000, window: day }
default_tier: all
prices: { "*": { input: 1.00, output: 3.00 } }
`

// writeRules writes the policy to a file.
func writeRules(t *testing.T) (file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "policy.yaml")
	if err := os.WriteFile(file, []byte(rules), 0o600); err != nil {
		t.Fatal(err)
	}
	return file
}
