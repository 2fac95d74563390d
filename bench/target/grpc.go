// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/rpc/pb"
)

var grpcKind = Kind{
	Name: "grpc", Form: "grpc:HOST:PORT",
	Measures: "bucketring as a generated gRPC stub in any language reaches it: one unary call per question to one node, on one connection; the node asks the owner of the key if it is another one.",
	Leaves:   "Nothing is asked again: a node that fails is errors until gRPC is connected again, at the latest after two seconds. It says nothing of batches, of the ring, or of several nodes.",
}

// unary asks with the generated stub and no library around it: lighter than the
// client library with its Plain option, which gives every call an attempt with a
// context of its own and follows up on failures.
type unary struct {
	base
	conn *grpc.ClientConn
	stub pb.RateLimiterClient
}

func openGRPC(k *kind, rest string, o Options) (opened, error) {
	at, err := only(k.Name, rest, "6471", o)
	if err != nil {
		return nil, err
	}
	conn, err := dial(at, o)
	if err != nil {
		return nil, err
	}
	return &unary{base{k, k.Name + ":" + at, o.Timeout}, conn, pb.NewRateLimiterClient(conn)}, nil
}

// dial returns one connection that comes back as soon as that of the client
// library, so that an outage is as long for all targets.
func dial(at string, o Options) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	conn, err := grpc.NewClient(at,
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // what is asked again is charged again
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second}),
	)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	return conn, nil
}

func (u *unary) describe() string { return "" }

func (u *unary) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	_, err := u.stub.Peek(ctx, &pb.PeekRequest{Key: readyKey}, grpc.WaitForReady(true))
	return err
}

// Check implements [bench.Target].
func (u *unary) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := u.bounded(ctx)
	defer cancel()
	d, err := u.stub.Check(ctx, &pb.CheckRequest{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestId: c.ID,
		Requests: new(requests(c)), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
	})
	if err != nil {
		return bench.Answer{}, refused("check", err)
	}
	return answerOf(d)
}

// Reserve implements [bench.Target].
func (u *unary) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := u.bounded(ctx)
	defer cancel()
	q := &pb.ReserveRequest{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestId: c.ID,
		Requests: new(requests(c)), InputTokens: c.InputTokens, MaxOutputTokens: new(c.MaxOutputTokens),
	}
	if l := leaseSeconds(c); l > 0 {
		q.TtlSeconds = new(l)
	}
	d, err := u.stub.Reserve(ctx, q)
	if err != nil {
		return bench.Answer{}, refused("reserve", err)
	}
	return answerOf(d)
}

// Settle implements [bench.Target].
func (u *unary) Settle(ctx context.Context, use bench.Usage) (bench.Answer, error) {
	ctx, cancel := u.bounded(ctx)
	defer cancel()
	s, err := u.stub.Settle(ctx, &pb.SettleRequest{
		Key: use.Key, RequestId: use.ID,
		InputTokens: new(use.InputTokens), OutputTokens: new(use.OutputTokens), Final: new(use.Final),
	})
	if err != nil {
		return bench.Answer{}, refused("settle", err)
	}
	return bench.Answer{Route: word(s.GetRoute().String(), "ROUTE_"), Owner: s.GetOwner()}, nil
}

// Used implements [bench.Left].
func (u *unary) Used(ctx context.Context, key, tier, model string) ([]bench.LimitUsage, error) {
	ctx, cancel := u.bounded(ctx)
	defer cancel()
	p, err := u.stub.Peek(ctx, &pb.PeekRequest{Key: key, Tier: tier, Model: model})
	if err != nil {
		return nil, refused("peek", err)
	}
	list := make([]bench.LimitUsage, len(p.GetLimits()))
	for i, state := range p.GetLimits() {
		list[i] = bench.LimitUsage{
			Scope: state.GetScope(), Dimension: state.GetDimension(), Name: state.GetName(),
			Used: state.GetCapacity() - state.GetRemaining() + state.GetDebt(), Limit: state.GetCapacity(),
		}
	}
	return list, nil
}

// Close implements [bench.Target].
func (u *unary) Close() error { return u.conn.Close() }

func answerOf(d *pb.Decision) (bench.Answer, error) {
	outcome, err := outcomeOf(word(d.GetOutcome().String(), "OUTCOME_"))
	a := bench.Answer{
		Outcome: outcome, ID: d.GetRequestId(), GrantedOutputTokens: d.GetGrantedOutputTokens(),
		Route: word(d.GetRoute().String(), "ROUTE_"), Owner: d.GetOwner(), Replayed: d.GetReplayed(),
	}
	if d.GetReason() != pb.Reason_REASON_UNSPECIFIED {
		a.Reason = word(d.GetReason().String(), "REASON_")
	}
	return a, err
}

// word is a value of a protobuf enum as bucketring says it: OUTCOME_ALLOWED is
// allowed.
func word(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// leaseSeconds is [lease] in whole seconds, rounded up.
func leaseSeconds(c *bench.Call) int64 { return int64((lease(c) + time.Second - 1) / time.Second) }

// refused is the error of a call over gRPC.
func refused(what string, err error) error {
	switch status.Code(err) {
	case codes.DeadlineExceeded:
		return failed(what, err, true)
	case codes.Canceled:
		err = fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return failed(what, err, false)
}
