// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package boottime

import "time"

// Clock does not count the time in which the machine is suspended. Suspend no member of
// a cluster on systems other than Linux: it may decide for a moment after it was replaced.
type Clock struct{ base time.Time }

// New returns a clock whose times are positive.
func New() *Clock { return &Clock{time.Now().Add(-time.Hour)} }

// Now returns the time.
func (c *Clock) Now() time.Duration { return time.Since(c.base) }
