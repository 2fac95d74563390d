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

// Kind is a kind of target, for people who choose one.
type Kind struct {
	Name string
	Form string // of its spec
	// Measures is what a run against it measures, and Leaves what it does not.
	Measures, Leaves string
	// Calls: it makes the LLM calls itself. A reserve is there with the first byte
	// of the answer, and the final settle with the last one.
	Calls bool
}

// Kinds returns all kinds. The caller may change what it gets.
func Kinds() []Kind {
	list := make([]Kind, len(kinds))
	for i, k := range kinds {
		list[i] = k.Kind
	}
	return list
}

type kind struct {
	Kind
	open func(k *kind, rest string, o Options) (opened, error)
}

var kinds = []kind{
	{clientKind, openClient},
	{grpcKind, openGRPC},
	{httpKind, openHTTP},
	{httpsKind, openHTTP},
	{redisKind, openRedis},
	{luaKind, openLua},
	{redissKind, openRedis},
	{luasKind, openLua},
	{rlsKind, openRLS},
	{openAIKind, openLLM},
	{anthropicKind, openLLM},
	{nullKind, openNull},
}

// TakesTLS reports whether the target of a spec is asked over TLS if [Options.TLS]
// is set: all but those whose spec says plaintext, and null:.
func TakesTLS(spec string) bool {
	name, _, _ := strings.Cut(spec, ":")
	return slices.Contains([]string{clientKind.Name, grpcKind.Name, rlsKind.Name, httpsKind.Name, redissKind.Name, luasKind.Name}, name)
}

// opened is what every target here can do.
type opened interface {
	bench.Target
	// describe says what is special about this one, "" if nothing is.
	describe() string
	// ready reports whether it answers, and spends nothing.
	ready(ctx context.Context) error
}

// base is the part that targets have in common.
type base struct {
	kind *kind
	name string // the spec without credentials
	// timeout is for questions whose context has no deadline.
	timeout time.Duration
}

// Name implements [bench.Target].
func (b *base) Name() string { return b.name }

func (b *base) note() string { return b.kind.Measures + " " + b.kind.Leaves }

// bounded gives a context a deadline if it has none.
func (b *base) bounded(ctx context.Context) (context.Context, context.CancelFunc) {
	if _, limited := ctx.Deadline(); limited {
		return ctx, func() {}
	}
	return context.WithTimeout(ctx, b.timeout)
}

// Open returns the target that spec names: the name of a kind, a colon, and
// where it is, as [Kind] says. It connects in the background, so that one that is
// not there yet is no error: see [Ready]. The error names every problem of the
// spec and the options, and never shows a password.
//
// The targets of bucketring that can tell how much of a limit is used implement
// [bench.Left], and so do those of Redis. See also [QuietRedis].
func Open(spec string, o Options) (bench.Target, error) {
	name, rest, found := strings.Cut(spec, ":")
	k := kindOf(name)
	if !found || k == nil {
		return nil, unknown(spec)
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

// unknown says how specs begin, and guesses what was meant.
func unknown(spec string) error {
	forms := make([]string, len(kinds))
	for i, k := range kinds {
		forms[i] = k.Form
	}
	hint := ""
	switch name, _, _ := strings.Cut(spec, ":"); {
	case name == "null":
		hint = "; did you mean null:?"
	case len(spec) > 0 && !strings.Contains(spec, "/") && address("client", spec, "6471").problem == nil:
		hint = fmt.Sprintf("; did you mean client:%s?", spec)
	}
	return fmt.Errorf("target %q: must be one of %s%s", redacted(spec), strings.Join(forms, ", "), hint)
}

// Describe says in a few sentences what a run against t measures, what it does
// not, and what t was told. It is "" for a target of another package.
func Describe(t bench.Target) string {
	o, ok := t.(interface {
		opened
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

// pause is between two attempts of [Ready].
const pause = 20 * time.Millisecond

// Ready waits until t answers, and returns why it does not if ctx ends before.
// It charges nothing. For a target of another package it returns nil at once.
func Ready(ctx context.Context, t bench.Target) error {
	o, ok := t.(opened)
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
		if last == nil || ctx.Err() == nil { // not the end of ctx, which says nothing
			last = err
		}
		timer.Reset(pause)
	}
}

// Version is what the server of t says it is, such as "Redis 7.0.15"; "" if it does
// not say.
func Version(ctx context.Context, t bench.Target) string {
	v, ok := t.(interface {
		version(ctx context.Context) string
	})
	if !ok {
		return ""
	}
	return v.version(ctx)
}

// checksOnly is the part of targets that have no reservations.
type checksOnly struct{}

// Reserve implements [bench.Target].
func (checksOnly) Reserve(context.Context, *bench.Call) (bench.Answer, error) {
	return bench.Answer{}, bench.ErrNoReservations
}

// Settle implements [bench.Target].
func (checksOnly) Settle(context.Context, bench.Usage) (bench.Answer, error) {
	return bench.Answer{}, bench.ErrNoReservations
}

// failed is an error of a question. It wraps [context.DeadlineExceeded] if that
// is what late says.
func failed(what string, err error, late bool) error {
	if late && !errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%s: %w: %w", what, context.DeadlineExceeded, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// requests is how many a call counts as.
func requests(c *bench.Call) int64 {
	if c.Requests == 0 {
		return 1
	}
	return c.Requests
}
