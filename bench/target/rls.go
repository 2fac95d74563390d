// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"
	"math"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	health "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/bench"
)

var rlsKind = Kind{
	Name: "rls", Syntax: "rls:HOST:PORT",
	Measures:    "Any server of Envoy's rate limit protocol (envoy.service.ratelimit.v3), as a proxy calls it: one unary RPC per check on one connection, with the key as the only entry of one descriptor and the requests as hits.",
	Limitations: "The limits are those of the server, and a key that matches none of its rules is never limited. The protocol counts requests only and has no request ids, so a retry is charged again. It has no reservations, and no way to read usage without adding to it.",
}

// rlsTarget calls a server of Envoy's rate limit protocol.
type rlsTarget struct {
	base
	checksOnly
	conn                  *grpc.ClientConn
	stub                  rls.RateLimitServiceClient
	domain, descriptorKey string
}

func openRLS(k *kind, rest string, o Options) (builtin, error) {
	at, err := parseAddress(k.Name, rest, "8081", o)
	if err != nil {
		return nil, err
	}
	conn, err := dial(at, o)
	if err != nil {
		return nil, err
	}
	return &rlsTarget{
		base: newBase(k, k.Name+":"+at, o), conn: conn, stub: rls.NewRateLimitServiceClient(conn),
		domain: o.Domain, descriptorKey: o.DescriptorKey,
	}, nil
}

func (s *rlsTarget) describe() string {
	return fmt.Sprintf("Domain %q, descriptor key %q.", s.domain, s.descriptorKey)
}

func (s *rlsTarget) ready(ctx context.Context) error { return connected(ctx, s.timeout, s.conn) }

// connected waits for a connection, because a request would be charged.
func connected(ctx context.Context, timeout time.Duration, conn *grpc.ClientConn) error {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	for state := conn.GetState(); state != connectivity.Ready; state = conn.GetState() {
		if state == connectivity.TransientFailure {
			if err := connectError(ctx, conn); err != nil {
				return err
			}
			continue
		}
		conn.Connect()
		if !conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("connection is %s: %w", state, ctx.Err())
		}
	}
	return nil
}

// connectError returns why there is no connection, which gRPC reports only to an RPC.
// If the server is up after all, its answer does not matter.
func connectError(ctx context.Context, conn *grpc.ClientConn) error {
	_, err := health.NewHealthClient(conn).Check(ctx, &health.HealthCheckRequest{})
	if err != nil && conn.GetState() != connectivity.Ready {
		return grpcError("connect", err)
	}
	return ctx.Err()
}

// Check implements [bench.Target].
func (s *rlsTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	hits := requestsOf(c)
	if hits < 0 || hits > math.MaxUint32 {
		return bench.Answer{}, fmt.Errorf("check: requests must be at most %d in this protocol, got %d", uint32(math.MaxUint32), hits)
	}
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	r, err := s.stub.ShouldRateLimit(ctx, &rls.RateLimitRequest{
		Domain: s.domain,
		Descriptors: []*common.RateLimitDescriptor{{
			Entries: []*common.RateLimitDescriptor_Entry{{Key: s.descriptorKey, Value: c.Key}},
		}},
		HitsAddend: uint32(hits),
	})
	if err != nil {
		return bench.Answer{}, grpcError("check", err)
	}
	switch code := r.GetOverallCode(); code {
	case rls.RateLimitResponse_OK:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case rls.RateLimitResponse_OVER_LIMIT:
		return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
	default:
		return bench.Answer{}, fmt.Errorf("check: overall code %s is not a decision", code)
	}
}

// Close implements [bench.Target].
func (s *rlsTarget) Close() error { return s.conn.Close() }

// Reasons of denials by targets that give none.
const (
	limitExceeded   = "limit_exceeded"
	exceedsCapacity = "exceeds_capacity" // the cost is above the whole limit
)
