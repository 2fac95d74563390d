// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// tlsLimitation is added to the limitations of kinds over TLS.
const tlsLimitation = " Latencies include TLS handshakes on new connections."

// Kind describes a kind of target.
type Kind struct {
	Name   string
	Syntax string // of its spec
	// Measures says what a run against it measures, and Limitations what it does not.
	Measures, Limitations string
	// CallsModel says that the target makes LLM calls itself: a reserve returns with
	// the first byte of the model's answer, and the final settle with the last.
	CallsModel bool
}

// Kinds returns all kinds. The caller may change the slice.
func Kinds() []Kind {
	list := make([]Kind, len(kinds))
	for i, k := range kinds {
		list[i] = k.Kind
	}
	return list
}

type kind struct {
	Kind
	open func(k *kind, rest string, o Options) (builtin, error)
}

var kinds = []kind{
	{clientKind, openClient},
	{grpcKind, openGRPC},
	{httpKind, openHTTP},
	{httpsKind, openHTTP},
	{redisKind, openRedis},
	{luaKind, openLua},
	{redisTLSKind, openRedis},
	{luaTLSKind, openLua},
	{rlsKind, openRLS},
	{gubernatorKind, openGubernator},
	{respKind, openRESP},
	{throttleKind, openThrottle},
	{echoKind, openEcho},
	{openAIKind, openLLM},
	{anthropicKind, openLLM},
	{nullKind, openNull},
}

// SupportsTLS reports whether the target of a spec uses [Options.TLS]. Those whose
// spec says plaintext, and null:, do not.
func SupportsTLS(spec string) bool {
	name, _, _ := strings.Cut(spec, ":")
	return slices.Contains([]string{clientKind.Name, grpcKind.Name, rlsKind.Name, gubernatorKind.Name, respKind.Name, throttleKind.Name, httpsKind.Name, redisTLSKind.Name, luaTLSKind.Name}, name)
}

// builtin is a target of this package.
type builtin interface {
	bench.Target
	// describe returns how this target is configured, or "".
	describe() string
	// ready returns nil if the target answers. It charges nothing.
	ready(ctx context.Context) error
}

// base is the common part of all targets.
type base struct {
	kind    *kind
	name    string        // the spec without credentials
	timeout time.Duration // of requests whose context has no deadline
	noIDs   bool          // see Options.NoIDs
}

func newBase(k *kind, name string, o Options) base { return base{k, name, o.Timeout, o.NoIDs} }

// checkID returns the request id of a check.
func (b *base) checkID(c *bench.Call) string {
	if b.noIDs {
		return ""
	}
	return c.ID
}

// Name implements [bench.Target].
func (b *base) Name() string { return b.name }

func (b *base) note() string { return b.kind.Measures + " " + b.kind.Limitations }

// withTimeout gives a context a deadline if it has none.
func (b *base) withTimeout(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, limited := ctx.Deadline(); limited {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.timeout)
}

// Open returns the target of a spec: the name of a kind, a colon and an address, in
// the syntax of its [Kind]. It connects in the background, so a target that is not
// reachable is not an error; see [Ready]. The error has every problem of the spec and
// the options, and never a password.
//
// Targets that can read the usage of limits implement [bench.UsageReader]: client,
// grpc and those on Redis. See also [DisableRedisLogging].
func Open(spec string, o Options) (bench.Target, error) {
	name, rest, found := strings.Cut(spec, ":")
	k := kindOf(name)
	if !found || k == nil {
		return nil, unknownKindError(spec)
	}
	o = o.withDefaults()
	if err := o.validate(); err != nil {
		return nil, fmt.Errorf("target %q: %w", redacted(spec), err)
	}
	t, err := k.open(k, strings.TrimPrefix(rest, "//"), o)
	if err != nil {
		return nil, fmt.Errorf("target %q: %w", redacted(spec), err)
	}
	return t, nil
}

func kindOf(name string) *kind {
	for i := range kinds {
		if kinds[i].Name == name {
			return &kinds[i]
		}
	}
	return nil
}

// unknownKindError lists the syntax of all kinds, and suggests the likely one.
func unknownKindError(spec string) error {
	forms := make([]string, len(kinds))
	for i, k := range kinds {
		forms[i] = k.Syntax
	}
	hint := ""
	switch name, _, _ := strings.Cut(spec, ":"); {
	case name == "null":
		hint = "; did you mean null:?"
	case len(spec) > 0 && !strings.Contains(spec, "/") && splitAddress("client", spec, "6471").err == nil:
		hint = fmt.Sprintf("; did you mean client:%s?", spec)
	}
	return fmt.Errorf("target %q: must be one of %s%s", redacted(spec), strings.Join(forms, ", "), hint)
}

// Describe returns a few sentences for people: what a run against t measures, its
// limitations and its configuration. It returns "" for a target of another package.
func Describe(t bench.Target) string {
	o, ok := t.(interface {
		builtin
		note() string
	})
	if !ok {
		return ""
	}
	if special := o.describe(); special != "" {
		return o.note() + " " + special
	}
	return o.note()
}

// readyInterval is the time between two attempts of [Ready].
const readyInterval = 20 * time.Millisecond

// Ready waits until t answers. If ctx ends first, it returns why t did not answer. It
// charges nothing. For a target of another package it returns nil at once.
func Ready(ctx context.Context, t bench.Target) error {
	o, ok := t.(builtin)
	if !ok {
		return nil
	}
	timer := time.NewTimer(0)
	defer timer.Stop()
	for last := error(nil); ; {
		select {
		case <-ctx.Done():
			if last == nil {
				last = ctx.Err()
			}
			return fmt.Errorf("target %q does not answer: %w", t.Name(), last)
		case <-timer.C:
		}
		err := o.ready(ctx)
		if err == nil {
			return nil
		}
		if last == nil || ctx.Err() == nil { // the end of ctx is not a cause
			last = err
		}
		timer.Reset(readyInterval)
	}
}

// Version returns the name and version that the server of t reports, such as "Redis
// 7.0.15", or "" if it reports none.
func Version(ctx context.Context, t bench.Target) string {
	v, ok := t.(interface {
		version(ctx context.Context) string
	})
	if !ok {
		return ""
	}
	return v.version(ctx)
}

// checksOnly is embedded by targets without reservations.
type checksOnly struct{}

// Reserve implements [bench.Target].
func (checksOnly) Reserve(context.Context, *bench.Call) (bench.Answer, error) {
	return bench.Answer{}, bench.ErrNoReservations
}

// Settle implements [bench.Target].
func (checksOnly) Settle(context.Context, bench.Usage) (bench.Answer, error) {
	return bench.Answer{}, bench.ErrNoReservations
}

// wrapError adds the operation to an error, and [context.DeadlineExceeded] after a
// timeout.
func wrapError(op string, err error, timedOut bool) error {
	if timedOut && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %w", op, context.DeadlineExceeded, err)
	}
	return fmt.Errorf("%s: %w", op, err)
}

// requestsOf returns the number of requests that a call counts as.
func requestsOf(c *bench.Call) int64 {
	if c.Requests == 0 {
		return 1
	}
	return c.Requests
}
