// SPDX-License-Identifier: Apache-2.0

// Package envoy answers Envoy's rate limit service,
// envoy.service.ratelimit.v3.RateLimitService, as envoyproxy/ratelimit does, over
// the counters of a cluster instead of Redis.
//
// A descriptor is counted in one of two ways. If its domain has a rule for it, or
// it brings a limit along, it has a counter of its own: the hits are added
// whatever the limit says, and the descriptor is over its limit when the sum is
// more. If one of its entries is named bucketring.key, it is a call of that key
// under the policy of the cluster, which charges all limits or none; mapped.go
// says how. A descriptor that is neither is within its limit. One request may
// have descriptors of both kinds; each is decided by itself.
//
// Envoy lets a request pass when it gets an error, unless it was told otherwise.
// So what a caller can cause (a value that is no key, say) is no error here but a
// descriptor over its limit, and only what nobody could decide is an error.
package envoy

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/envoy/config"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Counter counts hits at the owners of counters; *peer.Router does.
type Counter interface {
	Count(ctx context.Context, hits []server.Count) ([]server.Counted, error)
}

// Policy decides calls under the policy; *peer.Router does.
type Policy interface {
	// Batch decides calls, whichever members own their keys.
	Batch(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error)
	// Charge charges what was used already, whatever the limits say.
	Charge(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error)
}

// The bodies of refusals.
const (
	BodyNone      = "none"
	BodyOpenAI    = "openai"
	BodyAnthropic = "anthropic"
)

// DefaultPrefix begins the names of entries that mean something to this service.
const DefaultPrefix = "bucketring."

// Options configure a [Service]. Counter and Policy are needed.
type Options struct {
	Counter Counter
	// Policy decides for descriptors with a bucketring.key.
	Policy Policy
	// Shadow answers OK to everything that was decided otherwise.
	Shadow bool
	// Headers begins the names of the headers that tell what is left: RateLimit
	// gives RateLimit-Limit, RateLimit-Remaining and RateLimit-Reset, with
	// Retry-After on a refusal. Empty: no headers.
	Headers string
	// Body is the form of the error that a caller of Envoy gets, one of the Body
	// constants. Empty: none.
	Body string
	// Metadata tells Envoy domain, descriptors and the metadata of rules.
	Metadata bool
	// Prefix replaces [DefaultPrefix].
	Prefix string

	Registry prometheus.Registerer // nil: no metrics
	Now      func() time.Time      // nil: time.Now
}

func (o Options) withDefaults() Options {
	o.Prefix = cmp.Or(o.Prefix, DefaultPrefix)
	o.Body = cmp.Or(o.Body, BodyNone)
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// Validate reports every option that cannot be used.
func (o Options) Validate() error {
	var problems []error
	if o.Counter == nil {
		problems = append(problems, errors.New("counter: must be set"))
	}
	if o.Policy == nil {
		problems = append(problems, errors.New("policy: must be set"))
	}
	switch o.Body {
	case "", BodyNone, BodyOpenAI, BodyAnthropic:
	default:
		problems = append(problems, fmt.Errorf("body: must be none, openai or anthropic, got %q", o.Body))
	}
	return errors.Join(problems...)
}

// Service is the rate limit service. It is safe for concurrent use.
type Service struct {
	rls.UnimplementedRateLimitServiceServer

	options Options
	metrics *metrics
	rules   atomic.Pointer[ruleset] // nil: none yet
}

var _ rls.RateLimitServiceServer = (*Service)(nil)

// New returns a service that has no rules yet, and refuses to answer.
func New(o Options) (*Service, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	return &Service{options: o.withDefaults(), metrics: newMetrics(o.Registry)}, nil
}

// SetRules changes the rules for calls that begin from now on. Calls of it must
// come one after the other.
func (s *Service) SetRules(c *config.Config) {
	next := s.metrics.ruleset(c)
	s.metrics.forget(s.rules.Swap(next), next)
}

// Rules returns the rules in force; nil if there never were any.
func (s *Service) Rules() *config.Config {
	if r := s.rules.Load(); r != nil {
		return r.config
	}
	return nil
}

// Errors that a request is answered with.
var (
	errNoRules       = grpcstatus.Error(codes.Unavailable, "no rate limit configuration is loaded yet")
	errNoDomain      = grpcstatus.Error(codes.InvalidArgument, "domain: must not be empty")
	errNoDescriptors = grpcstatus.Error(codes.InvalidArgument, "descriptors: must not be empty")
)

// ShouldRateLimit implements the service.
func (s *Service) ShouldRateLimit(ctx context.Context, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	begun := s.options.Now()
	rules := s.rules.Load()
	answer, err := s.decide(ctx, rules, r)
	outcome := outcomeError
	if err == nil {
		outcome = outcomeOK
		if answer.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT {
			outcome = outcomeOver
		}
	}
	s.metrics.answered(rules, r.GetDomain(), outcome, s.options.Now().Sub(begun))
	return answer, err
}

func (s *Service) decide(ctx context.Context, rules *ruleset, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	switch {
	case r.GetDomain() == "":
		return nil, errNoDomain
	case len(r.GetDescriptors()) == 0:
		return nil, errNoDescriptors
	case len(r.GetDescriptors()) > server.MaxItems:
		return nil, grpcstatus.Errorf(codes.InvalidArgument, "descriptors: must be at most %d, got %d", server.MaxItems, len(r.GetDescriptors()))
	case rules == nil:
		return nil, errNoRules
	}
	q := s.plan(rules, r)
	if err := q.ask(ctx); err != nil {
		return nil, err
	}
	return q.answer(), nil
}

// GRPC is the service for [server.NewGRPC].
func (s *Service) GRPC() server.UnaryService {
	return server.UnaryService{Desc: rls.RateLimitService_ServiceDesc, Server: s, Undecodable: s.undecodable}
}

// undecodable answers a request with text that is not UTF-8. It comes from a
// header that Envoy's caller sent, who must not get past a limit by it.
func (s *Service) undecodable(reason error) (any, error) {
	if server.Describe(reason).GetField() == "" {
		return nil, reason
	}
	s.metrics.answered(nil, "", outcomeOver, 0)
	s.metrics.kind(nil, "", kindRefused)
	if s.options.Shadow {
		s.metrics.shadowed.Inc()
		return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}, nil
	}
	return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OVER_LIMIT}, nil
}
