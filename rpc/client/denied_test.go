// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

func renewal() *pb.SettleRequest {
	return &pb.SettleRequest{Key: "acme/alice", RequestId: "r1", Final: new(false)}
}

func wantMessage(t scene, got proto.Message, want any) {
	t.Helper()
	if diff := cmp.Diff(want, any(got), protocmp.Transform()); diff != "" {
		t.Errorf("node was sent (-want +got):\n%s", diff)
	}
}

// The client has the sentence of the HTTP API, which is made from the answer on the wire.
func TestMessageIsThatOfTheHTTPAPI(t *testing.T) {
	limit := func(change func(*pb.LimitState)) []*pb.LimitState {
		l := &pb.LimitState{
			Name: "tokens", Dimension: "tokens", Scope: "acme/alice", Algorithm: "token_bucket", Limit: 10_000, Capacity: 10_000,
			Remaining: 1000, Window: durationpb.New(time.Minute), Cost: 9000, Exceeded: true,
		}
		change(l)
		return []*pb.LimitState{{Name: "requests", Dimension: "requests", Scope: "acme", Limit: 10, Capacity: 10, Remaining: 9}, l}
	}
	same := func(*pb.LimitState) {}
	for name, tt := range map[string]struct {
		reason  pb.Reason
		limits  []*pb.LimitState
		change  func(*pb.Decision)
		maxWait *time.Duration
		part    string
	}{
		"limit":             {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(same), part: "9,000 of 10,000 tokens used this minute by acme/alice."},
		"capacity":          {reason: pb.Reason_REASON_EXCEEDS_CAPACITY, limits: limit(same), part: "this call needs 9,000 tokens"},
		"hidden":            {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(func(l *pb.LimitState) { l.Hidden = true }), part: "Token limit of acme/alice exceeded."},
		"of a model":        {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(func(l *pb.LimitState) { l.PerModel = true }), part: "Token limit of llama"},
		"debt":              {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(func(l *pb.LimitState) { l.Remaining, l.Debt = 0, 500 }), part: "10,500 of 10,000"},
		"headroom":          {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(func(l *pb.LimitState) { l.Headroom = 4000 }), change: func(d *pb.Decision) { d.Priority = pb.Priority_PRIORITY_BATCH }, part: "for class batch"},
		"no price":          {reason: pb.Reason_REASON_NO_PRICE, limits: limit(same), part: "no price for model"},
		"unreachable":       {reason: pb.Reason_REASON_OWNER_UNREACHABLE, limits: limit(same), part: "is unreachable"},
		"no room":           {reason: pb.Reason_REASON_TABLE_FULL, part: "no room"},
		"ids":               {reason: pb.Reason_REASON_IDS_FULL, limits: limit(same), part: `"acme"`},
		"waited":            {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(same), change: func(d *pb.Decision) { d.Waited = durationpb.New(1500 * time.Millisecond) }, part: "has waited for 1.5s"},
		"too late, policy":  {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(mayWait), change: tooLate, part: "may wait for 5s."},
		"too late, call":    {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(mayWait), change: tooLate, maxWait: new(2 * time.Second), part: "may wait for 2s."},
		"too late, no wait": {reason: pb.Reason_REASON_LIMIT_EXCEEDED, limits: limit(mayWait), change: tooLate, maxWait: new(time.Duration(0)), part: "longer than it may."},
		"no limit":          {reason: pb.Reason_REASON_LIMIT_EXCEEDED, part: "The call was denied."},
	} {
		t.Run(name, func(t *testing.T) {
			answer := &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, Reason: tt.reason, RetryAfter: durationpb.New(12 * time.Second), Limits: tt.limits}
			if tt.limits != nil {
				answer.Binding = new(int32(1))
			}
			if tt.change != nil {
				tt.change(answer)
			}
			x := explain.FromWire(answer, "llama")
			if tt.maxWait != nil { // as package httpapi does
				x.MaxWait = min(x.MaxWait, *tt.maxWait)
			}
			want := explain.Message(&x)
			if !strings.Contains(want, tt.part) {
				t.Errorf("the HTTP API says %q, want %q in it", want, tt.part)
			}
			runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
				t.reserve = func(*pb.ReserveRequest) *pb.Decision { return proto.CloneOf(answer) }
				t.check = func(*pb.CheckRequest) *pb.Decision { return proto.CloneOf(answer) }
				r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", Model: "llama", MaxWait: tt.maxWait})
				if err != nil || r.Message() != want {
					t.Errorf("Reserve().Message() = %q, %v, want %q", r.Message(), err, want)
				}
				d, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice", Model: "llama", MaxWait: tt.maxWait})
				if err != nil || d.Message() != want {
					t.Errorf("Check().Message() = %q, %v, want %q", d.Message(), err, want)
				}
			})
		})
	}
}

func mayWait(l *pb.LimitState) { l.MaxWait = durationpb.New(5 * time.Second) }
func tooLate(d *pb.Decision)   { d.WaitRefused = "too_late" }

func TestErr(t *testing.T) {
	for _, outcome := range []client.Outcome{client.Allowed, client.Degraded} {
		d := client.Decision{Outcome: outcome, Binding: client.LimitState{Name: "tokens", Dimension: "tokens"}}
		if err, message := d.Err(), d.Message(); err != nil || message != "" {
			t.Errorf("%s: Err() = %v, Message() = %q, want neither", outcome, err, message)
		}
	}
	d := client.Decision{
		Outcome: client.Denied, Reason: client.LimitExceeded, RetryAfter: 47_999_001 * time.Microsecond,
		Binding: client.LimitState{Name: "tokens", Dimension: "tokens", Scope: "acme/alice", Limit: 10_000, Capacity: 10_000, Remaining: 1000, Window: time.Minute},
	}
	err := d.Err()
	const want = "denied: Token limit exceeded: 9,000 of 10,000 tokens used this minute by acme/alice: try again in 48s"
	if err == nil || err.Error() != want {
		t.Errorf("Err() = %v, want %s", err, want)
	}
	denied, ok := errors.AsType[*client.DeniedError](err)
	if !ok || denied.Decision.RetryAfter != d.RetryAfter {
		t.Errorf("Err() = %#v, want a DeniedError with the decision", err)
	}
	d.RetryAfter = 0
	if got := d.Err().Error(); strings.Contains(got, "try again") {
		t.Errorf("Err() without a time = %q, want nothing of trying again", got)
	}
	unknown := client.Decision{Outcome: "unknown"} // of a newer node: the call must not run
	if unknown.Err() == nil || unknown.Message() == "" {
		t.Errorf("Err() of an unknown outcome = %v, %q, want a denial", unknown.Err(), unknown.Message())
	}
}

// What ends a reservation is reported also when the caller has gone.
func TestEndsAfterItsContext(t *testing.T) {
	cancelled, cancel := context.WithCancel(t.Context())
	cancel()
	late, stop := context.WithDeadline(t.Context(), time.Now().Add(-time.Second))
	defer stop()
	for name, ctx := range map[string]context.Context{"cancelled": cancelled, "late": late} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			e := client.Estimate{Key: "acme/alice", Tier: "free", InputTokens: 900, MaxOutputTokens: new(int64(800))}
			r := reserve(t, c, e)
			if _, err := r.Progress(ctx, client.Usage{}); err == nil {
				t.Error("Progress() = nil, want the error of its context")
			}
			if s, err := r.Settle(ctx, client.Usage{OutputTokens: new(int64(312))}); err != nil || s.Status != client.Settled {
				t.Errorf("Settle() = %q, %v, want settled", s.Status, err)
			}
			if got := used(t, c, "free", "tokens"); got != 1212 {
				t.Errorf("tokens used = %d, want 1212", got)
			}
			if err := reserve(t, c, e).Cancel(ctx); err != nil {
				t.Errorf("Cancel() = %v, want nil", err)
			}
			if got := used(t, c, "free", "tokens"); got != 1212 {
				t.Errorf("tokens used after a cancel = %d, want 1212", got)
			}
		})
	}
}

// A settle that nobody answers takes Options.Timeout, or until a later deadline.
func TestEndsInTime(t *testing.T) {
	for name, tt := range map[string]struct{ deadline, want time.Duration }{
		"cancelled": {0, time.Second},
		"sooner":    {100 * time.Millisecond, time.Second},
		"later":     {3 * time.Second, 3 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			run(t, client.Options{Timeout: time.Second}, []string{"a"}, func(t scene) {
				r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", RequestID: "r1"})
				if err != nil {
					t.Fatal(err)
				}
				t.nodes["a"].behave(silent)
				ctx, cancel := context.WithCancel(t.Context())
				if tt.deadline > 0 {
					ctx, cancel = context.WithTimeout(t.Context(), tt.deadline)
					defer cancel()
				} else {
					cancel()
				}
				began := time.Now() // of the bubble
				if _, err := r.Settle(ctx, client.Usage{}); !errors.Is(err, client.ErrUnreachable) {
					t.Errorf("Settle() = %v, want ErrUnreachable", err)
				}
				if took := time.Since(began); took > tt.want || took < tt.want/2 {
					t.Errorf("Settle() took %v, want about %v", took, tt.want)
				}
			})
		})
	}
}
