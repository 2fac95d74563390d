// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// An answer says how long a call waited in line, from which place, and its class.
func TestPrintWait(t *testing.T) {
	for _, tt := range []struct {
		d    *pb.Decision
		want string
	}{
		{&pb.Decision{}, ""},
		{&pb.Decision{Priority: pb.Priority_PRIORITY_STANDARD}, ""},
		{&pb.Decision{Priority: pb.Priority_PRIORITY_BATCH}, "class batch\n"},
		{&pb.Decision{Priority: pb.Priority_PRIORITY_INTERACTIVE, Place: 0}, "class interactive\n"},
		{&pb.Decision{Waited: durationpb.New(1234 * time.Millisecond)}, "waited 1.2s\n"},
		{
			&pb.Decision{Waited: durationpb.New(40 * time.Millisecond), Place: 1_203, Priority: pb.Priority_PRIORITY_STANDARD},
			"waited 40ms, from place 1,203 in line, class standard\n",
		},
	} {
		var out bytes.Buffer
		s := &streams{out: &out}
		s.printWait(tt.d)
		if out.String() != tt.want {
			t.Errorf("printWait(%v) = %q, want %q", tt.d, &out, tt.want)
		}
	}
	var out bytes.Buffer
	s := &streams{out: &out}
	s.printLimits([]*pb.LimitState{{Name: "tokens", Dimension: "tokens", Scope: "acme", Capacity: 100_000, Remaining: 10_000, Headroom: 40_000}})
	if !strings.Contains(out.String(), "] leaves 40,000 free\n") {
		t.Errorf("printLimits = %s, want the headroom", &out)
	}
	out.Reset()
	s.printLimits([]*pb.LimitState{{Name: "spend", Dimension: "spend", Scope: "acme", Capacity: 5_000_000, Credit: 2_500_000}})
	if !strings.Contains(out.String(), "] credit $2.50\n") {
		t.Errorf("printLimits = %s, want the credit", &out)
	}
}

// --max-wait takes times that nodes accept, also fractions of seconds.
func TestMaxWaitFlag(t *testing.T) {
	for text, want := range map[string]float64{"0": 0, "0s": 0, "250ms": 0.25, "5s": 5, "10m": 600, "10m1s": -1, "-1s": -1, "5": -1, "": -1, "soon": -1} {
		f := fieldFlag{body: body{}, field: fieldMaxWait, kind: "duration", wait: true}
		err := f.Set(text)
		if got, set := f.body[fieldMaxWait]; set != (want >= 0) || (err == nil) != set || set && got != want {
			t.Errorf("--max-wait %q = %v, %v, want %v", text, got, err, want)
		}
	}
}
