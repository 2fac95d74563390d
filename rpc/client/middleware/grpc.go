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

// GRPCOptions configure a [GRPC]. Client, Identify and Cost are needed.
//
// In the functions, req is the request message: of a unary call and of one that
// streams answers. Where the caller streams it is nil, since the call is reserved
// before the first message comes.
type GRPCOptions struct {
	Client Limiter

	// Identify says who pays. Its error is the answer if it is a gRPC status, else
	// the message of an Unauthenticated. It is called for metered calls only.
	Identify func(ctx context.Context, fullMethod string, req any) (Identity, error)

	// Cost says what a call costs at most, and whether it is metered at all. The
	// key and the tier are those of Identify, and the request id and the lease are
	// ours. Its error is the answer if it is a gRPC status, else the message of an
	// InvalidArgument.
	Cost func(ctx context.Context, fullMethod string, req any) (client.Estimate, bool, error)

	// Usage reads what a call has used so far from an answer, if it says so: from
	// the reply of a unary call, and from each message that a stream has sent. What
	// a handler says with [Call.SetUsage] goes before the former. Nil: only
	// handlers say it.
	Usage func(fullMethod string, req, reply any) (client.Usage, bool)

	// The rest is as in [Options].

	Lease         time.Duration
	ProgressEvery time.Duration
	Logger        *slog.Logger
	Registerer    prometheus.Registerer
	OnDone        func(Result)
}

// Validate returns every problem of o.
func (o GRPCOptions) Validate() error {
	var errs []error
	if o.Identify == nil {
		errs = append(errs, errors.New("identify: must be set"))
	}
	if o.Cost == nil {
		errs = append(errs, errors.New("cost: must be set"))
	}
	return errors.Join(append(errs, o.metering().validate())...)
}

func (o GRPCOptions) metering() metering {
	return metering{
		limiter:    o.Client,
		lease:      o.Lease,
		every:      o.ProgressEvery,
		logger:     o.Logger,
		registerer: o.Registerer,
		onDone:     o.OnDone,
	}.withDefaults()
}

// GRPC meters the calls of a gRPC server. It is safe for concurrent use and
// needs no closing.
//
// A denial is a ResourceExhausted with the details RetryInfo, unless trying again
// is of no use, and QuotaFailure. A call that was decided has x-ratelimit trailers.
type GRPC struct {
	options  GRPCOptions
	metering *metering
}

// NewGRPC returns interceptors. The error names every option that cannot be used.
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

// Unary returns the interceptor of unary calls.
func (g *GRPC) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, req any, info *grpc.UnaryServerInfo, next grpc.UnaryHandler) (reply any, err error) {
		setTrailer := func(md metadata.MD) { _ = grpc.SetTrailer(ctx, md) } // fails outside of a server only
		c, err := g.begin(ctx, info.FullMethod, req, setTrailer)
		if err != nil {
			return nil, err
		}
		if c == nil {
			return next(ctx, req)
		}
		returned := false
		defer func() { // also when the handler panics, which goes on afterwards
			c.finish(grpcEnding(ctx, err, returned, false))
		}()
		reply, err = next(context.WithValue(ctx, contextKey{}, c), req)
		returned = true
		if err == nil && g.options.Usage != nil && !c.said() {
			if u, ok := g.options.Usage(info.FullMethod, req, reply); ok {
				c.SetUsage(u)
			}
		}
		return reply, err
	}
}

// begin returns the call if it may run, nil if it is not metered, and otherwise
// the error that answers it.
func (g *GRPC) begin(ctx context.Context, method string, req any, setTrailer func(metadata.MD)) (*Call, error) {
	estimate, metered, err := g.options.Cost(ctx, method, req)
	if err != nil {
		return nil, g.refuse(err, codes.InvalidArgument)
	}
	if !metered {
		return nil, nil
	}
	id, err := g.options.Identify(ctx, method, req)
	if err != nil {
		return nil, g.refuse(err, codes.Unauthenticated)
	}
	estimate.Key, estimate.Tier = id.Key, id.Tier
	c, err := g.metering.reserve(ctx, estimate, method)
	if err != nil {
		return nil, g.undecided(err)
	}
	setTrailer(trailer(c))
	if c.reservation.Denied() {
		c.finish(ending{})
		return nil, denial(&c.reservation.Decision)
	}
	if err := ctx.Err(); err != nil { // the caller left meanwhile
		c.NotRun()
		c.finish(ending{broke: true})
		return nil, status.FromContextError(err).Err()
	}
	return c, nil
}

// refuse returns an error of the server's own functions as a status.
func (g *GRPC) refuse(err error, code codes.Code) error {
	g.metering.metrics.undecided(outcomeRefused)
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(code, err.Error())
}

// undecided explains why the limiter made no decision. Nothing runs without one.
func (g *GRPC) undecided(err error) error {
	why := undecided(err)
	outcome, code := outcomeRefused, codes.InvalidArgument
	switch why.status {
	case http.StatusUnauthorized:
		code = codes.Unauthenticated
	case http.StatusServiceUnavailable:
		outcome, code = outcomeUnreachable, codes.Unavailable
	}
	g.metering.metrics.undecided(outcome)
	if code != codes.Unavailable {
		return status.Error(code, why.message)
	}
	return withDetails(code, why.message, &errdetails.RetryInfo{RetryDelay: durationpb.New(time.Second)})
}

// denial returns the status that says why a call may not run.
func denial(d *client.Decision) error {
	l := &d.Binding
	message := string(d.Reason)
	violation := &errdetails.QuotaFailure_Violation{Subject: l.Scope, Description: message}
	if l.Name != "" {
		message = fmt.Sprintf("%s: %s of %s, %d of %d left, %d needed", d.Reason, l.Name, l.Scope, l.Remaining, l.Limit, l.Cost)
		violation.Description = message
		violation.QuotaId, violation.QuotaMetric, violation.QuotaValue = l.Name, l.Dimension, l.Limit
	}
	details := []protoadapt.MessageV1{&errdetails.QuotaFailure{Violations: []*errdetails.QuotaFailure_Violation{violation}}}
	if d.RetryAfter > 0 {
		details = append(details, &errdetails.RetryInfo{RetryDelay: durationpb.New(d.RetryAfter)})
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

// trailer says how the limits stand, in the names that HTTP headers have.
func trailer(c *Call) metadata.MD {
	h := http.Header{}
	dialect.SetHeaders(h, llm.OpenAI, &c.reservation.Decision, time.Now())
	md := metadata.MD{}
	for name, values := range h {
		if name = strings.ToLower(name); strings.HasPrefix(name, "x-ratelimit-") {
			md[name] = values
		}
	}
	return md
}

// grpcEnding says how a call ended. sent: it has streamed a message.
func grpcEnding(ctx context.Context, err error, returned, sent bool) ending {
	gone := ctx.Err() != nil
	return ending{
		input: -1, cached: -1, output: -1,
		broke:  !returned || err != nil && (gone || sent),
		failed: returned && err != nil && !gone && !sent,
	}
}
