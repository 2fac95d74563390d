// SPDX-License-Identifier: Apache-2.0

// Package httpapi serves the RateLimiter service as JSON over HTTP, with rate-limit
// headers.
//
// It is strict: a body is one JSON object with documented fields only, each at most
// once and none null, except max_wait_seconds. Other numbers must be whole, in any
// notation. An error names the field and the problem.
package httpapi

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/share"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Options configure [New]. Service is required.
type Options struct {
	Service pb.RateLimiterServer
	// Now is the wall clock of the service. Headers use it for the time until a
	// reset. Default: time.Now.
	Now func() time.Time
	// Ready returns an error while this node should get no calls. Default: always
	// ready.
	Ready func() error
	// Safe returns an error while a member that is lost now would take charges with it, or
	// leave the others without a majority. Default: always safe.
	Safe func() error
	// Metrics serves /metrics. Nil: there is no such path.
	Metrics http.Handler
	// Status returns the JSON object that /status shows. Nil: there is no such path.
	Status func() any
	// Partitions returns the JSON object that /status/partitions shows: of all partitions,
	// or of those of a member, which may be an [*UnknownMemberError]. Nil: there is no such
	// path.
	Partitions func(ctx context.Context, member string) (any, error)
	// Forget takes a member off the roster that will not come back, with force if need be
	// without votes. Errors: [*UnknownMemberError], [*ForgetRefusedError], or that the state
	// of the members is not known. The context has the peer as that of a gRPC call. Nil:
	// there is no such path.
	Forget func(ctx context.Context, member string, force bool) (Forgotten, error)
	// Admin serves operators. Nil: there are no paths for them.
	Admin pb.AdminServer
	// StatusPage returns what /status shows to browsers. Nil: they get JSON.
	StatusPage func() statuspage.Status
	// Access decides who may call. Nil: everybody.
	Access *auth.Authority
	// Admission refuses new calls. Nil: all are admitted.
	Admission *server.Admission
	// Rejections counts what is rejected before it is a call. Nil: nothing is counted.
	Rejections *server.Rejections
	// Logger gets panics and internal errors. Default: slog.Default.
	Logger *slog.Logger
}

// New returns a handler of all paths. It is safe for concurrent use.
func New(o Options) http.Handler {
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Ready == nil {
		o.Ready = func() error { return nil }
	}
	if o.Safe == nil {
		o.Safe = func() error { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.Default()
	}
	a := &api{service: o.Service, now: o.Now, ready: o.Ready, safe: o.Safe, status: o.Status, page: o.StatusPage, partitions: o.Partitions, forget: o.Forget, admin: o.Admin, log: o.Logger, rejections: o.Rejections, admission: o.Admission, access: o.Access}
	a.bodies = share.New(share.Limits{Total: maxBodies, PerAddress: maxBodiesPerAddress})
	a.buffers.New = func() any { return new(bytes.Buffer) }
	a.routes = map[string]route{
		"/v1/check":   {http.MethodPost, a.admitted(a.check)},
		"/v1/reserve": {http.MethodPost, a.admitted(a.reserve)},
		"/v1/settle":  {http.MethodPost, a.settle},
		"/v1/cancel":  {http.MethodPost, a.cancel},
		"/v1/limits":  {http.MethodGet, a.admitted(a.limits)},
		"/v1/owner":   {http.MethodGet, a.owner},
		"/v1/hotkeys": {http.MethodGet, a.hotKeys},
		"/livez":      {http.MethodGet, a.livez},
		"/healthz":    {http.MethodGet, a.livez},
		"/readyz":     {http.MethodGet, a.readyz},
		"/safez":      {http.MethodGet, a.safez},
		pprofPath:     {http.MethodGet, a.forAdmins(a.profile)},
	}
	if o.Status != nil {
		a.routes[statusPath] = route{http.MethodGet, a.showStatus}
	}
	if o.Partitions != nil {
		a.routes["/status/partitions"] = route{http.MethodGet, a.showPartitions}
	}
	if o.Forget != nil {
		a.routes["/v1/forget"] = route{http.MethodPost, a.forgetMember}
	}
	if o.Admin != nil {
		a.adminRoutes()
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

// maxStreams bounds the requests on one HTTP/2 connection.
const maxStreams = 100

const (
	// readTimeout is how long a request may take to arrive.
	readTimeout = 30 * time.Second
	// answerTimeout is how long an answer may take to be written.
	answerTimeout = 15 * time.Second
)

// NewServer returns a server for h with timeouts for slow and idle clients. A body
// must arrive within 30 s. Calls that wait in line may take longer. On a listener of package listenlimit, idle connections make
// room for others. It speaks HTTP/1.1, and HTTP/2 without TLS to clients that know that
// it does.
func NewServer(h http.Handler) *http.Server {
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetHTTP2(true) // with TLS
	protocols.SetUnencryptedHTTP2(true)
	return &http.Server{
		Handler:           listenlimit.CountHTTP2(h),
		Protocols:         protocols,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: maxStreams},
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       readTimeout,
		WriteTimeout:      readTimeout + answerTimeout,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    32 << 10,
		ConnState:         listenlimit.HTTPState,
		ConnContext:       listenlimit.HTTPContext,
	}
}

type api struct {
	service pb.RateLimiterServer
	now     func() time.Time
	ready   func() error
	safe    func() error
	status  func() any
	page    func() statuspage.Status // nil: no page

	partitions func(context.Context, string) (any, error)
	forget     func(context.Context, string, bool) (Forgotten, error)

	admin   pb.AdminServer // nil: none
	log     *slog.Logger
	bodies  *share.Budget // bytes of large bodies in memory
	routes  map[string]route
	paths   []string  // of routes
	buffers sync.Pool // of *bytes.Buffer, for request and answer bodies

	rejections *server.Rejections
	admission  *server.Admission
	access     *auth.Authority
}

// route is a path's method and handler. An error of handle becomes a [problem].
type route struct {
	method string
	handle func(http.ResponseWriter, *http.Request) error
}

// ServeHTTP implements http.Handler.
func (a *api) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	defer a.recover(w, r)
	if err := a.dispatch(w, r); err != nil {
		a.writeError(w, r, err)
	}
}

func (a *api) dispatch(w http.ResponseWriter, r *http.Request) error {
	found, ok := a.routes[r.URL.Path]
	if !ok && strings.HasPrefix(r.URL.Path, pprofPath) {
		found, ok = a.routes[pprofPath], true
	}
	if r.URL.Path == "/" && a.leadToPage(w, r) {
		return nil
	}
	if !ok {
		return &problem{
			status:  http.StatusNotFound,
			Code:    "not_found",
			Message: "no such path: " + text.Quote(r.URL.Path) + a.otherPath(r.URL.Path),
			why:     server.UnknownPath,
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
			why:     server.WrongMethod,
		}
	}
	if p := webPageProblem(r); p != nil {
		return p
	}
	ctx, err := a.access.HTTP(r)
	if err != nil {
		return err
	}
	if ctx != r.Context() {
		r = r.WithContext(ctx)
	}
	return found.handle(w, r)
}

// admitted refuses a request, unless it is admitted, before its body is read.
func (a *api) admitted(handle func(http.ResponseWriter, *http.Request) error) func(http.ResponseWriter, *http.Request) error {
	return func(w http.ResponseWriter, r *http.Request) error {
		if err := a.admission.Begin(r.Context(), server.FromHTTP); err != nil {
			return err
		}
		defer a.admission.End()
		return handle(w, r)
	}
}

func (a *api) recover(w http.ResponseWriter, r *http.Request) {
	p := recover()
	if p == nil {
		return
	}
	if p == http.ErrAbortHandler {
		panic(p) // net/http closes the connection
	}
	a.log.Error("http handler panicked", "path", r.URL.Path, "panic", p, "stack", string(debug.Stack()))
	a.write(w, http.StatusInternalServerError, internalProblem)
}
