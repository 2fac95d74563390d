// SPDX-License-Identifier: Apache-2.0

//go:build !unix

package audit_test

import "time"

// cpuTime is unknown here.
func cpuTime() time.Duration { return 0 }
