// SPDX-License-Identifier: Apache-2.0

package node

import (
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// TestSweepStep: a pass over all partitions and keys takes 10 s at most, and few keys need few
// and short steps.
func TestSweepStep(t *testing.T) {
	for _, tt := range []struct {
		keys     int
		interval time.Duration
		visited  int
	}{
		{0, 200 * time.Millisecond, 82},
		{1_000, 200 * time.Millisecond, 102},
		{25_600, 100 * time.Millisecond, 297},
		{51_200, 50 * time.Millisecond, 277},
		{256_000, 10 * time.Millisecond, 261},
		{10_000_000, 10 * time.Millisecond, 10_005},
	} {
		interval := sweepInterval(tt.keys)
		visited := sweepVisits(tt.keys, interval)
		if interval != tt.interval || visited != tt.visited {
			t.Errorf("%d keys: %d visited every %s, want %d every %s", tt.keys, visited, interval, tt.visited, tt.interval)
		}
		if pass := time.Duration(tt.keys+limiter.Partitions) * interval / time.Duration(visited); pass > sweepTime {
			t.Errorf("a pass over %d keys takes %s, want %s at most", tt.keys, pass, sweepTime)
		}
	}
}
