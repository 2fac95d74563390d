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
	"sync"
	"sync/atomic"
	"time"

	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// Connections to the upstream. A server written in Python closes those that are
// idle after 5 seconds: one that is used at that moment fails a call.
const (
	dialTimeout = 10 * time.Second
	maxIdle     = 1024
	idleHTTP    = 4 * time.Second
	idleHTTPS   = 90 * time.Second

	maxHead = 256 << 10 // bytes of the headers of an answer
)

// upstream is the way to the model server. It knows of each failure whether the
// server had the whole request.
type upstream struct {
	transport *http.Transport
	ctx       context.Context // until Abort
	abort     context.CancelFunc
	down      atomic.Bool // the last request got no answer
}

func newUpstream(headerTimeout time.Duration, scheme string) *upstream {
	idle := idleHTTP
	if scheme == "https" {
		idle = idleHTTPS
	}
	u := &upstream{transport: &http.Transport{
		DialContext:           (&net.Dialer{Timeout: dialTimeout, KeepAlive: 15 * time.Second}).DialContext,
		TLSHandshakeTimeout:   dialTimeout,
		ResponseHeaderTimeout: headerTimeout,
		MaxIdleConns:          0,
		MaxIdleConnsPerHost:   maxIdle,
		IdleConnTimeout:       idle,
		DisableCompression:    true, // what the caller accepts is up to the caller
		ForceAttemptHTTP2:     true,

		MaxResponseHeaderBytes: maxHead,
	}}
	u.ctx, u.abort = context.WithCancel(context.Background())
	return u
}

// failure is the end of a request without an answer.
type failure struct {
	err  error
	sent bool // the server had all of it, and may have run the model
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
	answer, err := u.transport.RoundTrip(r.WithContext(ctx))
	if err != nil {
		end()
		return nil, &failure{err, sent.Load()}
	}
	if answer.StatusCode == http.StatusSwitchingProtocols {
		context.AfterFunc(r.Context(), end) // its body is a connection, which ends with the request
		return answer, nil
	}
	answer.Body = &body{answer.Body, end}
	return answer, nil
}

// body ends its request with it.
type body struct {
	io.ReadCloser
	end func()
}

func (b *body) Close() error {
	defer b.end()
	return b.ReadCloser.Close()
}

// answered notes that the upstream is there.
func (p *Proxy) answered(*http.Response) error {
	if p.upstream.down.CompareAndSwap(true, false) {
		p.log.Info("upstream answers again", "upstream", p.options.Upstream.Host)
	}
	return nil
}

// failed tells the caller that there is no answer, and what the call costs.
func (p *Proxy) failed(w http.ResponseWriter, r *http.Request, err error) {
	var f *failure
	if !errors.As(err, &f) {
		f = &failure{err, true} // not of RoundTrip: there was an answer
	}
	call, metered := middleware.FromContext(r.Context())
	if metered && !f.sent {
		call.MarkNotRun()
	}
	if r.Context().Err() != nil || p.upstream.ctx.Err() != nil {
		p.metrics.failures.WithLabelValues(failedLeft).Inc()
		panic(http.ErrAbortHandler) // there is nobody to answer
	}
	if metered && f.sent {
		call.MarkRun() // perhaps: an error is no reason to give it for free
	}
	d := dialectOf(r.Header)
	if e, ok := llm.EndpointOf(r.Method, r.URL.Path); ok {
		d = e.Dialect()
	}
	if p.upstream.down.CompareAndSwap(false, true) {
		p.log.Warn("upstream does not answer", "upstream", p.options.Upstream.Host, "error", err)
	}
	var timeout net.Error
	switch late := errors.As(err, &timeout) && timeout.Timeout(); {
	case late && f.sent:
		p.metrics.failures.WithLabelValues(failedTimeout).Inc()
		w.Header().Set("X-Should-Retry", "false") // it would run, and cost, again
		refuse(w, d, http.StatusGatewayTimeout, "upstream_timeout", fmt.Sprintf("The model server did not answer within %v.", p.options.HeaderTimeout))
	case f.sent:
		p.metrics.failures.WithLabelValues(failedBroke).Inc()
		refuse(w, d, http.StatusBadGateway, "upstream_failed", "The model server broke off without an answer.")
	default:
		p.metrics.failures.WithLabelValues(failedUnreachable).Inc()
		refuse(w, d, http.StatusBadGateway, "upstream_unreachable", "The model server cannot be reached. The call was not run and costs nothing.")
	}
}

// buffers are for copying answers.
type buffers struct{ pool sync.Pool }

const bufferSize = 32 << 10

// Get implements httputil.BufferPool.
func (b *buffers) Get() []byte {
	if p, ok := b.pool.Get().(*[]byte); ok {
		return *p
	}
	return make([]byte, bufferSize)
}

// Put implements httputil.BufferPool.
func (b *buffers) Put(p []byte) { b.pool.Put(&p) }
