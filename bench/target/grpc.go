// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
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
	Name: "grpc", Syntax: "grpc:HOST:PORT",
	Measures:    "bucketring through a generated gRPC stub, as from any language: one unary RPC per request to one node, on one connection, with at most 256 in flight. The node forwards to the owner of the key if that is another node.",
	Limitations: "Nothing is retried: when the node fails, requests fail until gRPC has reconnected, which takes up to two seconds. It does not measure batches, the ring or several nodes. After refusals because of overload it holds back calls, as callers should: these count as refused too.",
}

// maxInFlight is how many calls are in flight on the connection: fewer than the streams
// that a node allows, more than keep it busy.
const maxInFlight = 256

// grpcTarget uses the generated stub. It does less than the client library, which
// gives every attempt a context of its own and handles failures.
type grpcTarget struct {
	base
	conn     *grpc.ClientConn
	stub     pb.RateLimiterClient
	throttle *throttle
	// inFlight bounds the calls in flight: grpc-go would let any number wait for a
	// stream of the connection, in order.
	inFlight *connections
}

func openGRPC(k *kind, rest string, o Options) (builtin, error) {
	return newGRPC(k, rest, o)
}

func newGRPC(k *kind, rest string, o Options) (*grpcTarget, error) {
	at, err := parseAddress(k.Name, rest, "6471", o)
	if err != nil {
		return nil, err
	}
	conn, err := dial(at, o)
	if err != nil {
		return nil, err
	}
	return &grpcTarget{newBase(k, k.Name+":"+at, o), conn, pb.NewRateLimiterClient(conn), newThrottle(), newConnections(maxInFlight)}, nil
}

// dial returns one connection. It reconnects as quickly as the client library, so
// that an outage is equally long for all targets.
func dial(at string, o Options) (*grpc.ClientConn, error) {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	conn, err := grpc.NewClient(at, append(o.tokenOptions(),
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{
			Backoff:           backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second},
			MinConnectTimeout: 5 * time.Second,
		}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(), // a retry would be charged again
		grpc.WithNoProxy(),
		grpc.WithIdleTimeout(0),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second}),
	)...)
	if err != nil {
		return nil, err
	}
	conn.Connect()
	return conn, nil
}

// tokenOptions are the options of connections that send the token.
func (o Options) tokenOptions() []grpc.DialOption {
	if o.Token == nil {
		return nil
	}
	return []grpc.DialOption{grpc.WithPerRPCCredentials(o.Token)}
}

func (u *grpcTarget) describe() string { return "" }

func (u *grpcTarget) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, u.timeout)
	defer cancel()
	_, err := u.stub.Peek(ctx, &pb.PeekRequest{Key: probeKey}, grpc.WaitForReady(true))
	if status.Code(err) == codes.InvalidArgument { // a policy may have no tier for the key
		return nil
	}
	return err
}

// admit returns why a call must not be sent now, or takes a place for it.
func (u *grpcTarget) admit(ctx context.Context) error {
	if err := u.throttle.admit(); err != nil {
		return err
	}
	err := u.inFlight.acquire(ctx, u.throttle.now(), false)
	if err == nil || errors.Is(err, bench.ErrOverloaded) {
		return err
	}
	return wrapError("call", fmt.Errorf("no free stream: %w", err), errors.Is(err, context.DeadlineExceeded))
}

// Check implements [bench.Target].
func (u *grpcTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := u.withTimeout(ctx)
	defer cancel()
	if err := u.admit(ctx); err != nil {
		return bench.Answer{}, err
	}
	defer u.inFlight.release()
	d, err := u.stub.Check(ctx, &pb.CheckRequest{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestId: u.checkID(c),
		Requests: new(requestsOf(c)), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
	})
	return u.decision("check", d, err)
}

// Reserve implements [bench.Target].
func (u *grpcTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := u.withTimeout(ctx)
	defer cancel()
	if err := u.admit(ctx); err != nil {
		return bench.Answer{}, err
	}
	defer u.inFlight.release()
	q := &pb.ReserveRequest{
		Key: c.Key, Tier: c.Tier, Model: c.Model, RequestId: c.ID,
		Requests: new(requestsOf(c)), InputTokens: c.InputTokens, MaxOutputTokens: new(c.MaxOutputTokens),
	}
	if l := leaseSeconds(c); l > 0 {
		q.TtlSeconds = new(l)
	}
	d, err := u.stub.Reserve(ctx, q)
	return u.decision("reserve", d, err)
}

// CheckBatch implements [Batcher].
func (u *grpcTarget) CheckBatch(ctx context.Context, calls []bench.Call) ([]bench.Answer, error) {
	ctx, cancel := u.withTimeout(ctx)
	defer cancel()
	if err := u.admit(ctx); err != nil {
		return nil, err
	}
	defer u.inFlight.release()
	request := &pb.BatchRequest{Items: make([]*pb.Item, len(calls))}
	for i := range calls {
		c := &calls[i]
		request.Items[i] = &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{
			Key: c.Key, Tier: c.Tier, Model: c.Model, RequestId: u.checkID(c),
			Requests: new(requestsOf(c)), InputTokens: c.InputTokens, OutputTokens: c.OutputTokens,
		}}}
	}
	response, err := u.stub.Batch(ctx, request)
	if err != nil {
		return nil, grpcError("batch", err)
	}
	results := response.GetResults()
	if len(results) != len(calls) {
		return nil, fmt.Errorf("batch: got %d results for %d checks", len(results), len(calls))
	}
	answers := make([]bench.Answer, len(calls))
	for i, r := range results {
		if failed := r.GetError(); failed != nil {
			return nil, fmt.Errorf("check %d of %d: %s", i+1, len(calls), failed.GetMessage())
		}
		if answers[i], err = fromProto(r.GetDecision()); err != nil {
			return nil, fmt.Errorf("check %d of %d: %w", i+1, len(calls), err)
		}
	}
	return answers, nil
}

// decision converts the answer to a check or reserve.
func (u *grpcTarget) decision(what string, d *pb.Decision, err error) (bench.Answer, error) {
	if err != nil {
		err = grpcError(what, err)
	}
	u.throttle.observe(err)
	if err != nil {
		return bench.Answer{}, err
	}
	return fromProto(d)
}

// Settle implements [bench.Target].
func (u *grpcTarget) Settle(ctx context.Context, use bench.Usage) (bench.Answer, error) {
	ctx, cancel := u.withTimeout(ctx)
	defer cancel()
	if err := u.inFlight.acquire(ctx, u.throttle.now(), true); err != nil {
		return bench.Answer{}, wrapError("settle", fmt.Errorf("no free stream: %w", err), errors.Is(err, context.DeadlineExceeded))
	}
	defer u.inFlight.release()
	s, err := u.stub.Settle(ctx, &pb.SettleRequest{
		Key: use.Key, RequestId: use.ID,
		InputTokens: new(use.InputTokens), OutputTokens: new(use.OutputTokens), Final: new(use.Final),
	})
	if err != nil {
		return bench.Answer{}, grpcError("settle", err)
	}
	return bench.Answer{Route: enumName(s.GetRoute().String(), "ROUTE_"), Owner: s.GetOwner()}, nil
}

// ReadUsage implements [bench.UsageReader].
func (u *grpcTarget) ReadUsage(ctx context.Context, key, tier, model string) ([]bench.LimitUsage, error) {
	ctx, cancel := u.withTimeout(ctx)
	defer cancel()
	p, err := u.stub.Peek(ctx, &pb.PeekRequest{Key: key, Tier: tier, Model: model})
	if err != nil {
		return nil, grpcError("peek", err)
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
func (u *grpcTarget) Close() error { return u.conn.Close() }

func fromProto(d *pb.Decision) (bench.Answer, error) {
	outcome, err := parseOutcome(enumName(d.GetOutcome().String(), "OUTCOME_"))
	a := bench.Answer{
		Outcome: outcome, ID: d.GetRequestId(), GrantedOutputTokens: d.GetGrantedOutputTokens(),
		Route: enumName(d.GetRoute().String(), "ROUTE_"), Owner: d.GetOwner(), Replayed: d.GetReplayed(), Waited: d.GetWaited().AsDuration(),
	}
	if d.GetReason() != pb.Reason_REASON_UNSPECIFIED {
		a.Reason = enumName(d.GetReason().String(), "REASON_")
	}
	return a, err
}

// enumName returns the API name of a protobuf enum value: "allowed" for OUTCOME_ALLOWED.
func enumName(name, prefix string) string { return strings.ToLower(strings.TrimPrefix(name, prefix)) }

// leaseSeconds returns leaseFor in seconds, rounded up.
func leaseSeconds(c *bench.Call) int64 { return int64((leaseFor(c) + time.Second - 1) / time.Second) }

// grpcError wraps an error of an RPC, or returns the refusal that it is.
func grpcError(what string, err error) error {
	switch status.Code(err) {
	case codes.ResourceExhausted:
		if r := refusalOf(err); r != nil {
			return r
		}
	case codes.DeadlineExceeded:
		return wrapError(what, err, true)
	case codes.Canceled:
		err = fmt.Errorf("%w: %w", context.Canceled, err)
	}
	return wrapError(what, err, false)
}
