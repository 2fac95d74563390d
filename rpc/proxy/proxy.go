// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

	"golang.org/x/net/http/httpguts"

	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/internal/dialect"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// A Proxy is a handler. It is safe for concurrent use.
type Proxy struct {
	options  Options
	log      *slog.Logger
	metrics  *metrics
	upstream *upstream
	metered  http.Handler
	reverse  *httputil.ReverseProxy
}

var _ http.Handler = (*Proxy)(nil)

// New returns a proxy. The error names every option that cannot be used.
func New(o Options) (*Proxy, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	o = o.withDefaults()
	log := o.Middleware.Logger
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	meter, err := middleware.New(o.Middleware)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p := &Proxy{options: o, log: log}
	if p.metrics, err = newMetrics(o.Middleware.Registerer); err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	p.upstream = newUpstream(o.HeaderTimeout, o.Upstream.Scheme)
	p.reverse = &httputil.ReverseProxy{
		Rewrite:        p.rewrite,
		Transport:      p.upstream,
		FlushInterval:  -1, // an answer is passed on as it comes
		BufferPool:     &buffers{},
		ModifyResponse: p.answered,
		ErrorHandler:   p.failed,
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
	body := timeBody(r, stalling.control, p.options.BodyTimeout)
	defer body.end()
	way := p.wayOf(r)
	switch {
	case isUpgrade(r.Header) && (way.known || !isWebSocket(r.Header)):
		// Calls on it would not be seen: not on a WebSocket of such an endpoint, and
		// on a connection that is switched to HTTP/2 not of any.
		p.metrics.refused.Inc()
		refuse(w, way.dialect, http.StatusBadRequest, "upgrade_not_supported", "This endpoint cannot be switched to another protocol.")
	case way.metered:
		p.metered.ServeHTTP(w, r)
	case way.odd || !p.options.Pass.allows(r.Method, r.URL.Path):
		p.metrics.refused.Inc()
		refuse(w, way.dialect, http.StatusForbidden, "endpoint_not_allowed", "This proxy does not pass on "+shorten(r.Method+" "+r.URL.Path)+".")
	default:
		p.metrics.passed.Inc()
		body.pausing()
		_ = stalling.control.EnableFullDuplex() // what can't do it needs no leave
		p.reverse.ServeHTTP(w, r)
	}
}

// Close gives up the connections to the upstream that are idle.
func (p *Proxy) Close() { p.upstream.transport.CloseIdleConnections() }

// Abort breaks off every call that is under way, here and upstream. What came
// until then is charged. No call succeeds after it.
func (p *Proxy) Abort() { p.upstream.abort() }

// rewrite makes the request that goes upstream.
func (p *Proxy) rewrite(pr *httputil.ProxyRequest) {
	query := pr.In.URL.RawQuery
	pr.SetURL(p.options.Upstream)
	pr.Out.URL.RawQuery = query // byte for byte
	pr.SetXForwarded()
	h := pr.Out.Header
	if _, metered := middleware.FromContext(pr.In.Context()); metered {
		h.Del("Accept-Encoding") // the answer has to be read
		runOnce(h)
		for name := range h {
			if strings.HasPrefix(name, "X-Bucketring-") {
				delete(h, name)
			}
		}
		p.ownKey(h, llm.OpenAI)
	} else if p.options.UpstreamKey != "" {
		if _, err := p.options.Middleware.Identify(pr.In); err == nil {
			p.ownKey(h, dialectOf(pr.In.Header))
		}
	}
}

// runOnce hides from the transport what makes it send a POST again whose
// connection broke, which might run it again. Upstream, no case of a name matters.
func runOnce(h http.Header) {
	for _, name := range [...]string{"Idempotency-Key", "X-Idempotency-Key"} {
		if values, ok := h[name]; ok {
			delete(h, name)
			h[strings.ToLower(name)] = values
		}
	}
}

// ownKey puts the proxy's credential in place of the caller's, if it has one:
// where the caller's was, or else where the dialect has it.
func (p *Proxy) ownKey(h http.Header, d llm.Dialect) {
	if p.options.UpstreamKey == "" {
		return
	}
	asKey := h.Get("X-Api-Key") != "" && h.Get("Authorization") == "" || d == llm.Anthropic
	h.Del("Authorization")
	h.Del("X-Api-Key")
	if asKey {
		h.Set("X-Api-Key", p.options.UpstreamKey)
		return
	}
	h.Set("Authorization", "Bearer "+p.options.UpstreamKey)
}

// dialectOf guesses what a caller speaks whose path doesn't say it.
func dialectOf(h http.Header) llm.Dialect {
	if h.Get("Anthropic-Version") != "" {
		return llm.Anthropic
	}
	return llm.OpenAI
}

func isUpgrade(h http.Header) bool {
	return httpguts.HeaderValuesContainsToken(h["Connection"], "Upgrade") && strings.Join(h["Upgrade"], "") != ""
}

// isWebSocket reports whether that, and nothing else, is what a connection is to
// be switched to.
func isWebSocket(h http.Header) bool {
	return len(h["Upgrade"]) == 1 && strings.EqualFold(h["Upgrade"][0], "websocket")
}

func refuse(w http.ResponseWriter, d llm.Dialect, status int, code, message string) {
	dialect.WriteError(w, d, status, dialect.Problem{Code: code, Message: message})
}

// shorten shows what a caller sent.
func shorten(s string) string {
	const most = 100
	if len(s) > most {
		s = s[:most] + "..."
	}
	return strings.ToValidUTF8(s, "?")
}
