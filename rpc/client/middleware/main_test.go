// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine may outlive the calls.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
