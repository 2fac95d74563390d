// SPDX-License-Identifier: Apache-2.0

// Package envoy implements Envoy's rate limit service,
// envoy.service.ratelimit.v3.RateLimitService, as envoyproxy/ratelimit does, with the
// counters of a cluster instead of Redis.
//
// A descriptor for which its domain has a rule, or which has a limit override, has a
// counter: its hits are always added, and it is over its limit if the sum is more than
// the limit. A descriptor with an entry named bucketring.key is a call of that key
// under the policy of the cluster, which charges all limits or none; see
// policycall.go. Any other descriptor is within its limit. A request may have
// descriptors of both kinds; each is decided on its own.
//
// By default Envoy lets a request pass if the service returns an error. So a mistake
// that a caller can make, such as an invalid key, is not an error but a descriptor over
// its limit. Only what could not be decided is an error.
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

// Counter counts hits at the owners of counters. *peer.Router implements it.
type Counter interface {
	Count(ctx context.Context, hits []server.Count) ([]server.Counted, error)
}

// Policy decides calls under the policy. *peer.Router implements it.
type Policy interface {
	// Batch decides calls, whichever members own their keys.
	Batch(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error)
	// Charge charges what was used already, whatever the limits say.
	Charge(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error)
}

// The error bodies.
const (
	BodyNone      = "none"
	BodyOpenAI    = "openai"
	BodyAnthropic = "anthropic"
)

// DefaultPrefix is the prefix of the entries that describe a call under the policy.
const DefaultPrefix = "bucketring."

// Options configure a [Service]. Counter and Policy are required.
type Options struct {
	Counter Counter
	// Policy decides for descriptors with a bucketring.key.
	Policy Policy
	// Admission refuses requests. Nil: all are admitted.
	Admission *server.Admission
	// Shadow decides and counts, and answers OK to every request.
	Shadow bool
	// Headers is the prefix of rate-limit headers: RateLimit adds RateLimit-Limit,
	// RateLimit-Remaining and RateLimit-Reset and, if the request is over its limit,
	// Retry-After. Empty: no headers.
	Headers string
	// Body is the error body that Envoy's callers get, one of the Body constants.
	// Empty: none.
	Body string
	// Metadata adds dynamic metadata: domain, descriptors and the metadata of rules.
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

// New returns a service without rules, which answers with codes.Unavailable.
func New(o Options) (*Service, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("envoy: %w", err)
	}
	return &Service{options: o.withDefaults(), metrics: newMetrics(o.Registry)}, nil
}

// SetRules replaces the rules. Requests that have begun keep the old ones. SetRules must
// not be called concurrently with itself.
func (s *Service) SetRules(c *config.Config) {
	next := s.metrics.ruleset(c)
	s.metrics.deleteSeries(s.rules.Swap(next), next)
}

// Rules returns the current rules, or nil if none were set yet.
func (s *Service) Rules() *config.Config {
	if r := s.rules.Load(); r != nil {
		return r.config
	}
	return nil
}

// Errors of requests.
var (
	errNoRules       = grpcstatus.Error(codes.Unavailable, "no rate limit configuration is loaded yet")
	errNoDomain      = grpcstatus.Error(codes.InvalidArgument, "domain: must not be empty")
	errNoDescriptors = grpcstatus.Error(codes.InvalidArgument, "descriptors: must not be empty")
)

// ShouldRateLimit implements the service.
func (s *Service) ShouldRateLimit(ctx context.Context, r *rls.RateLimitRequest) (*rls.RateLimitResponse, error) {
	start := s.options.Now()
	rules := s.rules.Load()
	answer, err := s.decide(ctx, rules, r)
	outcome := outcomeError
	if err == nil {
		outcome = outcomeOK
		if answer.GetOverallCode() == rls.RateLimitResponse_OVER_LIMIT {
			outcome = outcomeOver
		}
	}
	s.metrics.observe(rules, r.GetDomain(), outcome, s.options.Now().Sub(start))
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
	ev := s.classify(rules, r)
	if !ev.correctsUsage() {
		if err := s.options.Admission.Begin(ctx, server.FromEnvoy); err != nil {
			return nil, err
		}
		defer s.options.Admission.End()
	}
	if err := ev.decide(ctx); err != nil {
		return nil, err
	}
	return ev.response(), nil
}

// GRPC returns the service for [server.NewGRPC].
func (s *Service) GRPC() server.UnaryService {
	return server.UnaryService{Desc: rls.RateLimitService_ServiceDesc, Server: s, Undecodable: s.undecodable}
}

// undecodable answers a request with text that is not UTF-8 with OVER_LIMIT. The text
// is from a header that Envoy's caller sent, who must not bypass a limit that way.
func (s *Service) undecodable(reason error) (any, error) {
	if server.Describe(reason).GetField() == "" {
		return nil, reason
	}
	s.metrics.observe(nil, "", outcomeOver, 0)
	s.metrics.countKind(nil, "", kindRejected)
	if s.options.Shadow {
		s.metrics.shadowed.Inc()
		return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OK}, nil
	}
	return &rls.RateLimitResponse{OverallCode: rls.RateLimitResponse_OVER_LIMIT}, nil
}
