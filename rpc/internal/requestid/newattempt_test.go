// SPDX-License-Identifier: Apache-2.0

package requestid

import "testing"

// TestAttempts: no two attempts of a caller, with those of members for each of them, are the same for
// an owner.
func TestAttempts(t *testing.T) {
	for _, tt := range []struct{ caller, ofEach, tags uint64 }{{9, 7, 63}, {9, 7, 504}, {4_000, 7, 262_080}} {
		seen := map[uint64]bool{}
		var attempt uint64
		for range tt.caller {
			attempt = NextAttempt(attempt)
			for i, of := uint64(0), attempt; i < tt.ofEach; i++ {
				if seen[of%tt.tags] {
					t.Fatalf("attempt %d is that of another one modulo %d", of, tt.tags)
				}
				seen[of%tt.tags] = true
				of = NextMemberAttempt(of)
			}
		}
	}
	for _, last := range []uint64{1<<64 - callerStep, 1<<64 - memberStep} {
		if NextAttempt(last) == 0 || NextMemberAttempt(last) == 0 {
			t.Errorf("an attempt without id after %d", last)
		}
	}
}
