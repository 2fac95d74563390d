// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"flag"
	"os"
	"testing"
)

// TestMain keeps rapid from writing a file for every failure. The printed seed is
// enough.
func TestMain(m *testing.M) {
	flag.Parse()
	_ = flag.Set("rapid.nofailfile", "true")
	os.Exit(m.Run())
}
