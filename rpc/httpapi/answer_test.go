// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestDenialMessage: a denial is told with its binding limit, whole.
func TestDenialMessage(t *testing.T) {
	binding := int32(1)
	burst := &pb.LimitState{
		Name: "l", Dimension: "tokens", Algorithm: "token_bucket", Window: durationpb.New(time.Minute),
		Limit: 5_000_000, Capacity: 500_000, Remaining: 20_000, Cost: 600_000,
	}
	debt := &pb.LimitState{
		Name: "l", Dimension: "tokens", Algorithm: "sliding_window", Window: durationpb.New(time.Minute), Limit: 10_000, Capacity: 10_000, Debt: 2_000,
	}
	for _, tt := range []struct {
		reason pb.Reason
		l      *pb.LimitState
		want   string
	}{
		{pb.Reason_REASON_LIMIT_EXCEEDED, burst, "Token limit exceeded. 480,000 of a burst of 500,000 tokens used; the rate is 5,000,000 per minute."},
		{pb.Reason_REASON_LIMIT_EXCEEDED, debt, "Token limit exceeded. 12,000 of 10,000 tokens used in the last minute."},
		{pb.Reason_REASON_EXCEEDS_CAPACITY, burst, "Token limit exceeded. This call needs 600,000 tokens, and the limit never grants more than 500,000 tokens at once."},
		{pb.Reason_REASON_OWNER_UNREACHABLE, burst, "Token limit cannot be checked: the node that keeps it is unreachable."},
		{pb.Reason_REASON_NO_PRICE, burst, `A spend limit applies, and the policy has no price for model "m".`},
		{pb.Reason_REASON_TABLE_FULL, burst, "There is no room for a new key; try again later."},
	} {
		d := &pb.Decision{
			Outcome: pb.Outcome_OUTCOME_DENIED, Reason: tt.reason, Binding: &binding, Limits: []*pb.LimitState{{Dimension: "requests"}, tt.l},
		}
		if got := denialMessage(d, "m"); got != tt.want {
			t.Errorf("message = %s\nwant      %s", got, tt.want)
		}
	}
	if got, want := denialMessage(&pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED}, ""), "The call was denied."; got != want {
		t.Errorf("message = %s, want %s", got, want)
	}
}

// TestRounding: what a caller waits for is never announced too early.
func TestRounding(t *testing.T) {
	for _, tt := range []struct {
		d    time.Duration
		want string
	}{
		{0, "0"},
		{1, "0.001"},
		{time.Millisecond, "0.001"},
		{time.Millisecond + 1, "0.002"},
		{100 * time.Millisecond, "0.1"},
		{1500 * time.Millisecond, "1.5"},
		{2 * time.Second, "2"},
		{10*time.Second - 1, "10"},
		{86400*time.Second + 10*time.Millisecond, "86400.01"},
	} {
		if got := string(secondsOf(durationpb.New(tt.d))); got != tt.want {
			t.Errorf("secondsOf(%v) = %s, want %s", tt.d, got, tt.want)
		}
	}
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	for _, tt := range []struct {
		plus time.Duration
		want string
	}{
		{0, "2026-01-02T03:04:05Z"}, {1, "2026-01-02T03:04:05.001Z"}, {250 * time.Millisecond, "2026-01-02T03:04:05.25Z"}, {time.Second - 1, "2026-01-02T03:04:06Z"},
	} {
		if got := instant(timestamppb.New(at.Add(tt.plus))); got != tt.want {
			t.Errorf("instant(+%v) = %s, want %s", tt.plus, got, tt.want)
		}
	}
}

// TestTightest: the header tells of the limit that will be hit first.
func TestTightest(t *testing.T) {
	limits := []*pb.LimitState{
		{Name: "org", Dimension: "tokens", Capacity: 1 << 53, Remaining: 1 << 52},
		{Name: "user", Dimension: "tokens", Capacity: 1000, Remaining: 499},
		{Name: "watch", Dimension: "tokens", Capacity: 1000, Remaining: 0, Shadow: true},
		{Name: "rpm", Dimension: "requests", Capacity: 10, Remaining: 1},
	}
	if got := tightest(limits, "tokens"); got.GetName() != "user" {
		t.Errorf("tightest(tokens) = %v, want user", got)
	}
	if got := tightest(limits, "spend"); got != nil {
		t.Errorf("tightest(spend) = %v, want none", got)
	}
}

// Every field of an answer is in the JSON, but for those that are left out on purpose.
func TestJSONHasEveryFieldOfAnAnswer(t *testing.T) {
	decode := func(wire []byte, m proto.Message) {
		if err := proto.Unmarshal(wire, m); err != nil {
			t.Fatal(err)
		}
	}
	encode := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	fieldtest.Carried(t, "the JSON of a decision", &pb.Decision{}, []protoreflect.Name{"replayed"}, func(wire []byte) string {
		m := &pb.Decision{}
		decode(wire, m)
		return encode(decisionOf(m, "model"))
	})
	fieldtest.Carried(t, "the JSON of a settlement", &pb.Settlement{}, nil, func(wire []byte) string {
		m := &pb.Settlement{}
		decode(wire, m)
		return encode(settlementOf(m))
	})
	fieldtest.Carried(t, "the JSON of a peek", &pb.PeekResponse{}, nil, func(wire []byte) string {
		m := &pb.PeekResponse{}
		decode(wire, m)
		return encode(peekOf(m))
	})
	fieldtest.Carried(t, "the JSON of a limit", &pb.LimitState{}, []protoreflect.Name{"window", "cost", "capacity"}, func(wire []byte) string {
		m := &pb.LimitState{}
		decode(wire, m)
		return encode(limitsOf([]*pb.LimitState{m}))
	})
}
