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
)

// Defaults of [Options].
const (
	DefaultTimeout     = time.Second
	DefaultConnections = 128 // of HTTP
	DefaultDomain      = "bucketring"
	DefaultEntry       = "key"
	DefaultKeyHeader   = "X-Bench-Key"
)

// DefaultLimit is the limit of a Redis target that was given none.
var DefaultLimit = Limit{Dimension: Requests, Amount: 1000, Window: time.Minute}

// Dimension is what a limit of a Redis target counts, by the names of bucketring.
type Dimension string

// The dimensions.
const (
	Requests     Dimension = "requests"
	Tokens       Dimension = "tokens" // input and output
	InputTokens  Dimension = "input_tokens"
	OutputTokens Dimension = "output_tokens"
)

var dimensions = []Dimension{Requests, Tokens, InputTokens, OutputTokens}

// of returns what a call costs.
func (d Dimension) of(c *bench.Call) int64 {
	switch d {
	case Requests:
		return requests(c)
	case Tokens:
		return c.InputTokens + c.OutputTokens
	case InputTokens:
		return c.InputTokens
	case OutputTokens:
		return c.OutputTokens
	}
	return 0
}

// Limit is a limit that a Redis target keeps for every key, whatever its tier.
type Limit struct {
	Dimension Dimension
	Amount    int64         // per window; of a token bucket also what fits at once
	Window    time.Duration // of redis, whole seconds; of redis-lua, whole milliseconds
}

// String returns a limit such as 1000 requests per 1m0s.
func (l Limit) String() string {
	return fmt.Sprintf("%d %s per %s", l.Amount, l.Dimension, l.Window)
}

// Options configure a target. The zero value works. Those that a kind does not
// name are nothing to it.
type Options struct {
	// Timeout bounds a question whose context has no deadline. 0:
	// [DefaultTimeout].
	Timeout time.Duration
	// TLS secures the connections; see [TakesTLS]. Nil: plaintext, which is refused
	// for every address but loopback, unless Insecure is set; https, rediss and
	// rediss-lua have TLS anyway.
	TLS *tls.Config
	// Insecure allows plaintext to any address.
	Insecure bool

	// Connections bounds those of http, redis and redis-lua; a question waits for
	// a free one. The targets on gRPC have one. 0: [DefaultConnections] of http,
	// and what go-redis chooses, 10 per processor, of the others.
	Connections int

	// KeyHeader is the header in which openai and anthropic say the key of a call;
	// it is the bearer token, too. Empty: [DefaultKeyHeader].
	KeyHeader string

	// Limits are those of redis, one on requests, and of redis-lua, one to four
	// with dimensions of their own. Empty: [DefaultLimit].
	Limits []Limit
	// Prefix begins all keys in Redis, so that processes with the same one share
	// their limits. Empty: one of its own for each target that is opened, which
	// starts with nothing used. Keys expire by themselves.
	Prefix string

	// Domain is that of questions to rls. Empty: [DefaultDomain].
	Domain string
	// Entry names the only entry of the only descriptor, whose value is the key of
	// the call. Empty: [DefaultEntry].
	Entry string

	// Now is the clock by which redis numbers its windows. Nil: [time.Now].
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
	if o.Entry == "" {
		o.Entry = DefaultEntry
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	return o
}

// validate returns every problem that does not depend on the kind.
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
			errs = append(errs, fmt.Errorf("%s.dimension: must be one of %s, got %q", name, words(dimensions), l.Dimension))
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

func words(list []Dimension) string {
	texts := make([]string, len(list))
	for i, d := range list {
		texts[i] = string(d)
	}
	return strings.Join(texts, ", ")
}
