// SPDX-License-Identifier: Apache-2.0

package main

import (
	"runtime/debug"
	"testing"
)

// TestGOGCOfTheEnvironmentStays: nodes change GOGC only if the environment does not set it.
func TestGOGCOfTheEnvironmentStays(t *testing.T) {
	const given = 150
	defer debug.SetGCPercent(debug.SetGCPercent(given))
	s := &streams{lookupEnv: func(name string) (string, bool) { return "150", name == "GOGC" }}
	stop := s.paceGC(t.Context())
	stop()
	if got := debug.SetGCPercent(given); got != given {
		t.Errorf("GOGC is %d, want %d as in the environment", got, given)
	}
}
