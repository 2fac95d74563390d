// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// TestThrottle: the five integers, as redis-cell answers.
func TestThrottle(t *testing.T) {
	n := newNode(t)
	u := n.dial()
	at := func(ms int64) { n.elapsed.Store(ms * int64(time.Millisecond)) }
	u.want("CL.THROTTLE user123 15 30 60 1", "[:0 :16 :15 :-1 :2]") // the example of its manual
	u.want("cl.throttle user123 15 30 60", "[:0 :16 :14 :-1 :4]")
	u.want("CL.THROTTLE user123 15 30 60 0", "[:0 :16 :14 :-1 :4]")
	for _, tt := range []struct {
		ms   int64
		q    int
		want string
	}{
		{0, 6, "[:1 :5 :5 :-1 :0]"},
		{0, 1, "[:0 :5 :4 :-1 :1]"},
		{0, 4, "[:0 :5 :0 :-1 :5]"},
		{0, 1, "[:1 :5 :0 :1 :5]"},
		{100, 1, "[:1 :5 :0 :1 :5]"}, // 0.9 s, rounded up
		{3000, 1, "[:0 :5 :2 :-1 :3]"},
		{3100, 1, "[:0 :5 :1 :-1 :4]"},
		{3100, 5, "[:1 :5 :1 :4 :4]"},
	} {
		at(tt.ms)
		u.want(fmt.Sprintf("CL.THROTTLE foo 4 1 1 %d", tt.q), tt.want)
	}
	for _, tt := range []struct{ command, want string }{
		{"CL.THROTTLE a 1 1", "-ERR wrong number of arguments for 'cl.throttle' command"},
		{"CL.THROTTLE a 1 1 1 1 1", "-ERR wrong number of arguments for 'cl.throttle' command"},
		{"CL.THROTTLE a x 1 1", `-ERR max_burst: must be a number, got "x"`},
		{"CL.THROTTLE a -1 1 1", "-ERR max_burst: must not be negative, got -1"},
		{"CL.THROTTLE a 1 0 1", "-ERR count_per_period: must be between 1 and 9007199254740992, got 0"},
		{"CL.THROTTLE a 1 1 0", "-ERR period: must be between 1 and 1000000000, got 0"},
		{"CL.THROTTLE a 1 1 1 1.5", "-ERR quantity: must be a whole number, got 1.5"},
		{"CL.THROTTLE a 1000 1 1000000000", "-ERR capacity: an empty bucket must be full again within 100 years, got 1001"},
		{"CL.THROTTLE a//b 1 1 1", `-ERR key: segments must not be empty, got "a//b"`},
	} {
		u.want(tt.command, tt.want)
	}
	// It has nothing to do with the policy's limits of the key.
	if got := u.do("BR.LIMITS foo TIER one"); !strings.Contains(got, "remaining :1 ") {
		t.Errorf("limits of foo = %s", got)
	}
}
