// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"
)

// TestSweepStep: a pass over all keys takes 10 s at most, and few keys need few steps.
func TestSweepStep(t *testing.T) {
	for _, tt := range []struct {
		keys     int
		interval time.Duration
		visited  int
	}{
		{0, 200 * time.Millisecond, 256},
		{1_000, 200 * time.Millisecond, 256},
		{25_600, 100 * time.Millisecond, 256},
		{51_200, 50 * time.Millisecond, 256},
		{256_000, 10 * time.Millisecond, 256},
		{10_000_000, 10 * time.Millisecond, 10_000},
	} {
		interval, visited := sweepStep(tt.keys)
		if interval != tt.interval || visited != tt.visited {
			t.Errorf("sweepStep(%d) = %s, %d, want %s, %d", tt.keys, interval, visited, tt.interval, tt.visited)
		}
		if pass := time.Duration(tt.keys) * interval / time.Duration(visited); pass > sweepTime {
			t.Errorf("a pass over %d keys takes %s, want %s at most", tt.keys, pass, sweepTime)
		}
	}
}
