// SPDX-License-Identifier: Apache-2.0

package target

import (
	"crypto/tls"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/tokenfile"
)

// Defaults of [Options].
const (
	DefaultTimeout       = time.Second
	DefaultConnections   = 128 // of HTTP
	DefaultDomain        = "bucketring"
	DefaultDescriptorKey = "key"
	DefaultKeyHeader     = "X-Bench-Key"
)

// DefaultLimit is the limit of a Redis target without Options.Limits.
var DefaultLimit = Limit{Dimension: Requests, Amount: 1000, Window: time.Minute}

// Dimension is what a limit of a Redis target counts, named as in bucketring.
type Dimension string

// The dimensions.
const (
	Requests     Dimension = "requests"
	Tokens       Dimension = "tokens" // input and output
	InputTokens  Dimension = "input_tokens"
	OutputTokens Dimension = "output_tokens"
)

var dimensions = []Dimension{Requests, Tokens, InputTokens, OutputTokens}

// costOf returns what a call costs.
func (d Dimension) costOf(c *bench.Call) int64 {
	switch d {
	case Requests:
		return requestsOf(c)
	case Tokens:
		return c.InputTokens + c.OutputTokens
	case InputTokens:
		return c.InputTokens
	case OutputTokens:
		return c.OutputTokens
	}
	return 0
}

// Limit is a limit that a target which keeps none itself applies to every key, whatever its tier.
type Limit struct {
	Dimension Dimension
	Amount    int64         // per window; also the capacity of a token bucket
	Window    time.Duration // whole seconds for redis, whole milliseconds for redis-lua
}

// String returns the limit as in "1000 requests per 1m0s".
func (l Limit) String() string {
	return fmt.Sprintf("%d %s per %s", l.Amount, l.Dimension, l.Window)
}

// Options configure a target. The zero value works. Each kind ignores the options
// that do not mention it.
type Options struct {
	// Timeout bounds requests whose context has no deadline. 0 means [DefaultTimeout].
	Timeout time.Duration
	// TLS secures the connections; see [SupportsTLS]. Nil means plaintext, which is
	// rejected for addresses other than loopback unless Insecure is set. https, rediss
	// and rediss-lua always use TLS.
	TLS *tls.Config
	// Insecure allows plaintext to any address.
	Insecure bool

	// Token is sent to client, grpc, http and rls. Nil: none.
	Token *tokenfile.Source

	// NoIDs sends checks without a request id, as callers do that never repeat a call. So
	// nodes and the client library may answer them from slices. Only for client, grpc and
	// http.
	NoIDs bool

	// Connections is the maximum number of connections of http, redis and redis-lua;
	// requests wait for a free one, of http only as many as can be sent soon. gRPC targets have one connection. 0 means
	// [DefaultConnections] for http, and the default of go-redis, 10 per processor,
	// for redis.
	Connections int

	// KeyHeader is the header in which openai and anthropic send the key of a call, in
	// addition to the bearer token. Empty means [DefaultKeyHeader].
	KeyHeader string

	// Limits are the limits of redis, throttle and gubernator, exactly one on requests, and of
	// redis-lua, one to four with different dimensions. Empty means [DefaultLimit].
	Limits []Limit
	// Global has the daemons of gubernator answer from copies, its behavior GLOBAL.
	Global bool
	// Prefix is the prefix of all keys in Redis. Processes with the same prefix share
	// their limits. Empty means a new random prefix for each target. Keys expire.
	Prefix string

	// Domain is the domain of requests to rls. Empty means [DefaultDomain].
	Domain string
	// DescriptorKey is the key of the only entry of the only descriptor of requests to
	// rls; the entry's value is the key of the call. Empty means
	// [DefaultDescriptorKey].
	DescriptorKey string

	// Now is the clock that numbers the windows of redis. Nil means [time.Now].
	Now func() time.Time
}

func (o Options) withDefaults() Options {
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if len(o.Limits) == 0 {
		o.Limits = []Limit{DefaultLimit}
	}
	o.Limits = slices.Clone(o.Limits)
	if o.KeyHeader == "" {
		o.KeyHeader = DefaultKeyHeader
	}
	if o.Domain == "" {
		o.Domain = DefaultDomain
	}
	if o.DescriptorKey == "" {
		o.DescriptorKey = DefaultDescriptorKey
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// validate returns all problems that do not depend on the kind of target.
func (o Options) validate() error {
	var errs []error
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout: must not be negative, got %v", o.Timeout))
	}
	if o.TLS != nil && o.Insecure {
		errs = append(errs, errors.New("insecure: must not be set together with TLS"))
	}
	if o.Connections < 0 {
		errs = append(errs, fmt.Errorf("connections: must not be negative, got %d", o.Connections))
	}
	if strings.ContainsAny(o.KeyHeader, " \t\r\n:") {
		errs = append(errs, fmt.Errorf("key_header: must be the name of a header, got %q", o.KeyHeader))
	}
	for i, l := range o.Limits {
		name := fmt.Sprintf("limits[%d]", i)
		if !slices.Contains(dimensions, l.Dimension) {
			errs = append(errs, fmt.Errorf("%s.dimension: must be one of %s, got %q", name, joinDimensions(dimensions), l.Dimension))
		}
		if l.Amount < 1 {
			errs = append(errs, fmt.Errorf("%s.amount: must be positive, got %d", name, l.Amount))
		}
		if l.Window <= 0 {
			errs = append(errs, fmt.Errorf("%s.window: must be positive, got %v", name, l.Window))
		}
	}
	return errors.Join(errs...)
}

func joinDimensions(list []Dimension) string {
	texts := make([]string, len(list))
	for i, d := range list {
		texts[i] = string(d)
	}
	return strings.Join(texts, ", ")
}
