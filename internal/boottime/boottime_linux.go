// SPDX-License-Identifier: Apache-2.0

package boottime

import (
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Clock is CLOCK_BOOTTIME, which counts the time in which the machine was suspended. To
// read it takes a system call, which costs more than a decision. The clocks of package
// time do not count suspension. But the wall clock jumps then, relative to the monotonic
// clock, so the system is asked only after such a jump.
type Clock struct {
	base time.Time
	// wall is how far the wall clock was ahead of the monotonic one, and boot how far
	// CLOCK_BOOTTIME was, at the last system call.
	wall, boot atomic.Int64
}

// maxJump is how much suspension goes unnoticed: a small part of what leases allow for
// clocks whose rates differ.
const maxJump = 5 * time.Millisecond

// New returns a clock whose times are positive.
func New() *Clock {
	c := &Clock{base: time.Now()}
	c.calibrate(time.Now())
	return c
}

// Now returns the time.
func (c *Clock) Now() time.Duration {
	now := time.Now()
	mono := now.Sub(c.base)
	if jump := now.UnixNano() - int64(mono) - c.wall.Load(); jump > int64(maxJump) || jump < -int64(maxJump) {
		return c.calibrate(now)
	}
	return mono + time.Duration(c.boot.Load())
}

// calibrate reads CLOCK_BOOTTIME.
func (c *Clock) calibrate(now time.Time) time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &ts); err != nil {
		panic(err) // every Linux that Go supports has it
	}
	mono := now.Sub(c.base)
	boot := ts.Nano() - int64(mono)
	// Concurrent calls store the same, except for the time between their two clocks.
	for old := c.boot.Load(); boot > old && !c.boot.CompareAndSwap(old, boot); old = c.boot.Load() {
	}
	c.wall.Store(now.UnixNano() - int64(mono))
	return mono + time.Duration(c.boot.Load())
}
