// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"testing"

	"go.uber.org/goleak"
)

// No goroutine may outlive a closed client.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
