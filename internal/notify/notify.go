// SPDX-License-Identifier: Apache-2.0

// Package notify wakes one goroutine.
package notify

// Signal tells one goroutine that there is something to do. Any number of calls
// of [Signal.Set] before it looks wake it once. A Signal is made by [New], copied
// freely, safe for concurrent use, and never closed.
type Signal struct{ c chan struct{} }

// New returns a signal that is not set.
func New() Signal { return Signal{make(chan struct{}, 1)} }

// Set wakes the goroutine that waits on [Signal.C], or the next one that does. It
// never blocks.
func (s Signal) Set() {
	select {
	case s.c <- struct{}{}:
	default:
	}
}

// C returns the channel to wait on. A receive resets the signal.
func (s Signal) C() <-chan struct{} { return s.c }
