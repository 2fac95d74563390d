// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/internal/dialect"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// maxShownTarget bounds how many bytes of a method and path an error repeats.
const maxShownTarget = 100

// A Proxy is an HTTP handler that meters calls and forwards requests to an
// upstream. It is safe for concurrent use.
type Proxy struct {
	options  Options
	log      *slog.Logger
	metrics  *metrics
	upstream *upstream
	meter    *middleware.Middleware
	metered  http.Handler
	reverse  *httputil.ReverseProxy
}

var _ http.Handler = (*Proxy)(nil)

// New returns a proxy. The error names every invalid option.
func New(o Options) (*Proxy, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	o = o.withDefaults()
	log := o.Middleware.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	o.Middleware.Count = func(r *http.Request) bool { return o.Meter.matches(r.Method, r.URL.Path) }
	meter, err := middleware.New(o.Middleware)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{options: o, log: log, meter: meter}
	if p.metrics, err = newMetrics(o.Middleware.Registerer); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p.upstream = newUpstream(o.ResponseHeaderTimeout, p.metrics.failures.WithLabelValues(failedInterrupted))
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p.transport(),
		FlushInterval:  -1, // flush after each write
		BufferPool:     &bufferPool{},
		ModifyResponse: p.onResponse,
		ErrorHandler:   p.onError,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	p.metered = meter.Handler(p.reverse)
	return p, nil
}

// ServeHTTP implements [http.Handler].
func (p *Proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	stalling := newStallWriter(w, p.options.StallTimeout)
	defer stalling.end()
	w = stalling
	if origins := p.options.Origins; !origins.none() {
		if isPreflight(r) {
			origins.answerPreflight(w, r)
			return
		}
		w = &corsWriter{ResponseWriter: w, origins: origins, origin: r.Header.Get("Origin")}
	}
	body := timeBody(r, stalling.control, p.options.BodyTimeout)
	defer body.end()
	route := p.classify(r)
	switch {
	case isUpgrade(r.Header) && (route.endpoint || route.metered || !isWebSocket(r.Header)):
		// Calls on the upgraded connection could not be metered: those of a metered
		// endpoint on a WebSocket, and those of all endpoints on HTTP/2.
		p.metrics.rejected.Inc()
		reject(w, route.dialect, http.StatusBadRequest, "upgrade_not_supported", "This endpoint does not support connection upgrades.")
	case route.metered:
		if route.counted {
			body.extendOnRead() // nobody waits for all of it
			_ = stalling.control.EnableFullDuplex()
		}
		r, end := p.traced(r)
		defer end()
		p.metered.ServeHTTP(w, r)
	case route.ambiguous || !p.options.Pass.allows(r):
		p.metrics.rejected.Inc()
		message := "This proxy does not forward " + text.Shorten(r.Method+" "+r.URL.Path, maxShownTarget) + "."
		if !route.ambiguous && p.options.Pass.refusesForm(r) {
			message = "This proxy forwards " + text.Shorten(r.Method+" "+r.URL.Path, maxShownTarget) + ", but not with a form: send Content-Type: application/json."
		}
		reject(w, route.dialect, http.StatusForbidden, "endpoint_not_allowed", message)
	default:
		p.metrics.passed.Inc()
		body.extendOnRead()
		_ = stalling.control.EnableFullDuplex() // writers without support do not need it
		p.reverse.ServeHTTP(w, r)
	}
}

// Flush waits until the calls that ran without a decision are charged. See
// [middleware.Middleware.Flush].
func (p *Proxy) Flush(ctx context.Context) error { return p.meter.Flush(ctx) }

// Close closes the idle connections to the upstream.
func (p *Proxy) Close() { p.upstream.transport.CloseIdleConnections() }

// Abort cancels all requests to the upstream, current and future ones. Metered
// calls are charged what they used up to then.
func (p *Proxy) Abort() { p.upstream.abort() }

// rewrite prepares the request to the upstream.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	query := pr.In.URL.RawQuery
	pr.SetURL(p.options.Upstream)
	pr.Out.URL.RawQuery = query // SetURL would drop invalid parameters
	pr.SetXForwarded()
	h := pr.Out.Header
	if _, metered := middleware.FromContext(pr.In.Context()); metered {
		preventRetries(h)
		for name := range h {
			if strings.HasPrefix(name, "X-Bucketring-") {
				delete(h, name)
			}
		}
		p.setUpstreamKey(h, llm.OpenAI)
	} else if p.options.UpstreamKey != "" {
		if _, err := p.options.Middleware.Identify(pr.In); err == nil {
			p.setUpstreamKey(h, dialectOf(pr.In.Header))
		}
	}
}

// preventRetries renames idempotency headers to lower case. With the canonical
// names, [http.Transport] retries a POST after a broken connection, which might run
// the model twice. The upstream ignores the case of header names.
func preventRetries(h http.Header) {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
}

// setUpstreamKey replaces the credential of the caller by that of the proxy, if it
// has one. It uses the header of the caller's credential, or else the usual one of
// the dialect.
func (p *Proxy) setUpstreamKey(h http.Header, d llm.Dialect) {
	if p.options.UpstreamKey == "" {
		return
	}
	useAPIKeyHeader := h.Get("X-Api-Key") != "" && h.Get("Authorization") == "" || d == llm.Anthropic
	h.Del("Authorization")
	h.Del("X-Api-Key")
	if useAPIKeyHeader {
		h.Set("X-Api-Key", p.options.UpstreamKey)
		return
	}
	h.Set("Authorization", "Bearer "+p.options.UpstreamKey)
}

// dialectOf guesses the dialect of a caller from its headers.
func dialectOf(h http.Header) llm.Dialect {
	if h.Get("Anthropic-Version") != "" {
		return llm.Anthropic
	}
	return llm.OpenAI
}

func isUpgrade(h http.Header) bool {
	return httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") && strings.Join(h["Upgrade"], "") != ""
}

// isWebSocket reports whether an upgrade offers WebSocket and no other protocol.
func isWebSocket(h http.Header) bool {
	return len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], "websocket")
}

func reject(w http.ResponseWriter, d llm.Dialect, status int, code, message string) {
	dialect.WriteError(w, d, status, dialect.Problem{Code: code, Message: message})
}
