// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"errors"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// denyTokens denies a reserve because the tokens of a minute are used up.
func denyTokens(r *pb.ReserveRequest) *pb.Decision {
	return &pb.Decision{
		Outcome:    pb.Outcome_OUTCOME_DENIED,
		Reason:     pb.Reason_REASON_LIMIT_EXCEEDED,
		RequestId:  r.GetRequestId(),
		RetryAfter: durationpb.New(12 * time.Second),
		Binding:    new(int32(0)),
		Limits:     []*pb.LimitState{{Name: "tokens", Dimension: "tokens", Limit: 10_000, Exceeded: true}},
	}
}

func TestRequestsOnTheWire(t *testing.T) {
	costs := map[string]int64{"images": 2}
	call := func(c client.Call) func(context.Context, *client.Client) error {
		return func(ctx context.Context, cl *client.Client) error { _, err := cl.Check(ctx, c); return err }
	}
	reserve := func(e client.Estimate) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error { _, err := c.Reserve(ctx, e); return err }
	}
	settle := func(u client.Usage) func(context.Context, *client.Client) error {
		return func(ctx context.Context, c *client.Client) error {
			_, err := c.Reservation("k", "id").Settle(ctx, u)
			return err
		}
	}
	tests := []struct {
		name string
		do   func(context.Context, *client.Client) error
		want proto.Message
	}{
		{
			"check", call(client.Call{Key: "k", RequestID: "id"}),
			&pb.CheckRequest{Key: "k", RequestId: "id"},
		}, {
			"check, everything", call(client.Call{"k", "free", "m", new(int64(3)), 900, 100, costs, "flex", new(5 * time.Second), client.Batch, "id"}),
			&pb.CheckRequest{Key: "k", Tier: "free", Model: "m", Requests: new(int64(3)), InputTokens: 900, OutputTokens: 100, Costs: costs, ServiceTier: "flex", RequestId: "id", MaxWait: durationpb.New(5 * time.Second), Priority: pb.Priority_PRIORITY_BATCH},
		}, {
			"check, no request", call(client.Call{Key: "k", Requests: new(int64(0)), RequestID: "id"}),
			&pb.CheckRequest{Key: "k", Requests: new(int64(0)), RequestId: "id"},
		}, {
			"check, negative", call(client.Call{Key: "k", Requests: new(int64(-1)), RequestID: "id"}),
			&pb.CheckRequest{Key: "k", Requests: new(int64(-1)), RequestId: "id"},
		}, {
			"reserve", reserve(client.Estimate{Key: "k", RequestID: "id"}),
			&pb.ReserveRequest{Key: "k", RequestId: "id"},
		}, {
			"reserve, everything", reserve(client.Estimate{"k", "free", "m", new(int64(3)), 900, true, 300, new(int64(800)), 64, 2, costs, "priority", 10 * time.Second, new(time.Duration(0)), client.Interactive, "id", true}),
			&pb.ReserveRequest{
				Key: "k", Tier: "free", Model: "m", Requests: new(int64(3)), InputTokens: 900, EstimatedInput: true, KnownInputTokens: 300, MaxOutputTokens: new(int64(800)),
				MinOutputTokens: new(int64(64)), N: new(int64(2)), Costs: costs, ServiceTier: "priority", TtlSeconds: new(int64(10)), RequestId: "id",
				MaxWait: &durationpb.Duration{}, Priority: pb.Priority_PRIORITY_INTERACTIVE,
			},
		}, {
			"reserve, no output", reserve(client.Estimate{Key: "k", MaxOutputTokens: new(int64(0)), RequestID: "id"}),
			&pb.ReserveRequest{Key: "k", MaxOutputTokens: new(int64(0)), RequestId: "id"},
		}, {
			"reserve, part of a second", reserve(client.Estimate{Key: "k", TTL: 1500 * time.Millisecond, RequestID: "id"}),
			&pb.ReserveRequest{Key: "k", TtlSeconds: new(int64(2)), RequestId: "id"},
		}, {
			"reserve, longest lease", reserve(client.Estimate{Key: "k", TTL: math.MaxInt64, RequestID: "id"}),
			&pb.ReserveRequest{Key: "k", TtlSeconds: new(int64(9223372037)), RequestId: "id"},
		}, {
			"settle", settle(client.Usage{}),
			&pb.SettleRequest{Key: "k", RequestId: "id", Final: new(true)},
		}, {
			"settle, everything", settle(client.Usage{new(int64(900)), 100, new(int64(312)), 200, 300, 2, 3, "flex", true, costs}),
			&pb.SettleRequest{
				Key: "k", RequestId: "id", InputTokens: new(int64(900)), CachedInputTokens: new(int64(100)), OutputTokens: new(int64(312)),
				CacheWriteTokens: new(int64(200)), CacheWrite_1HTokens: new(int64(300)), Images: new(int64(2)), Searches: new(int64(3)),
				ServiceTier: "flex", Rejected: new(true), Costs: costs, Final: new(true),
			},
		}, {
			"settle, nothing used", settle(client.Usage{InputTokens: new(int64(0)), OutputTokens: new(int64(0))}),
			&pb.SettleRequest{Key: "k", RequestId: "id", InputTokens: new(int64(0)), OutputTokens: new(int64(0)), Final: new(true)},
		}, {
			"peek", func(ctx context.Context, c *client.Client) error {
				_, err := c.Peek(ctx, client.Query{Key: "k", Tier: "free", Model: "m"})
				return err
			},
			&pb.PeekRequest{Key: "k", Tier: "free", Model: "m"},
		},
	}
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		for _, test := range tests {
			if err := test.do(t.Context(), t.c); err != nil {
				t.Errorf("%s = %v", test.name, err)
			}
			sent := t.nodes["a"].sent()
			want := proto.Clone(test.want)
			if len(t.c.Status().Members) == 0 { // sent alone, it does not wait at the node
				switch q := want.(type) {
				case *pb.CheckRequest:
					q.MaxWait = &durationpb.Duration{}
				case *pb.ReserveRequest:
					q.MaxWait = &durationpb.Duration{}
				}
			}
			if diff := cmp.Diff(want, sent[len(sent)-1], protocmp.Transform()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", test.name, diff)
			}
		}
	})
}

func TestAnswer(t *testing.T) {
	reset := time.Date(2026, 11, 22, 21, 40, 0, 0, time.UTC)
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		t.reserve = func(r *pb.ReserveRequest) *pb.Decision {
			return &pb.Decision{
				Outcome: pb.Outcome_OUTCOME_DEGRADED, RequestId: r.GetRequestId(), Tier: "free",
				GrantedOutputTokens: new(int64(512)), Binding: new(int32(1)),
				Limits: []*pb.LimitState{
					{Name: "concurrent", Dimension: "concurrent", Scope: "acme", Algorithm: "concurrency", Limit: 2, Capacity: 2, Remaining: 1, Cost: 1},
					{
						Name: "org-tpm", Dimension: "tokens", Scope: "acme/alice", Algorithm: "token_bucket", Limit: 10_000, Capacity: 5_000,
						Debt: 7, ResetAt: timestamppb.New(reset), Window: durationpb.New(time.Minute), Cost: 1412, Shadow: true, Exceeded: true,
					},
				},
				PolicyVersion: "00ff", Owner: "node-1", Route: pb.Route_ROUTE_LOCAL,
			}
		}
		r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "acme/alice", RequestID: "r1"})
		if err != nil {
			t.Fatalf("Reserve() = %v", err)
		}
		want := client.Decision{
			Outcome: client.Degraded, RequestID: "r1", Tier: "free",
			Limits: []client.LimitState{
				{Name: "concurrent", Dimension: "concurrent", Scope: "acme", Algorithm: "concurrency", Limit: 2, Capacity: 2, Remaining: 1, Cost: 1},
				{
					Name: "org-tpm", Dimension: "tokens", Scope: "acme/alice", Algorithm: "token_bucket", Limit: 10_000, Capacity: 5_000,
					Debt: 7, ResetAt: reset, Window: time.Minute, Cost: 1412, Shadow: true, Exceeded: true,
				},
			},
			PolicyVersion: "00ff", Owner: "node-1", Route: client.Local, Replayed: false,
		}
		want.Binding = want.Limits[1]
		if diff := cmp.Diff(want, r.Decision); diff != "" {
			t.Errorf("Reserve() (-want +got):\n%s", diff)
		}
		if !r.Allowed() || r.Denied() || r.Granted() != 512 {
			t.Errorf("Reserve() = allowed %v, denied %v, granted %d, want true, false, 512", r.Allowed(), r.Denied(), r.Granted())
		}
	})
}

// An outcome that this client does not know must not let a call run.
func TestUnknownOutcomeIsNotAllowed(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		for _, outcome := range []pb.Outcome{0, 99, -1} {
			t.reserve = func(*pb.ReserveRequest) *pb.Decision { return &pb.Decision{Outcome: outcome, Binding: new(int32(5))} }
			r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "k"})
			if err != nil || !r.Denied() {
				t.Errorf("Reserve() = %+v, %v, want denied", r, err)
			}
		}
	})
}

func TestGeneratedIDsAreUnique(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		seen := map[string]bool{}
		for range 100 {
			d := check(t)
			r, err := t.c.Reserve(t.Context(), client.Estimate{Key: "k"})
			if err != nil {
				t.Fatalf("Reserve() = %v", err)
			}
			for _, id := range []string{d.RequestID, r.RequestID} {
				if len(id) < 26 || seen[id] { // 26 letters of 5 bits
					t.Errorf("id %q is too short, or was there before", id)
				}
				seen[id] = true
			}
		}
	})
}

func TestErrors(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		n := t.nodes["a"]
		settle := func() error {
			_, err := t.c.Reservation("acme/alice", "r1").Settle(t.Context(), client.Usage{})
			return err
		}

		n.behave(always(codes.NotFound))
		if err := settle(); !errors.Is(err, client.ErrUnknownReservation) || status.Code(err) != codes.NotFound {
			t.Errorf("Settle() = %v, want ErrUnknownReservation with its status", err)
		}
		n.behave(always(codes.AlreadyExists))
		if err := settle(); !errors.Is(err, client.ErrConflict) || status.Code(err) != codes.AlreadyExists {
			t.Errorf("Settle() = %v, want ErrConflict with its status", err)
		}

		s, err := status.New(codes.InvalidArgument, "output_tokens: must not be negative, got -1").WithDetails(&errdetails.BadRequest{
			FieldViolations: []*errdetails.BadRequest_FieldViolation{{Field: "output_tokens"}},
		})
		if err != nil {
			t.Fatal(err)
		}
		for _, test := range []struct {
			status *status.Status
			field  string
		}{{s, "output_tokens"}, {status.New(codes.InvalidArgument, "from always"), ""}} {
			n.behave(failWith(test.status))
			err := settle()
			var invalid *client.InvalidError
			if !errors.As(err, &invalid) || invalid.Field != test.field || invalid.Message != test.status.Message() || status.Code(err) != codes.InvalidArgument {
				t.Errorf("Settle() = %#v, want an InvalidError of field %q", err, test.field)
			}
		}
		const want = "settle acme/alice: invalid request: from always"
		if got := settle().Error(); got != want {
			t.Errorf("Settle() = %q, want %q", got, want)
		}
	})
}

func TestUnreachableNamesTheNode(t *testing.T) {
	run(t, client.Options{}, []string{"a"}, func(t scene) {
		t.nodes["a"].behave(always(codes.Unavailable))
		_, err := t.c.Check(t.Context(), client.Call{Key: "acme/alice"})
		const want = "check acme/alice: no node could be reached: attempt 3, passthrough:///a: from always"
		if err == nil || err.Error() != want {
			t.Errorf("Check() = %v, want %q", err, want)
		}
	})
}

func TestClosedClient(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		for range 2 {
			if err := t.c.Close(); err != nil {
				t.Errorf("Close() = %v", err)
			}
		}
		ctx, r := t.Context(), t.c.Reservation("k", "id")
		calls := map[string]func() error{
			"Check":    func() error { _, err := t.c.Check(ctx, client.Call{Key: "k"}); return err },
			"Reserve":  func() error { _, err := t.c.Reserve(ctx, client.Estimate{Key: "k"}); return err },
			"Peek":     func() error { _, err := t.c.Peek(ctx, client.Query{Key: "k"}); return err },
			"Settle":   func() error { _, err := r.Settle(ctx, client.Usage{}); return err },
			"Progress": func() error { _, err := t.c.Reservation("k", "id").Progress(ctx, client.Usage{}); return err },
			"Cancel":   func() error { return t.c.Reservation("k", "id").Cancel(ctx) },
			"Do": func() error {
				return t.c.Do(ctx, client.Estimate{Key: "k"}, func(context.Context, *client.Grant) (client.Usage, error) {
					t.Error("Do() ran its function after Close")
					return client.Usage{}, nil
				})
			},
		}
		for name, call := range calls {
			if err := call(); !errors.Is(err, client.ErrClosed) || !strings.HasSuffix(err.Error(), ": client is closed") {
				t.Errorf("%s() after Close = %v, want ErrClosed alone", name, err)
			}
		}
		if seen := t.nodes["a"].seen(); len(seen) != 0 {
			t.Errorf("the node got %q after Close, want nothing", seen)
		}
	})
}

// A call that is in flight when the client is closed may have been charged.
func TestCloseFailsCallsInFlight(t *testing.T) {
	runBoth(t, client.Options{}, []string{"a"}, func(t scene) {
		t.nodes["a"].behave(silent)
		failed := make(chan error, 1)
		go func() {
			_, err := t.c.Check(context.Background(), client.Call{Key: "k"})
			failed <- err
		}()
		synctest.Wait()
		if err := t.c.Close(); err != nil {
			t.Errorf("Close() = %v", err)
		}
		if err := <-failed; !errors.Is(err, client.ErrClosed) || status.Code(err) == codes.Unknown {
			t.Errorf("Check() during Close = %v, want ErrClosed and a gRPC status", err)
		}
	})
}
