// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"
	"math"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	health "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/bench"
)

var rlsKind = Kind{
	Name: "rls", Form: "rls:HOST:PORT",
	Measures: "Any server of Envoy's rate limit protocol (envoy.service.ratelimit.v3) as a proxy asks it: one unary call per question on one connection, with the key as the only entry of one descriptor and the requests as hits.",
	Leaves:   "The limit is the server's own, and a key that none of its rules matches is never limited. It counts requests alone, has no request ids, so that a repetition is charged again, no reservations, and no way to ask what is used without using one more.",
}

// service asks a server of Envoy's protocol.
type service struct {
	base
	checksOnly
	conn          *grpc.ClientConn
	stub          rls.RateLimitServiceClient
	domain, entry string
}

func openRLS(k *kind, rest string, o Options) (opened, error) {
	at, err := only(k.Name, rest, "8081", o)
	if err != nil {
		return nil, err
	}
	conn, err := dial(at, o)
	if err != nil {
		return nil, err
	}
	return &service{
		base: base{k, k.Name + ":" + at, o.Timeout}, conn: conn, stub: rls.NewRateLimitServiceClient(conn),
		domain: o.Domain, entry: o.Entry,
	}, nil
}

func (s *service) describe() string {
	return fmt.Sprintf("Domain %q, entry %q.", s.domain, s.entry)
}

// ready waits for the connection: a question would use something.
func (s *service) ready(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, s.timeout)
	defer cancel()
	for state := s.conn.GetState(); state != connectivity.Ready; state = s.conn.GetState() {
		if state == connectivity.TransientFailure {
			if err := s.broken(ctx); err != nil {
				return err
			}
			continue
		}
		s.conn.Connect()
		if !s.conn.WaitForStateChange(ctx, state) {
			return fmt.Errorf("connection is %s: %w", state, ctx.Err())
		}
	}
	return nil
}

// broken says why there is no connection, which only a question that fails for it
// is told. A server that is there after all may answer what it likes.
func (s *service) broken(ctx context.Context) error {
	_, err := health.NewHealthClient(s.conn).Check(ctx, &health.HealthCheckRequest{})
	if err != nil && s.conn.GetState() != connectivity.Ready {
		return refused("connect", err)
	}
	return ctx.Err()
}

// Check implements [bench.Target].
func (s *service) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	hits := requests(c)
	if hits < 0 || hits > math.MaxUint32 {
		return bench.Answer{}, fmt.Errorf("check: requests must be at most %d in this protocol, got %d", uint32(math.MaxUint32), hits)
	}
	ctx, cancel := s.bounded(ctx)
	defer cancel()
	r, err := s.stub.ShouldRateLimit(ctx, &rls.RateLimitRequest{
		Domain: s.domain,
		Descriptors: []*common.RateLimitDescriptor{{
			Entries: []*common.RateLimitDescriptor_Entry{{Key: s.entry, Value: c.Key}},
		}},
		HitsAddend: uint32(hits),
	})
	if err != nil {
		return bench.Answer{}, refused("check", err)
	}
	switch code := r.GetOverallCode(); code {
	case rls.RateLimitResponse_OK:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case rls.RateLimitResponse_OVER_LIMIT:
		return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
	default:
		return bench.Answer{}, fmt.Errorf("check: overall code %s is no decision", code)
	}
}

// Close implements [bench.Target].
func (s *service) Close() error { return s.conn.Close() }

// The reasons of targets that have no words of their own.
const (
	limitExceeded   = "limit_exceeded"
	exceedsCapacity = "exceeds_capacity" // would not fit an untouched limit
)
