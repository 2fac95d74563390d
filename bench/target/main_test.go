// SPDX-License-Identifier: Apache-2.0

package target

import (
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	DisableRedisLogging()
	goleak.VerifyTestMain(m)
}
