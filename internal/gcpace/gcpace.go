// SPDX-License-Identifier: Apache-2.0

// Package gcpace sets GOGC to suit a process whose heap is mostly long-lived data without
// pointers, as the keys and ids of a node are. Marking such a heap is cheap, so a large one
// needs no room for garbage that is as large again.
//
// The percentage is of the whole process. The memory limit of the process (GOMEMLIMIT)
// bounds the heap as before: the runtime collects at whichever goal is lower.
package gcpace

import (
	"context"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

const (
	// most is the default of GOGC: heaps of at most small bytes keep it, since collections
	// cost processor time.
	most, small = 100, 128 << 20
	// headroom is the least that a larger process may allocate between two collections.
	headroom = 48 << 20
	// least is the percentage of a heap so large that a part of it is more than headroom.
	least = 10

	// every is the time between two looks at the heap.
	every = 250 * time.Millisecond
)

// Percent returns the GOGC for a heap with so many live bytes: room for as much garbage up to
// 128 MiB, then for 1 byte less for every 2 live bytes more, down to 48 MiB, and at least for a
// tenth of the live bytes.
func Percent(live uint64) int {
	if live <= small {
		return most
	}
	room := uint64(headroom)
	if less := (live - small) / 2; less < small-headroom {
		room = small - less
	}
	return max(least, int(room*100/live))
}

// Run sets GOGC as the heap grows and shrinks, until ctx is done. Then it restores what was
// set before. Only one Run may be in progress in a process.
func Run(ctx context.Context) {
	current := most
	before := debug.SetGCPercent(current)
	defer debug.SetGCPercent(before)
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		// A change stops the world for a moment, so small ones are not made.
		if p := Percent(live()); p < current-current/16 || p > current+current/16 {
			debug.SetGCPercent(p)
			current = p
		}
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// live returns the bytes that the last collection found in use.
func live() uint64 {
	s := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}
