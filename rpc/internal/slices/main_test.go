// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine may outlive a closed table.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
