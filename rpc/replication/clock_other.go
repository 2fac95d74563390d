// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package replication

import "time"

// clock does not count the time in which the machine is suspended. Suspend no member of
// a cluster on systems other than Linux: it may decide for a moment after it was replaced.
type clock struct{ base time.Time }

func newClock() *clock { return &clock{time.Now().Add(-time.Hour)} }

func (c *clock) now() time.Duration { return time.Since(c.base) }
