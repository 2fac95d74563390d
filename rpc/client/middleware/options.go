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

	"github.com/bucketring/bucketring/rpc/client"
)

// Defaults of [Options] and [GRPCOptions].
const (
	DefaultMaxBody  = 8 << 20
	DefaultLease    = 30 * time.Second
	DefaultDrainFor = 10 * time.Minute
)

const maxMaxBody = 1 << 30

// Limiter makes reservations. [client.Client] is one.
type Limiter interface {
	Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error)
}

var _ Limiter = (*client.Client)(nil)

// Identity is who pays for a call.
type Identity struct {
	Key  string // 1 to 4 segments: "acme/alice"
	Tier string // "": the policy decides
}

// StatusError refuses a call with a status of its own, from Options.Identify or
// Options.Cost. Other errors are a 401 from the one and a 400 from the other.
type StatusError struct {
	Status  int    // 400 to 599
	Message string // for the caller
}

// Error implements error.
func (e *StatusError) Error() string {
	if e.Message == "" {
		return http.StatusText(e.Status)
	}
	return e.Message
}

// Gone says what becomes of a call whose caller left before its end.
type Gone uint8

const (
	// ChargeStreamed stops the model: the context of the handler's request is
	// cancelled. The input is charged, and what was generated until then.
	ChargeStreamed Gone = iota
	// Drain lets the model finish: the handler's request does not learn that the
	// caller left, and what it writes is read and thrown away. All is charged.
	Drain
)

// String returns the name of g.
func (g Gone) String() string {
	switch g {
	case ChargeStreamed:
		return "charge_streamed"
	case Drain:
		return "drain"
	}
	return fmt.Sprintf("gone(%d)", uint8(g))
}

// Options configure a [Middleware]. Client and Identify are needed, the rest
// has defaults.
type Options struct {
	Client Limiter

	// Identify says who pays, before anything is read of the body. Its error is
	// the answer: 401, or what a [StatusError] says. It is not called for requests
	// that are not metered.
	Identify func(*http.Request) (Identity, error)

	// Cost says what a request to a server of another kind costs at most, and
	// whether it is metered at all. Its error is a 400, or what a [StatusError]
	// says. The key and the tier are those of Identify, and the request id and
	// the lease are ours. The body is left alone: it is up to the handler to
	// observe [Call.Granted] and to report with [Call.SetUsage].
	//
	// Nil: the endpoints of OpenAI- and Anthropic-style servers are metered.
	Cost func(*http.Request) (client.Estimate, bool, error)

	Gone Gone
	// DrainFor bounds how long a drained call may run after its caller left. 0:
	// [DefaultDrainFor].
	DrainFor time.Duration

	// MaxBody bounds the body of a metered request, in bytes. More is a 413. 0:
	// [DefaultMaxBody].
	MaxBody int64

	// ForceUsage asks the model's server for the usage of a stream where the
	// caller did not (stream_options.include_usage), and hides the chunk that is
	// extra. Set it if the handler hands the body to a server that knows the
	// option.
	ForceUsage bool

	// MinOutput is the least output worth running, per choice, where the policy
	// lets a grant shrink. 0: max(256, an eighth of what was asked for). The
	// header X-Bucketring-Min-Output-Tokens of a request goes before it: a number,
	// or "forbid".
	MinOutput int64
	// AllowCut lets a grant shrink also where a cut answer is of no use: with
	// tools, and with output that has to follow a schema.
	AllowCut bool

	// Lease is how long a slot is held for a process that died, in whole
	// seconds up to an hour. 0: [DefaultLease].
	Lease time.Duration
	// ProgressEvery is how often the lease of a call under way is renewed and its
	// progress reported. 0: a third of Lease.
	ProgressEvery time.Duration

	// Logger is told of charges that could not be reported. Nil: nobody is.
	Logger *slog.Logger
	// Registerer takes the metrics. Nil: none.
	Registerer prometheus.Registerer
	// OnDone is told of every call that was decided, once it has ended. It is
	// called by the goroutine that serves the call, which waits for it. Nil: nobody
	// is.
	OnDone func(Result)
}

// Validate returns every problem of o.
func (o Options) Validate() error {
	var errs []error
	if o.Identify == nil {
		errs = append(errs, errors.New("identify: must be set"))
	}
	if o.Gone > Drain {
		errs = append(errs, fmt.Errorf("gone: must be charge_streamed or drain, got %v", o.Gone))
	}
	if o.DrainFor < 0 {
		errs = append(errs, fmt.Errorf("drain_for: must not be negative, got %v", o.DrainFor))
	}
	if o.MaxBody < 0 || o.MaxBody > maxMaxBody {
		errs = append(errs, fmt.Errorf("max_body: must be between 0 and 1 GiB, got %d", o.MaxBody))
	}
	if o.MinOutput < 0 || o.MinOutput > maxAmount {
		errs = append(errs, fmt.Errorf("min_output: must be between 0 and 2^53, got %d", o.MinOutput))
	}
	return errors.Join(append(errs, o.metering().validate())...)
}

func (o Options) withDefaults() Options {
	if o.DrainFor == 0 {
		o.DrainFor = DefaultDrainFor
	}
	if o.MaxBody == 0 {
		o.MaxBody = DefaultMaxBody
	}
	return o
}

func (o Options) metering() metering {
	return metering{
		limiter:    o.Client,
		lease:      o.Lease,
		every:      o.ProgressEvery,
		logger:     o.Logger,
		registerer: o.Registerer,
		onDone:     o.OnDone,
	}.withDefaults()
}
