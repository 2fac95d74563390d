// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

const (
	headerMinOutput = "X-Bucketring-Min-Output-Tokens" // of a request: a number, or forbid
	headerRequestID = "X-Bucketring-Request-Id"        // of an answer: that of the reservation
)

// hiddenTokens is what input counts for that is kept by the model's server, such
// as the turns before this one.
const hiddenTokens = 2000

// A Middleware meters the calls of handlers. It is safe for concurrent use and
// needs no closing: it is idle when no call is under way.
type Middleware struct {
	options   Options
	metering  *metering
	estimator estimator
}

// New returns a middleware. The error names every option that cannot be used.
func New(o Options) (*Middleware, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("middleware: %w", err)
	}
	metering, err := o.metering().start()
	if err != nil {
		return nil, fmt.Errorf("middleware: %w", err)
	}
	return &Middleware{options: o.withDefaults(), metering: metering}, nil
}

// Handler returns next with its calls metered. A handler that compresses
// answers belongs around it, not into it: an encoded answer cannot be read, and
// is charged by its size.
//
// An answer cannot be hijacked from the server.
func (m *Middleware) Handler(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if m.options.Cost != nil {
			m.serveOther(w, r, next)
		} else if e, ok := llm.EndpointOf(r.Method, r.URL.Path); ok {
			m.serveModel(w, r, next, e)
		} else if e, ok := llm.EndpointOf(http.MethodPost, r.URL.Path); ok && r.ContentLength != 0 {
			// Many a handler reads a body whatever the method is.
			w.Header().Set("Allow", http.MethodPost)
			m.refuse(answer{w: w, r: r, dialect: e.Dialect()}, &refusal{
				status: http.StatusMethodNotAllowed, code: "method_not_allowed", message: "A call is a POST: with another method this endpoint takes no body.",
			})
		} else {
			next.ServeHTTP(w, r)
		}
	})
}

// serveModel serves a call of an endpoint that is known.
func (m *Middleware) serveModel(w http.ResponseWriter, r *http.Request, next http.Handler, e llm.Endpoint) {
	a := answer{w: w, r: r, dialect: e.Dialect()}
	id, err := m.options.Identify(r)
	if err != nil {
		m.refuse(a, unknownCaller(err))
		return
	}
	body, refusal := m.body(r)
	if refusal != nil {
		m.refuse(a, refusal)
		return
	}
	q, err := llm.Parse(e, body)
	if err != nil {
		m.refuse(a, badField(err))
		return
	}
	floor, refusal := m.floor(r, q)
	if refusal != nil {
		m.refuse(a, refusal)
		return
	}
	input := m.estimator.tokens(q.Model, q.InputBytes) + q.InputTokens
	if q.StoredInput {
		input += hiddenTokens
	}
	estimate := client.Estimate{
		Key: id.Key, Tier: id.Tier, Model: q.Model,
		InputTokens:     min(input, maxAmount),
		MaxOutputTokens: q.MaxOutput, MinOutputTokens: floor, N: q.N,
	}
	switch {
	case q.MaxOutput < 0:
		estimate.MaxOutputTokens = 0 // the policy decides
	case q.MaxOutput == 0:
		estimate.MaxOutputTokens = client.Zero
	}
	c := m.reserve(a, estimate, e.String())
	if c == nil {
		return
	}
	grant := int64(-1)
	if granted := c.Granted(); granted > 0 && q.MaxOutput != 0 && (q.MaxOutput < 0 || granted < q.MaxOutput) {
		grant = granted
	}
	r = withBody(r, body, q.Rewrite(grant, m.options.ForceUsage))
	q.Release()
	m.serve(a, c, q, r, next)
}

// serveOther serves a call whose cost the server itself knows.
func (m *Middleware) serveOther(w http.ResponseWriter, r *http.Request, next http.Handler) {
	a := answer{w: w, r: r, dialect: llm.OpenAI}
	estimate, metered, err := m.options.Cost(r)
	if err != nil {
		m.refuse(a, badCost(err))
		return
	}
	if !metered {
		next.ServeHTTP(w, r)
		return
	}
	id, err := m.options.Identify(r)
	if err != nil {
		m.refuse(a, unknownCaller(err))
		return
	}
	estimate.Key, estimate.Tier = id.Key, id.Tier
	if c := m.reserve(a, estimate, r.URL.Path); c != nil {
		m.serve(a, c, nil, r, next)
	}
}

// reserve returns a call that may run, or answers why there is none.
func (m *Middleware) reserve(a answer, e client.Estimate, method string) *Call {
	c, err := m.metering.reserve(a.r.Context(), e, method)
	switch {
	case err != nil:
		m.refuse(a, undecided(err))
		return nil
	case c.reservation.Denied():
		status := a.deny(c)
		c.finish(ending{status: status})
		return nil
	case a.r.Context().Err() != nil: // the caller left meanwhile
		c.NotRun()
		c.finish(ending{broke: true})
		return nil
	}
	return c
}

// serve runs the handler of a call that was granted, and settles it however the
// handler ends.
func (m *Middleware) serve(a answer, c *Call, q *llm.Request, r *http.Request, next http.Handler) {
	ctx := a.r.Context()
	if m.options.Gone == Drain {
		ctx = context.WithoutCancel(ctx)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if m.options.Gone == Drain {
		// Who left cannot stop the model any more, but time can.
		stop := context.AfterFunc(a.r.Context(), func() {
			defer cancel()
			timer := time.NewTimer(m.options.DrainFor)
			defer timer.Stop()
			select {
			case <-timer.C:
			case <-ctx.Done():
			}
		})
		defer stop()
	}
	w := m.writer(a, c, q, cancel)
	returned := false
	defer func() { // also when the handler panics, which goes on afterwards
		c.finish(w.end(returned))
	}()
	next.ServeHTTP(w, r.WithContext(context.WithValue(ctx, contextKey{}, c)))
	returned = true
}
