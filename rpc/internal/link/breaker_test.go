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
		what string // a case of the switch below
		want string
	}
	tests := []struct {
		name  string
		steps []step
	}{
		{"silent for the timeout", []step{
			{0, "ask", ""},
			{1000, "timeout", "true"},
		}},
		{"two timeouts after a quarter are not enough", []step{
			{0, "ask", ""},
			{300, "timeout", "false"},
			{600, "timeout", "false"},
			{700, "timeout", "true"}, // the third
		}},
		{"many short deadlines are not silence", []step{
			{0, "ask", ""},
			{1, "timeout", "false"},
			{1, "timeout", "false"},
			{1, "timeout", "false"},
			{2, "timeout", "false"},
			{2, "answer, more outstanding", "false"},
			{3, "timeout", "false"},
			{4, "timeout", "false"},
			{251, "timeout", "false"},
			{252, "timeout", "true"},
		}},
		{"an answer resets the count", []step{
			{0, "ask", ""},
			{300, "timeout", "false"},
			{301, "timeout", "false"},
			{302, "answer, more outstanding", "false"},
			{900, "timeout", "false"},
			{901, "timeout", "false"},
			{902, "timeout", "true"},
		}},
		{"nothing outstanding, no timeout counts", []step{
			{0, "ask", ""},
			{5, "answer", "false"},
			{5000, "timeout", "false"},
			{5000, "timeout", "false"},
			{5000, "timeout", "false"},
			{5000, "ask", ""},
			{5999, "timeout", "false"},
			{6000, "timeout", "true"},
		}},
		{"a broken stream is not silence", []step{
			{0, "ask", ""},
			{900, "clear", ""},
			{1500, "timeout", "false"},
		}},
		{"a later call does not move the start", []step{
			{0, "ask", ""},
			{900, "ask", ""},
			{1000, "timeout", "true"},
		}},
		{"open: one probe at a time, each 250 ms; closes with an answer", []step{
			{0, "admit", "true false"},
			{0, "ask", ""},
			{1000, "timeout", "true"},
			{1000, "trip", "true"},
			{1000, "clear", ""},
			{1001, "admit", "false false"},
			{1249, "admit", "false false"},
			{1250, "admit", "true true"},
			{1250, "ask", ""},
			{1300, "admit", "false false"},
			{1600, "admit", "false false"}, // the probe is in flight
			{1700, "end", ""},
			{1700, "timeout", "false"}, // a probe with a short deadline
			{1700, "admit", "true true"},
			{1800, "end", ""},
			{1800, "timeout", "false"},
			{1900, "timeout", "false"},
			{1949, "admit", "false false"},
			{1950, "admit", "true true"},
			{2250, "timeout", "true"}, // silent for 1 s
			{2250, "trip", "false"},   // was open
			{2250, "answer", "true"},
			{2250, "admit", "true false"},
			{2251, "answer", "false"},
		}},
		{"tripped while a stream opens: the timeout restarts", []step{
			{0, "ask", ""},
			{1000, "timeout", "true"},
			{1000, "trip", "true"},
			{1001, "timeout", "false"},
			{1250, "admit", "true true"},
			{2000, "timeout", "true"},
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
				case "ask":
					b.markOutstanding(now)
				case "answer":
					got = fmt.Sprint(b.answered(now, false))
				case "answer, more outstanding":
					got = fmt.Sprint(b.answered(now, true))
				case "clear":
					b.clearOutstanding()
				case "timeout":
					got = fmt.Sprint(b.timedOut(now, 1))
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
