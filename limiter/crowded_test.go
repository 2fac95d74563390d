// SPDX-License-Identifier: Apache-2.0

package limiter

import "testing"

// TestCrowded: an engine says that it is crowded before it is full.
func TestCrowded(t *testing.T) {
	e := New(Options{MaxKeys: 100_000})
	if e.Crowded() {
		t.Fatal("an empty engine is crowded")
	}
	left := e.keys.left.Load()
	e.keys.left.Store(4*e.reserve - 1)
	if !e.Crowded() {
		t.Errorf("an engine with room for %d of %d keys is not crowded", 4*e.reserve-1, left)
	}
}
