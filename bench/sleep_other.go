// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package bench

import "time"

func nanosleep(time.Duration) bool { return false }

func withPreciseSleep(f func()) { f() }
