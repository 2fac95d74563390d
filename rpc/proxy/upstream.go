// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/net/http/httpproxy"

	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

const (
	dialTimeout  = 10 * time.Second
	maxIdleConns = 1024

	// Uvicorn and Node close connections that were idle for 5 seconds, with and without
	// TLS. A request that is sent at that moment fails, so close them earlier.
	idleTimeout = 4 * time.Second

	maxResponseHeaderBytes = 256 << 10
)

// upstream is the transport to the model server. Its errors are of type *failure.
type upstream struct {
	transport *http.Transport
	ctx       context.Context // done after abort
	abort     context.CancelFunc
	down      atomic.Bool // the last request got no response

	interrupted prometheus.Counter // responses that broke off
}

// newUpstream reads HTTP_PROXY, HTTPS_PROXY and NO_PROXY. It counts responses that break off in
// interrupted.
func newUpstream(headerTimeout time.Duration, interrupted prometheus.Counter) *upstream {
	through := httpproxy.FromEnvironment().ProxyFunc()
	u := &upstream{interrupted: interrupted, transport: &http.Transport{
		Proxy:                 func(r *http.Request) (*url.URL, error) { return through(r.URL) },
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConns:          0,
		MaxIdleConnsPerHost:   maxIdleConns,
		IdleConnTimeout:       idleTimeout,
		DisableCompression:    true, // the Accept-Encoding of the caller is forwarded
		ForceAttemptHTTP2:     true,

		MaxResponseHeaderBytes: maxResponseHeaderBytes,
	}}
	u.ctx, u.abort = context.WithCancel(context.Background())
	return u
}

// failure is the error of a request without a response.
type failure struct {
	err  error
	sent bool // the server received the whole request and may have run the model
}

func (f *failure) Error() string { return f.err.Error() }
func (f *failure) Unwrap() error { return f.err }

// RoundTrip implements [http.RoundTripper].
func (u *upstream) RoundTrip(r *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancel(r.Context())
	stop := context.AfterFunc(u.ctx, cancel)
	end := func() { stop(); cancel() }
	var sent atomic.Bool
	ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		WroteRequest: func(i httptrace.WroteRequestInfo) {
			if i.Err == nil {
				sent.Store(true)
			}
		},
	})
	response, err := u.transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		end()
		return nil, &failure{err, sent.Load()}
	}
	if response.StatusCode == http.StatusSwitchingProtocols {
		context.AfterFunc(r.Context(), end) // the body is the connection, which outlives RoundTrip
		return response, nil
	}
	response.Body = &responseBody{&countedBody{ReadCloser: response.Body, ctx: ctx, interrupted: u.interrupted}, end}
	return response, nil
}

// responseBody releases the context of its request when it is closed.
type responseBody struct {
	io.ReadCloser
	end func()
}

func (b *responseBody) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// countedBody counts a response that breaks off before its request has ended.
type countedBody struct {
	io.ReadCloser
	ctx         context.Context // of the request
	interrupted prometheus.Counter
	counted     bool
}

func (b *countedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) && !b.counted && b.ctx.Err() == nil {
		b.counted = true
		b.interrupted.Inc()
	}
	return n, err
}

// onResponse records that the upstream is up.
func (p *Proxy) onResponse(*http.Response) error {
	if p.upstream.down.CompareAndSwap(true, false) {
		p.log.Info("upstream is up again", "upstream", p.options.Upstream.Host)
	}
	return nil
}

// onError responds to a request that got no response from the upstream, and marks
// whether the call is charged.
func (p *Proxy) onError(w http.ResponseWriter, r *http.Request, err error) {
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{err, true} // not from RoundTrip, so there was a response
	}
	call, metered := middleware.FromContext(r.Context())
	if metered && !f.sent {
		call.MarkNotRun()
	}
	if r.Context().Err() != nil || p.upstream.ctx.Err() != nil {
		p.metrics.failures.WithLabelValues(failedCanceled).Inc()
		panic(http.ErrAbortHandler) // the caller cannot get a response
	}
	if metered && f.sent {
		call.MarkRun() // it may have run, so charge it
	}
	d := dialectOf(r.Header)
	if e, ok := llm.EndpointOf(r.Method, r.URL.Path); ok {
		d = e.Dialect()
	}
	if p.upstream.down.CompareAndSwap(false, true) {
		p.log.Warn("upstream is down", "upstream", p.options.Upstream.Host, "error", err)
	}
	var timeout net.Error
	switch timedOut := errors.As(err, &timeout) && timeout.Timeout(); {
	case timedOut && f.sent:
		p.metrics.failures.WithLabelValues(failedTimeout).Inc()
		w.Header().Set("X-Should-Retry", "false") // a retry would run the model again
		reject(w, d, http.StatusGatewayTimeout, "upstream_timeout", fmt.Sprintf("The model server did not respond within %v.", p.options.ResponseHeaderTimeout))
	case f.sent:
		p.metrics.failures.WithLabelValues(failedConnection).Inc()
		reject(w, d, http.StatusBadGateway, "upstream_failed", "The model server closed the connection without a response.")
	default:
		p.metrics.failures.WithLabelValues(failedUnreachable).Inc()
		reject(w, d, http.StatusBadGateway, "upstream_unreachable", "The model server cannot be reached. The call was not run and is not charged.")
	}
}

// bufferPool has the buffers for copying responses.
type bufferPool struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (b *bufferPool) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *bufferPool) Put(p []byte) { b.pool.Put(&p) }
