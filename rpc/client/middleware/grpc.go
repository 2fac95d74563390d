// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/dialect"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// GRPCOptions configure a [GRPC]. Client, Identify and Estimate are required.
//
// The functions get the request message as req. It is nil for client-streaming and
// bidirectional calls, which are reserved before their first message arrives.
type GRPCOptions struct {
	Client Limiter

	// Identify returns who pays for a metered call. An error that is a gRPC status is
	// returned to the caller, and any other one as Unauthenticated with its message.
	Identify func(ctx context.Context, fullMethod string, req any) (Identity, error)

	// Estimate returns the largest cost of a call and whether the call is metered.
	// The interceptor sets the key, tier, request id and lease of the estimate. An
	// error that is a gRPC status is returned to the caller, and any other one as
	// InvalidArgument with its message.
	Estimate func(ctx context.Context, fullMethod string, req any) (client.Estimate, bool, error)

	// Usage returns the usage of a call so far, if a reply contains it. It is called
	// with the reply of a unary call, unless the handler has called [Call.SetUsage],
	// and with each message that a stream sends. Nil: only handlers report usage.
	Usage func(fullMethod string, req, reply any) (client.Usage, bool)

	// MaxWait is how long a call may wait in line, as in [Options], unless Estimate says it.
	// Estimate also chooses the class.
	MaxWait *time.Duration

	// The fields below are as in [Options]. Codes count as the HTTP statuses that gRPC
	// maps them to: the server errors are Unknown, DeadlineExceeded, Unimplemented,
	// Internal, Unavailable and DataLoss.

	ChargeServerErrors bool

	Lease            time.Duration
	ProgressInterval time.Duration
	Logger           *slog.Logger
	Registerer       prometheus.Registerer
	OnDone           func(Result)
}

// Validate returns all problems of o, joined.
func (o GRPCOptions) Validate() error {
	var errs []error
	if o.Identify == nil {
		errs = append(errs, errors.New("identify: must be set"))
	}
	if o.Estimate == nil {
		errs = append(errs, errors.New("estimate: must be set"))
	}
	return errors.Join(append(errs, o.metering().validate())...)
}

func (o GRPCOptions) metering() metering {
	return metering{
		limiter:    o.Client,
		lease:      o.Lease,
		interval:   o.ProgressInterval,
		logger:     o.Logger,
		registerer: o.Registerer,
		onDone:     o.OnDone,
		maxWait:    o.MaxWait,
	}.withDefaults()
}

// GRPC has the interceptors that meter the calls of a gRPC server. It is safe for
// concurrent use and needs no Close.
//
// A denied call returns ResourceExhausted with the details ErrorInfo (its reason),
// QuotaFailure and, if a retry can succeed, RetryInfo. Decided calls have x-ratelimit-* trailers,
// and x-bucketring-waited-ms if they waited in line.
type GRPC struct {
	options  GRPCOptions
	metering *metering
}

// NewGRPC returns the interceptors. The error names every invalid option.
func NewGRPC(o GRPCOptions) (*GRPC, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("middleware: %w", err)
	}
	metering, err := o.metering().start()
	if err != nil {
		return nil, fmt.Errorf("middleware: %w", err)
	}
	return &GRPC{options: o, metering: metering}, nil
}

// UnaryServerInterceptor returns the interceptor for unary calls.
func (g *GRPC) UnaryServerInterceptor() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
		setTrailer := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) } // fails only outside of a server
		c, err := g.begin(ctx, info.FullMethod, req, setTrailer)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return next(ctx, req)
		}
		returned := false
		defer func() { // does not recover: a panic goes on afterwards
			c.finish(g.ending(ctx, err, returned, false))
		}()
		reply, err = next(context.WithValue(ctx, contextKey{}, c), req)
		returned = true
		if err == nil && g.options.Usage != nil && !c.hasUsage() {
			if u, ok := g.options.Usage(info.FullMethod, req, reply); ok {
				c.SetUsage(u)
			}
		}
		return reply, err
	}
}

// begin reserves a call. It returns nil without an error if the call is not
// metered, and an error if it must not run.
func (g *GRPC) begin(ctx context.Context, method string, req any, setTrailer func(metadata.MD)) (*Call, error) {
	estimate, metered, err := g.options.Estimate(ctx, method, req)
	if err != nil {
		return nil, g.reject(err, codes.InvalidArgument)
	}
	if !metered {
		return nil, nil
	}
	id, err := g.options.Identify(ctx, method, req)
	if err != nil {
		return nil, g.reject(err, codes.Unauthenticated)
	}
	estimate.Key, estimate.Tier = id.Key, id.Tier
	c, err := g.metering.reserve(ctx, estimate, method)
	if err != nil && ctx.Err() != nil {
		g.metering.metrics.undecided(outcomeRejected, codeCancelled)
		return nil, status.FromContextError(ctx.Err()).Err()
	}
	if err != nil {
		return nil, g.limiterError(err)
	}
	setTrailer(trailer(c))
	if c.reservation.Denied() {
		c.finish(ending{})
		return nil, denial(&c.reservation.Decision, estimate.Model)
	}
	if err := ctx.Err(); err != nil { // the caller disconnected during the reservation
		c.MarkNotRun()
		c.finish(ending{incomplete: true})
		return nil, status.FromContextError(err).Err()
	}
	return c, nil
}

// reject returns an error of Identify or Estimate as a status, and counts it.
func (g *GRPC) reject(err error, code codes.Code) error {
	reason := "invalid_request"
	if code == codes.Unauthenticated {
		reason = "invalid_api_key"
	}
	g.metering.metrics.undecided(outcomeRejected, reason)
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code, err.Error())
}

// limiterError returns an error of the limiter as a status, and counts it. Without
// a decision the call does not run.
func (g *GRPC) limiterError(err error) error {
	why := limiterRejection(err)
	outcome, code := outcomeRejected, codes.InvalidArgument
	switch why.status {
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusServiceUnavailable:
		outcome, code = why.outcome, codes.Unavailable
	}
	g.metering.metrics.undecided(outcome, why.code)
	if code != codes.Unavailable {
		return status.Error(code, why.message)
	}
	return withDetails(code, why.message, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
}

// errorDomain is the domain of the ErrorInfo of a denial.
const errorDomain = "bucketring"

// denial returns the status of a denied call of model.
func denial(d *client.Decision, model string) error {
	l := &d.Binding
	message := dialect.Message(d, model)
	violation := &errdetails.QuotaFailure_Violation{Subject: l.Scope, Description: message, QuotaId: l.Name, QuotaMetric: l.Dimension}
	if !l.Hidden {
		violation.QuotaValue = l.Limit
	}
	if l.PerModel {
		violation.QuotaDimensions = map[string]string{"model": model}
	}
	details := []protoadapt.MessageV1{
		&errdetails.ErrorInfo{Reason: string(d.Reason), Domain: errorDomain},
		&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{violation}},
	}
	if after, ok := dialect.RetryAfter(d); ok {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(after)})
	}
	return withDetails(codes.ResourceExhausted, message, details...)
}

func withDetails(code codes.Code, message string, details ...protoadapt.MessageV1) error {
	s := status.New(code, message)
	if detailed, err := s.WithDetails(details...); err == nil {
		s = detailed
	}
	return s.Err()
}

// trailer returns the x-ratelimit-* HTTP headers of a decision, and how long it took in line,
// as metadata.
func trailer(c *Call) metadata.MD {
	h := http.Header{}
	dialect.SetHeaders(h, llm.OpenAI, &c.reservation.Decision, time.Now())
	md := metadata.MD{}
	for name, values := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-ratelimit-") || name == strings.ToLower(dialect.HeaderWaited) {
			md[name] = values
		}
	}
	return md
}

// ending describes how a call ended. returned is false if the handler panicked;
// sent is true if the stream has sent a message.
func (g *GRPC) ending(ctx context.Context, err error, returned, sent bool) ending {
	disconnected := ctx.Err() != nil
	failed := returned && err != nil && !disconnected && !sent
	return ending{
		usage:      llm.Usage{Input: -1, Output: -1},
		incomplete: !returned || err != nil && (disconnected || sent),
		failed:     failed,
		rejected:   failed && (!isServerError(status.Code(err)) || g.options.ChargeServerErrors),
	}
}

// isServerError reports whether a code stands for an HTTP status of 500 or above.
func isServerError(c codes.Code) bool {
	switch c {
	case codes.Unknown, codes.DeadlineExceeded, codes.Unimplemented, codes.Internal, codes.Unavailable, codes.DataLoss:
		return true
	}
	return false
}
