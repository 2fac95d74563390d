// SPDX-License-Identifier: Apache-2.0

package requestid

import "testing"

func TestNewAttempt(t *testing.T) {
	var others []uint64
	for range attemptTags {
		a := NewAttempt(others...)
		if a == 0 || sameTag(a, others) {
			t.Fatalf("NewAttempt(%d) = %d", others, a)
		}
		others = append(others, a)
	}
	if NewAttempt(others...) == 0 {
		t.Error("no attempt when all tags are taken")
	}
}
