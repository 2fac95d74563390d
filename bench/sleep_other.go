// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bench

import "time"

func nap(time.Duration) bool { return false }

func exactly(f func()) { f() }
