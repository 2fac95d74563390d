// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/client"
)

// Defaults of [Options] and [GRPCOptions].
const (
	DefaultMaxBodyBytes = 8 << 20
	DefaultLease        = 30 * time.Second
	DefaultDrainTimeout = 10 * time.Minute
	DefaultBodyMemory   = 256 << 20
	DefaultBodyTimeout  = time.Minute
)

const maxMaxBodyBytes = 1 << 30

// Limiter makes reservations. [client.Client] implements it. It must be safe for
// concurrent use.
type Limiter interface {
	Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error)
}

var _ Limiter = (*client.Client)(nil)

// Identity is who pays for a call.
type Identity struct {
	Key  string // 1 to 4 segments, such as "acme/alice"
	Tier string // empty: the policy chooses the tier
}

// StatusError is an error of Options.Identify or Options.Estimate that chooses
// the HTTP status of the response. Other errors of these functions result in 401
// and 400.
type StatusError struct {
	Status  int    // 400 to 599; other values result in 500
	Message string // sent to the caller; empty: the text of the status
}

// Error implements error.
func (e *StatusError) Error() string {
	if e.Message == "" {
		return http.StatusText(e.Status)
	}
	return e.Message
}

// DisconnectMode says what happens to a call when its caller disconnects before
// the end of the response.
type DisconnectMode uint8

const (
	// ChargeStreamed cancels the context of the handler's request, which stops the
	// model. The input and the output up to then are charged.
	ChargeStreamed DisconnectMode = iota
	// Drain lets the handler finish. The context of its request is not cancelled,
	// the rest of the response is discarded, and the whole call is charged.
	Drain
)

// String returns "charge_streamed" or "drain".
func (m DisconnectMode) String() string {
	switch m {
	case ChargeStreamed:
		return "charge_streamed"
	case Drain:
		return "drain"
	}
	return fmt.Sprintf("DisconnectMode(%d)", uint8(m))
}

// Options configure a [Middleware]. Client and Identify are required.
type Options struct {
	Client Limiter

	// Identify returns who pays for a metered request. It is called before the body
	// is read. If it fails, the request is rejected with 401 or the status of a
	// [StatusError].
	Identify func(*http.Request) (Identity, error)

	// Estimate returns the largest cost of a request and whether the request is
	// metered. If it fails, the request is rejected with 400 or the status of a
	// [StatusError]. The middleware sets the key, tier, request id and lease of the
	// estimate. It does not read or change the body: the handler must respect
	// [Call.Granted] and report usage with [Call.SetUsage].
	//
	// Nil: the endpoints of OpenAI- and Anthropic-style servers are metered.
	Estimate func(*http.Request) (client.Estimate, bool, error)

	// Count reports whether a request to no known endpoint is metered by count: it takes
	// a request and a slot, and is charged the tokens that the usage of its response
	// reports, if any, and the images and searches that the response shows. Its body may
	// be of any size. Its model is that of its path or, if its first MaxBodyBytes have one,
	// of its body: a JSON object or a form. Without one, limits of one model do not apply
	// to it. It is not called if Estimate is set. Nil: no such request is metered.
	Count func(*http.Request) bool

	// Model is the model of all metered requests, for a server that runs the same one
	// whatever a request names. Estimate chooses its own. Empty: requests name it.
	Model string
	// DefaultModel is the model of metered requests whose body and path name none, which
	// servers with a default model accept. Without it, limits of named models do not apply
	// to such requests. It does not change what the handler gets.
	DefaultModel string

	// OnDisconnect says what happens when a caller disconnects.
	OnDisconnect DisconnectMode
	// DrainTimeout bounds how long a call may run after its caller disconnected,
	// with OnDisconnect set to [Drain]. 0: [DefaultDrainTimeout].
	DrainTimeout time.Duration

	// MaxBodyBytes bounds the body of a metered request, before and after it is
	// decoded. A larger one is rejected with 413. At most 1 GiB. 0: [DefaultMaxBodyBytes].
	MaxBodyBytes int64
	// BodyMemory bounds the bytes of all bodies of metered requests that are in memory.
	// A body counts from its declaration on, or as it grows if its length is not
	// declared, until the handler has read it and the response has started. The callers
	// of one root (the first segment of the key) have an eighth of BodyMemory, or
	// MaxBodyBytes if that is more, and no more than is left for others: a larger body
	// is rejected with 429, or with 503 if other roots have taken the memory. At least
	// twice MaxBodyBytes. 0: [DefaultBodyMemory], or eight times MaxBodyBytes if that is
	// more.
	BodyMemory int64
	// BodyTimeout bounds how long the body of a metered request may take to arrive,
	// unless the server has a ReadTimeout. A slower one is rejected with 408.
	// Negative: the server bounds it otherwise. 0: [DefaultBodyTimeout].
	BodyTimeout time.Duration

	// StreamUsage says whether the model server is asked for the usage of streams. The zero
	// value asks; [StreamUsageNever] switches it off.
	StreamUsage StreamUsage

	// MinOutputTokens is the smallest useful output of each choice, for policies that
	// grant less output instead of denying. The request header
	// X-Bucketring-Min-Output-Tokens overrides it with a number or "forbid". 0: the
	// larger of 256 and an eighth of the requested output.
	MinOutputTokens int64
	// MaxWait is how long a call may wait in line, where the policy lets calls wait, until
	// it fits. Its caller sees a slower answer instead of a denial, and leaves the line when
	// it disconnects. 0: no call waits. At most 10 minutes. Nil: as long as the policy says.
	// Timeouts of the server must be longer.
	//
	// The request header X-Bucketring-Priority names the class of the call: interactive,
	// standard or batch. An Estimate may have its own MaxWait and Priority.
	MaxWait *time.Duration

	// DegradeStructuredOutput also allows smaller grants for calls with tools or
	// with a response schema, whose output is useless when it is truncated.
	DegradeStructuredOutput bool

	// ChargeServerErrors keeps the charge for the requests of a call that fails with a
	// 5xx status before any output. Without it, such a call is free. Calls that are
	// rejected with a 3xx or 4xx status are never free: their requests stay charged, so
	// that no caller reaches the model server more often than its limits allow.
	ChargeServerErrors bool

	// Lease is how long the reservations of a process that died stay held, in whole
	// seconds from 1 s to 1 h. 0: [DefaultLease].
	Lease time.Duration
	// ProgressInterval is the time between two reports of progress, which renew the
	// lease. It must be shorter than Lease. 0: a third of Lease.
	ProgressInterval time.Duration

	// WhenUndecided says what happens to a call when no node answers.
	WhenUndecided UndecidedMode

	// AccessLog says which calls are logged.
	AccessLog AccessLog
	// AccessLogPlainKeys logs keys as they are, in all lines of Logger. Otherwise, their
	// hashes are logged, which are the same in all processes: who can guess a key can
	// recognize its hash.
	AccessLogPlainKeys bool

	// Tracer makes spans of the reserve and the settle of each call whose request has a
	// sampled span in its context, and adds to that one what the call was charged. Spans have
	// no keys. Nil: no spans.
	Tracer trace.Tracer

	// Logger logs settlements that failed, once in a minute that no node answers, and
	// calls if AccessLog is set. Nil: no logging.
	Logger *slog.Logger
	// Registerer registers the metrics. Middlewares with the same Registerer share
	// them. Nil: no metrics.
	Registerer prometheus.Registerer
	// OnDone is called after each decided call has ended, denied calls included. It
	// runs in the goroutine of the call and delays its end. Nil: not called.
	OnDone func(Result)
}

// Validate returns all problems of o, joined.
func (o Options) Validate() error {
	var errs []error
	if o.Identify == nil {
		errs = append(errs, errors.New("identify: must be set"))
	}
	if o.OnDisconnect > Drain {
		errs = append(errs, fmt.Errorf("on_disconnect: must be charge_streamed or drain, got %v", o.OnDisconnect))
	}
	if o.StreamUsage > StreamUsageNever {
		errs = append(errs, fmt.Errorf("stream_usage: must be auto, always or never, got %v", o.StreamUsage))
	}
	if o.AccessLog > AccessLogOn {
		errs = append(errs, fmt.Errorf("access_log: must be off, sampled or on, got %v", o.AccessLog))
	}
	if o.WhenUndecided > AllowUndecided {
		errs = append(errs, fmt.Errorf("when_undecided: must be deny or allow, got %v", o.WhenUndecided))
	}
	if problem := text.Problem(o.DefaultModel, 0, text.MaxNameBytes); problem != "" {
		errs = append(errs, fmt.Errorf("default_model: %s, got %s", problem, text.Quote(o.DefaultModel)))
	}
	if o.DrainTimeout < 0 {
		errs = append(errs, fmt.Errorf("drain_timeout: must not be negative, got %v", o.DrainTimeout))
	}
	if o.MaxBodyBytes < 0 || o.MaxBodyBytes > maxMaxBodyBytes {
		errs = append(errs, fmt.Errorf("max_body_bytes: must be between 0 and 1 GiB, got %d", o.MaxBodyBytes))
	}
	if d := o.withDefaults(); o.BodyMemory < 0 || d.BodyMemory/2 < d.MaxBodyBytes {
		errs = append(errs, fmt.Errorf("body_memory: must be at least twice max_body_bytes, %d, got %d", 2*d.MaxBodyBytes, o.BodyMemory))
	}
	if o.MinOutputTokens < 0 || o.MinOutputTokens > amount.Max {
		errs = append(errs, fmt.Errorf("min_output_tokens: must be between 0 and %s, got %d", amount.MaxText, o.MinOutputTokens))
	}
	return errors.Join(append(errs, o.metering().validate())...)
}

// maxMaxWait is the longest wait that nodes accept.
const maxMaxWait = 10 * time.Minute

func (o Options) withDefaults() Options {
	if o.DrainTimeout == 0 {
		o.DrainTimeout = DefaultDrainTimeout
	}
	if o.MaxBodyBytes == 0 {
		o.MaxBodyBytes = DefaultMaxBodyBytes
	}
	if o.BodyMemory == 0 {
		o.BodyMemory = max(DefaultBodyMemory, bodyShares*o.MaxBodyBytes)
	}
	if o.BodyTimeout == 0 {
		o.BodyTimeout = DefaultBodyTimeout
	}
	return o
}

func (o Options) logForm() keypath.LogForm {
	if o.AccessLogPlainKeys {
		return keypath.LogPlain
	}
	return keypath.LogHash
}

func (o Options) metering() metering {
	return metering{
		limiter:    o.Client,
		lease:      o.Lease,
		interval:   o.ProgressInterval,
		logger:     o.Logger,
		registerer: o.Registerer,
		onDone:     o.OnDone,
		access:     accessLog{mode: o.AccessLog, keys: o.logForm()},
		undecided:  o.WhenUndecided,
		maxWait:    o.MaxWait,
		tracer:     o.Tracer,
	}.withDefaults()
}
