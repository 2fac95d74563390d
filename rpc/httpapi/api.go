// SPDX-License-Identifier: Apache-2.0

// Package httpapi is the JSON front door: it turns HTTP requests into calls of
// the RateLimiter service and its answers into JSON and rate-limit headers.
//
// It is strict: a body is one JSON object with exactly the documented fields,
// and whatever is wrong with it is named. Only numbers that are whole count,
// however they are written. null is not a way to leave a field out.
package httpapi

import (
	"bytes"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Options configure [New]. Service is needed.
type Options struct {
	Service pb.RateLimiterServer
	// Now is the clock from which headers count how long a reset is away. Give
	// it the wall clock of the service. Default: time.Now.
	Now func() time.Time
	// Ready says why this node should not be sent calls. Default: it should.
	Ready func() error
	// Metrics serves /metrics. Default: there is no such path.
	Metrics http.Handler
	// Status returns what /status shows, a value that encodes as a JSON object.
	// Default: there is no such path.
	Status func() any
	// StatusPage returns what /status shows to browsers. Default: they get JSON.
	StatusPage func() statuspage.Status
	// Logger gets panics and answers that could not be made. Default: slog.Default.
	Logger *slog.Logger
}

// New returns the handler of all paths. It is safe for concurrent use.
func New(o Options) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &api{service: o.Service, now: o.Now, ready: o.Ready, status: o.Status, page: o.StatusPage, log: o.Logger}
	a.buffers.New = func() any { return new(bytes.Buffer) }
	a.routes = map[string]route{
		"/v1/check":   {http.MethodPost, a.check},
		"/v1/reserve": {http.MethodPost, a.reserve},
		"/v1/settle":  {http.MethodPost, a.settle},
		"/v1/cancel":  {http.MethodPost, a.cancel},
		"/v1/limits":  {http.MethodGet, a.limits},
		"/v1/owner":   {http.MethodGet, a.owner},
		"/livez":      {http.MethodGet, a.livez},
		"/healthz":    {http.MethodGet, a.livez},
		"/readyz":     {http.MethodGet, a.readyz},
	}
	if o.Status != nil {
		a.routes["/status"] = route{http.MethodGet, a.showStatus}
	}
	if o.Metrics != nil {
		a.routes["/metrics"] = route{http.MethodGet, func(w http.ResponseWriter, r *http.Request) error {
			o.Metrics.ServeHTTP(w, r)
			return nil
		}}
	}
	for path := range a.routes {
		a.paths = append(a.paths, path)
	}
	slices.Sort(a.paths)
	return a
}

// NewServer returns a server for h with limits on slow and idle clients. The
// slowest body that is still read in full is 16 MiB in 30 s.
func NewServer(h http.Handler) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      45 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
	}
}

type api struct {
	service pb.RateLimiterServer
	now     func() time.Time
	ready   func() error
	status  func() any
	page    func() statuspage.Status // nil: there is none
	log     *slog.Logger
	routes  map[string]route
	paths   []string  // of routes
	buffers sync.Pool // of *bytes.Buffer, for bodies read and written
}

// route is what a path does. An error is answered as a [problem].
type route struct {
	method string
	handle func(http.ResponseWriter, *http.Request) error
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer a.recover(w, r)
	if err := a.route(w, r); err != nil {
		a.fail(w, r, err)
	}
}

func (a *api) route(w http.ResponseWriter, r *http.Request) error {
	found, ok := a.routes[r.URL.Path]
	if !ok {
		return &problem{
			status:  http.StatusNotFound,
			Code:    "not_found",
			Message: "no such path: " + text.Quote(r.URL.Path) + didYouMean(r.URL.Path, a.paths),
		}
	}
	if r.Method != found.method && (r.Method != http.MethodHead || found.method != http.MethodGet) {
		allow := found.method
		if allow == http.MethodGet {
			allow = "GET, HEAD"
		}
		w.Header().Set("Allow", allow)
		return &problem{
			status:  http.StatusMethodNotAllowed,
			Code:    "method_not_allowed",
			Message: r.URL.Path + " takes " + allow + ", got " + text.Quote(r.Method),
		}
	}
	return found.handle(w, r)
}

func (a *api) recover(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p) // net/http's own way to end a connection
	}
	a.log.Error("handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	a.write(w, http.StatusInternalServerError, internalProblem)
}
