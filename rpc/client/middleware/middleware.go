// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/keypath"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

const (
	headerMinOutput = "X-Bucketring-Min-Output-Tokens" // of a request: a number, or forbid
	headerPriority  = "X-Bucketring-Priority"          // of a request: the class of the call
	headerRequestID = "X-Bucketring-Request-Id"        // of a response: the id of the reservation
)

// A Middleware meters the calls of HTTP handlers. It is safe for concurrent use
// and needs no Close: it has no goroutines or timers while no call is in progress. With
// [AllowUndecided], it also has a goroutine while calls without a decision are not charged.
type Middleware struct {
	options   Options
	metering  *metering
	bodies    *bodyBudget
	estimator estimator
	refusals  refusals
	now       func() time.Time
}

// New returns a middleware. The error names every invalid option.
func New(o Options) (*Middleware, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("middleware: %w", err)
	}
	metering, err := o.metering().start()
	if err != nil {
		return nil, fmt.Errorf("middleware: %w", err)
	}
	o = o.withDefaults()
	return &Middleware{options: o, metering: metering, bodies: newBodyBudget(o, metering.metrics.bodyBytes), now: time.Now}, nil
}

// Flush waits until the calls that ran without a decision are charged, and retries at
// once. If ctx ends before, the error says how many are left; they stay pending, in memory.
// Flush the client afterwards. Without [AllowUndecided], Flush returns at once.
func (m *Middleware) Flush(ctx context.Context) error { return m.metering.late.flush(ctx) }

// Handler returns a handler that meters calls and then calls next. The response of next
// is read also if it is compressed with zstd, gzip or deflate. With other codings, the call
// is charged by its size, so middleware that uses them must wrap this handler.
//
// The ResponseWriter that next gets does not support hijacking.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.options.Estimate != nil {
			m.serveEstimated(w, r, next)
		} else if e, ok := llm.EndpointOf(r.Method, r.URL.Path); ok {
			m.serveEndpoint(w, r, next, e)
		} else if e, ok := llm.EndpointOf(http.MethodPost, r.URL.Path); ok && r.ContentLength != 0 {
			// Some servers read the body whatever the method is.
			w.Header().Set("Allow", http.MethodPost)
			m.reject(exchange{w: w, r: r, dialect: e.Dialect(), began: time.Now(), method: e.String()}, &rejection{
				status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: "This endpoint accepts a body only with POST.",
			})
		} else if m.options.Count != nil && m.options.Count(r) {
			m.serveCounted(w, r, next)
		} else {
			next.ServeHTTP(w, r)
		}
	})
}

// serveEndpoint serves a call of an OpenAI- or Anthropic-style endpoint.
func (m *Middleware) serveEndpoint(w http.ResponseWriter, r *http.Request, next http.Handler, e llm.Endpoint) {
	x := exchange{w: w, r: r, dialect: e.Dialect(), began: time.Now(), method: e.String()}
	id, err := m.options.Identify(r)
	if err != nil {
		m.reject(x, identityRejection(err))
		return
	}
	x.key = id.Key
	b, rejection := m.readBody(x, keypath.Root(id.Key))
	if rejection != nil {
		m.reject(x, rejection)
		return
	}
	defer b.release()
	q, err := llm.Parse(e, b.bytes)
	if err == nil {
		err = q.SetPathModel(r.URL.Path)
	}
	if err == nil && m.options.Model != "" {
		q.Model = m.options.Model
	}
	if err == nil && q.Model == "" {
		q.Model = m.options.DefaultModel
	}
	if err != nil {
		m.reject(x, fieldRejection(err))
		return
	}
	if rejection := checkModel(q.Model); rejection != nil {
		m.reject(x, rejection)
		return
	}
	x.model = q.Model
	minOutput, rejection := m.minOutput(r, q)
	if rejection != nil {
		m.reject(x, rejection)
		return
	}
	input := m.estimator.prompt(id.Key, q.Model, q.InputBytes) + q.InputTokens + q.HiddenTokens
	estimate := client.Estimate{
		Key: id.Key, Tier: id.Tier, Model: q.Model,
		InputTokens: min(input, amount.Max), EstimatedInput: true, KnownInputTokens: min(q.KnownInputTokens(), input, amount.Max), MinOutputTokens: minOutput, N: q.N,
		ServiceTier: knownServiceTier(q.ServiceTier),
	}
	if q.MaxOutput >= 0 { // else the policy's default
		estimate.MaxOutputTokens = new(q.MaxOutput)
	}
	c := m.reserve(x, estimate, e.String())
	if c == nil {
		return
	}
	// Without a report of its usage, the call is charged as if the model had read all.
	c.estimate.InputTokens = min(input+m.estimator.text(id.Key, q.Model, q.OpaqueBytes), amount.Max)
	c.predicted = estimate.InputTokens
	grant := c.bound(q.MaxOutput)
	ask, refused := m.asksUsage(q)
	c.usageRefused = refused
	content, changed := q.Rewrite(grant, ask)
	q.Release()
	m.serve(x, c, q, b, withBody(r, b, content, changed), next)
}

// serveEstimated serves a call whose cost Options.Estimate returns.
func (m *Middleware) serveEstimated(w http.ResponseWriter, r *http.Request, next http.Handler) {
	x := exchange{w: w, r: r, dialect: llm.OpenAI, began: time.Now(), method: r.URL.Path}
	estimate, metered, err := m.options.Estimate(r)
	if err != nil {
		m.reject(x, estimateRejection(err))
		return
	}
	if !metered {
		next.ServeHTTP(w, r)
		return
	}
	id, err := m.options.Identify(r)
	if err != nil {
		m.reject(x, identityRejection(err))
		return
	}
	estimate.Key, estimate.Tier = id.Key, id.Tier
	x.key, x.model = id.Key, estimate.Model
	if c := m.reserve(x, estimate, r.URL.Path); c != nil {
		m.serve(x, c, nil, nil, r, next)
	}
}

// reserve returns a call that may run. Otherwise it writes the response and
// returns nil.
func (m *Middleware) reserve(x exchange, e client.Estimate, method string) *Call {
	if e.Priority == "" {
		class, rejection := classOf(x.r)
		if rejection != nil {
			m.reject(x, rejection)
			return nil
		}
		e.Priority = class
	}
	c, err := m.metering.reserve(x.r.Context(), e, method)
	switch {
	case err != nil && x.r.Context().Err() != nil:
		m.reject(x, cancelledRejection)
		return nil
	case err != nil:
		m.reject(x, limiterRejection(err))
		return nil
	case c.reservation.Denied():
		status := x.deny(c)
		c.finish(ending{status: status, firstByte: time.Now()})
		return nil
	case x.r.Context().Err() != nil: // the caller disconnected during the reservation
		c.MarkNotRun()
		c.finish(ending{incomplete: true})
		return nil
	}
	return c
}

// serve runs the handler of an allowed call and settles the call, also if the
// handler panics. q and b are nil for a call of Options.Estimate.
func (m *Middleware) serve(x exchange, c *Call, q *llm.Request, b *body, r *http.Request, next http.Handler) {
	ctx := x.r.Context()
	if m.options.OnDisconnect == Drain {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if m.options.OnDisconnect == Drain {
		stop := context.AfterFunc(x.r.Context(), func() {
			defer cancel()
			timer := time.NewTimer(m.options.DrainTimeout)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		})
		defer stop()
	}
	w := m.newWriter(x, c, q, cancel)
	w.body = b
	returned := false
	defer func() { // does not recover: a panic goes on afterwards
		c.finish(w.ending(returned))
	}()
	m.run(w, r.WithContext(context.WithValue(ctx, contextKey{}, c)), next)
	returned = true
}
