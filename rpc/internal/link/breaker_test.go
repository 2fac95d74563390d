// SPDX-License-Identifier: Apache-2.0

package link

import (
	"fmt"
	"testing"
)

// Times are in milliseconds here; the timeout is 1000.
func TestBreaker(t *testing.T) {
	const ms = 1_000_000
	type step struct {
		at   int64
		what string // owes, heard, heard-owes, square, missed, trip, admit, end
		want string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"silent for the timeout", []step{
			{0, "owes", ""},
			{1000, "missed", "true"},
		}},
		{"one call late in a quarter is not enough", []step{
			{0, "owes", ""},
			{300, "missed", "false"},
			{600, "missed", "false"},
			{700, "missed", "true"}, // the third
		}},
		{"many calls in a hurry are not silence", []step{
			{0, "owes", ""},
			{1, "missed", "false"},
			{1, "missed", "false"},
			{1, "missed", "false"},
			{2, "missed", "false"},
			{2, "heard-owes", "false"},
			{3, "missed", "false"},
			{4, "missed", "false"},
			{251, "missed", "false"},
			{252, "missed", "true"},
		}},
		{"an answer starts the count anew", []step{
			{0, "owes", ""},
			{300, "missed", "false"},
			{301, "missed", "false"},
			{302, "heard-owes", "false"},
			{900, "missed", "false"},
			{901, "missed", "false"},
			{902, "missed", "true"},
		}},
		{"nothing owed, nothing missed", []step{
			{0, "owes", ""},
			{5, "heard", "false"},
			{5000, "missed", "false"},
			{5000, "missed", "false"},
			{5000, "missed", "false"},
			{5000, "owes", ""},
			{5999, "missed", "false"},
			{6000, "missed", "true"},
		}},
		{"what broke is not silent", []step{
			{0, "owes", ""},
			{900, "square", ""},
			{1500, "missed", "false"},
		}},
		{"owing more does not make it owe later", []step{
			{0, "owes", ""},
			{900, "owes", ""},
			{1000, "missed", "true"},
		}},
		{"open: one probe at a time, each 250 ms; closes with an answer", []step{
			{0, "admit", "true false"},
			{0, "owes", ""},
			{1000, "missed", "true"},
			{1000, "trip", "true"},
			{1000, "square", ""},
			{1001, "admit", "false false"},
			{1249, "admit", "false false"},
			{1250, "admit", "true true"},
			{1250, "owes", ""},
			{1300, "admit", "false false"},
			{1600, "admit", "false false"}, // the probe is still there
			{1700, "end", ""},
			{1700, "missed", "false"}, // a probe in a hurry
			{1700, "admit", "true true"},
			{1800, "end", ""},
			{1800, "missed", "false"},
			{1900, "missed", "false"},
			{1949, "admit", "false false"},
			{1950, "admit", "true true"},
			{2250, "missed", "true"}, // silent for 1 s
			{2250, "trip", "false"},  // was open
			{2250, "heard", "true"},
			{2250, "admit", "true false"},
			{2251, "heard", "false"},
		}},
		{"tripped while a stream is being made: counts anew", []step{
			{0, "owes", ""},
			{1000, "missed", "true"},
			{1000, "trip", "true"},
			{1001, "missed", "false"},
			{1250, "admit", "true true"},
			{2000, "missed", "true"},
			{2000, "trip", "false"},
			{2000, "end", ""},
			{2000, "admit", "true true"}, // trip again moves no probe
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBreaker(1000 * ms)
			for i, s := range tt.steps {
				now, got := s.at*ms, ""
				switch s.what {
				case "owes":
					b.owes(now)
				case "heard":
					got = fmt.Sprint(b.heard(now, false))
				case "heard-owes":
					got = fmt.Sprint(b.heard(now, true))
				case "square":
					b.square()
				case "missed":
					got = fmt.Sprint(b.missed(now, 1))
				case "trip":
					got = fmt.Sprint(b.trip(now))
				case "admit":
					admitted, probe := b.admit(now)
					got = fmt.Sprint(admitted, probe)
				case "end":
					b.probing = false
				}
				if got != s.want {
					t.Fatalf("step %d at %d ms: %s = %q, want %q", i, s.at, s.what, got, s.want)
				}
			}
		})
	}
}
