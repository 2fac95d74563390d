// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// denied is a denial by one limit.
func denied(reason pb.Reason, l *pb.LimitState) *pb.Decision {
	binding := int32(0)
	d := &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, Reason: reason}
	if l != nil {
		d.Binding, d.Limits = &binding, []*pb.LimitState{l}
	}
	return d
}

func TestMessages(t *testing.T) {
	state := func(dimension, algorithm string, window time.Duration, limit, remaining int64) *pb.LimitState {
		return &pb.LimitState{
			Name: "l", Dimension: dimension, Algorithm: algorithm, Window: durationpb.New(window), Limit: limit, Capacity: limit, Remaining: remaining,
		}
	}
	burst := state("tokens", "token_bucket", time.Minute, 5_000_000, 20_000)
	burst.Capacity = 500_000
	debt := state("tokens", "token_bucket", time.Minute, 10_000, 0)
	debt.Debt = 2_000
	big := state("tokens", "token_bucket", time.Minute, 10_000, 10_000)
	big.Cost = 12_000
	shut := state("spend", "fixed_window", 24*time.Hour, 0, 0)
	shut.Cost = 1_000_000

	const exceeded, capacity = pb.Reason_REASON_LIMIT_EXCEEDED, pb.Reason_REASON_EXCEEDS_CAPACITY
	for _, tt := range []struct {
		d    *pb.Decision
		want string
	}{
		{denied(exceeded, state("tokens", "token_bucket", time.Minute, 100_000, 5_000)), "Token limit exceeded. 95,000 of 100,000 tokens used this minute."},
		{denied(exceeded, state("requests", "token_bucket", time.Hour, 1, 0)), "Request limit exceeded. 1 of 1 request used this hour."},
		{denied(exceeded, state("requests", "sliding_window", time.Minute, 20, 0)), "Request limit exceeded. 20 of 20 requests used in the last minute."},
		{denied(exceeded, state("requests", "sliding_window", 30*24*time.Hour, 20, 0)), "Request limit exceeded. 20 of 20 requests used in the last 30 days."},
		{denied(exceeded, state("requests", "token_bucket", 90*time.Second, 20, 0)), "Request limit exceeded. 20 of 20 requests used in the last 1m30s."},
		{denied(exceeded, state("input_tokens", "fixed_window", 15*time.Minute, 2000, 0)), "Input token limit exceeded. 2,000 of 2,000 input tokens used in this window of 15m."},
		{denied(exceeded, state("output_tokens", "fixed_window", 7*24*time.Hour, 2000, 0)), "Output token limit exceeded. 2,000 of 2,000 output tokens used this week."},
		{denied(exceeded, state("spend", "fixed_window", 25*time.Hour, 1_000_000, 50_125)), "Spend limit exceeded. $0.949875 of $1.00 used today."},
		{denied(exceeded, state("spend", "fixed_window", 28*24*time.Hour, 2_000_000_000, 0)), "Spend limit exceeded. $2,000.00 of $2,000.00 used this month."},
		{denied(exceeded, state("concurrent", "concurrency", 0, 2, 0)), "Concurrency limit exceeded. 2 of 2 concurrent calls running."},
		{denied(exceeded, state("images", "token_bucket", time.Second, 5, 1)), "Images limit exceeded. 4 of 5 images used this second."},
		{denied(exceeded, burst), "Token limit exceeded. 480,000 of a burst of 500,000 tokens used; the rate is 5,000,000 per minute."},
		{denied(exceeded, debt), "Token limit exceeded. 12,000 of 10,000 tokens used this minute."},
		{denied(capacity, big), "Token limit exceeded. This call needs 12,000 tokens, and the limit never grants more than 10,000 tokens at once."},
		{denied(capacity, shut), "Spend limit exceeded. This call needs $1.00, and the limit is 0."},
		{denied(pb.Reason_REASON_OWNER_UNREACHABLE, shut), "Spend limit cannot be checked: the node that keeps it is unreachable."},
		{denied(pb.Reason_REASON_NO_PRICE, shut), `A spend limit applies, and the policy has no price for model "m".`},
		{denied(pb.Reason_REASON_TABLE_FULL, nil), "There is no room for a new key; try again later."},
		{denied(pb.Reason_REASON_UNSPECIFIED, nil), "The call was denied."},
	} {
		if got := denialMessage(tt.d, "m"); got != tt.want {
			t.Errorf("message = %s\nwant      %s", got, tt.want)
		}
	}
}

func TestDollars(t *testing.T) {
	for _, tt := range []struct {
		micros int64
		want   string
	}{
		{0, "$0.00"}, {1, "$0.000001"}, {10_000, "$0.01"}, {12_500, "$0.0125"}, {1_000_000, "$1.00"}, {1_234_567_890_000, "$1,234,567.89"},
	} {
		if got := dollars(tt.micros); got != tt.want {
			t.Errorf("dollars(%d) = %s, want %s", tt.micros, got, tt.want)
		}
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
