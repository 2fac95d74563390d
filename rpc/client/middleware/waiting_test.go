// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// queueing is a limiter that keeps the last estimate, and says that its calls have waited.
type queueing struct {
	*client.Client
	asked  chan client.Estimate // buffers one
	waited time.Duration
}

func (l queueing) Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error) {
	l.asked <- e
	e.MaxWait, e.Priority = nil, "" // the node of this test lets no call wait
	r, err := l.Client.Reserve(ctx, e)
	if r != nil {
		r.Waited, r.Priority = l.waited, client.Batch
	}
	return r, err
}

// The options say how long calls may wait, and the header names their class. Both are sent to
// the node, unless Estimate says it.
func TestWaitAndClassOfCalls(t *testing.T) {
	_, c := start(t)
	for _, tt := range []struct {
		name     string
		options  *time.Duration
		header   string
		estimate client.Estimate // of Options.Estimate; no key: the endpoints are metered
		counted  bool
		wait     *time.Duration
		class    client.Priority
	}{
		{name: "nothing is said"},
		{name: "no waits", options: new(time.Duration(0)), wait: new(time.Duration(0))},
		{name: "a bound and a class", options: new(5 * time.Second), header: "batch", wait: new(5 * time.Second), class: client.Batch},
		{name: "interactive", header: "interactive", class: client.Interactive},
		{name: "standard", header: "standard", class: client.Standard},
		{name: "counted", options: new(time.Second), header: "batch", counted: true, wait: new(time.Second), class: client.Batch},
		{name: "estimated", options: new(time.Second), header: "batch", estimate: client.Estimate{Model: "m"}, wait: new(time.Second), class: client.Batch},
		{
			name: "the estimate says it", options: new(time.Second), header: "interactive",
			estimate: client.Estimate{Model: "m", MaxWait: new(3 * time.Second), Priority: client.Standard}, wait: new(3 * time.Second), class: client.Standard,
		},
	} {
		l := queueing{c, make(chan client.Estimate, 1), 0}
		o := middleware.Options{Client: l, MaxWait: tt.options, Identify: identifyAs("big")}
		path := chat
		switch {
		case tt.counted:
			path, o.Count = "/v1/rerank", func(*http.Request) bool { return true }
		case tt.estimate.Model != "":
			o.Estimate = func(*http.Request) (client.Estimate, bool, error) { return tt.estimate, true, nil }
		}
		s := serve(t, o, whole(200, completion("a", usage40)))
		var headers []string
		if tt.header != "" {
			headers = []string{"X-Bucketring-Priority", tt.header}
		}
		if a, text := s.post(t, path, ask(""), headers...); a.StatusCode != 200 {
			t.Errorf("%s: got %d %s, want 200", tt.name, a.StatusCode, text)
		}
		e := <-l.asked
		if (e.MaxWait == nil) != (tt.wait == nil) || e.MaxWait != nil && *e.MaxWait != *tt.wait || e.Priority != tt.class {
			t.Errorf("%s: asked for wait %v and class %q, want %v and %q", tt.name, e.MaxWait, e.Priority, tt.wait, tt.class)
		}
	}
}

// A class that is unknown gets a 400 in the format of the endpoint, and is charged nothing. So
// does one that the tier does not allow, which the node says.
func TestWrongClass(t *testing.T) {
	_, c := start(t)
	s := serve(t, middleware.Options{Client: c}, func(http.ResponseWriter, *http.Request) { t.Error("a call with a wrong class ran") })
	for _, class := range []string{"urgent", "Batch", "", "batch, batch"} {
		for path, want := range map[string]string{
			chat:     `"type":"invalid_request_error","param":"X-Bucketring-Priority","code":"invalid_header"`,
			messages: `{"type":"error","error":{"type":"invalid_request_error","message":"X-Bucketring-Priority: must be interactive, standard or batch, got `,
		} {
			body := ask(`,"max_tokens":10`)
			if a, text := s.post(t, path, body, "X-Bucketring-Priority", class); a.StatusCode != 400 || !strings.Contains(text, want) {
				t.Errorf("%s with class %q: got %d %s, want 400 with %s", path, class, a.StatusCode, text, want)
			}
		}
	}
	refusing := serve(t, middleware.Options{Client: failingLimiter{&client.InvalidError{Field: "priority", Message: `priority: must not be above batch, the highest of tier evals, got "interactive"`}}}, whole(200, ""))
	if a, text := refusing.post(t, chat, ask(""), "X-Bucketring-Priority", "interactive"); a.StatusCode != 400 || !strings.Contains(text, `must not be above batch, the highest of tier evals`) || !strings.Contains(text, `"param":"priority"`) {
		t.Errorf("a class above the highest of the tier: got %d %s, want 400", a.StatusCode, text)
	}
	wantUsed(t, c, "free", "requests", 0)
}

// The response, the result and the access log say how long the call has waited, and its class.
func TestWaitIsReported(t *testing.T) {
	_, c := start(t)
	for _, tt := range []struct {
		body   string
		waited time.Duration
		header string
		status int
	}{
		{ask(""), 1234*time.Millisecond + 1, "1235", 200},
		{ask(`,"max_tokens":20000`), 2 * time.Second, "2000", 429},
		{ask(""), 0, "", 200},
	} {
		var log bytes.Buffer
		l := queueing{c, make(chan client.Estimate, 1), tt.waited}
		s := serve(t, middleware.Options{Client: l, AccessLog: middleware.AccessLogOn, Logger: slog.New(slog.NewTextHandler(&log, nil))}, whole(200, completion("a", usage40)))
		a, text := s.post(t, chat, tt.body)
		if got := a.Header.Get("X-Bucketring-Waited-Ms"); got != tt.header || a.StatusCode != tt.status {
			t.Errorf("after %v: got %d %s with %q in the header, want %d and %q", tt.waited, a.StatusCode, text, got, tt.status, tt.header)
		}
		if r := s.result(t); r.Waited != tt.waited || r.Priority != client.Batch {
			t.Errorf("OnDone(%+v), want a wait of %v and class batch", r, tt.waited)
		}
		s.Close()
		if strings.Contains(log.String(), "waited_ms=") != (tt.waited > 0) || !strings.Contains(log.String(), "priority=batch") {
			t.Errorf("after %v: access log %s", tt.waited, &log)
		}
	}
}

// inLine is a limiter at which calls wait until their callers have gone.
type inLine struct{ waits chan struct{} }

func (l inLine) Reserve(ctx context.Context, _ client.Estimate) (*client.Reservation, error) {
	if _, limited := ctx.Deadline(); limited {
		return nil, client.ErrOverloaded
	}
	close(l.waits)
	<-ctx.Done()
	return nil, ctx.Err()
}

// A call whose caller disconnects leaves the line, and does not run.
func TestCallerLeavesTheLine(t *testing.T) {
	for mode, undecided := range map[middleware.DisconnectMode]middleware.UndecidedMode{
		middleware.ChargeStreamed: middleware.DenyUndecided, middleware.Drain: middleware.AllowUndecided,
	} {
		reg := prometheus.NewRegistry()
		l := inLine{make(chan struct{})}
		s := serve(t, middleware.Options{Client: l, Registerer: reg, OnDisconnect: mode, WhenUndecided: undecided}, func(http.ResponseWriter, *http.Request) {
			t.Error("the call of a caller that has left ran")
		})
		ctx, leave := context.WithCancel(t.Context())
		q, err := http.NewRequestWithContext(ctx, http.MethodPost, s.URL+chat, strings.NewReader(ask("")))
		if err != nil {
			t.Fatal(err)
		}
		go func() {
			<-l.waits
			leave()
		}()
		if a, err := http.DefaultClient.Do(q); err == nil {
			t.Errorf("a call that was given up has an answer: %d", a.StatusCode)
			_ = a.Body.Close()
		}
		waittest.Until(t, "the call has left the line", func() bool { return rejections(t, reg)["cancelled"] == 1 })
	}
}

// rejections returns how many calls were rejected, by reason.
func rejections(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	n := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == "bucketring_middleware_rejections_total" {
				n[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return n
}

// A reservation whose answer is lost because the caller disconnects is given back.
func TestLeavingGivesBack(t *testing.T) {
	_, c := start(t)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	m, err := middleware.New(middleware.Options{Client: forgetting{c, leave}, Identify: identify})
	if err != nil {
		t.Fatal(err)
	}
	g, err := middleware.NewGRPC(middleware.GRPCOptions{
		Client: forgetting{c, leave}, Identify: func(context.Context, string, any) (middleware.Identity, error) { return identify(nil) },
		Estimate: func(context.Context, string, any) (client.Estimate, bool, error) {
			return client.Estimate{InputTokens: 10, MaxOutputTokens: new(int64(10))}, true, nil
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	never := http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("the call of a caller that has left ran") })
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, chat, strings.NewReader(ask("")))
	if err != nil {
		t.Fatal(err)
	}
	m.Handler(never).ServeHTTP(discard{http.Header{}}, r)
	_, err = g.UnaryServerInterceptor()(ctx, nil, &grpc.UnaryServerInfo{FullMethod: "/a/b"}, func(context.Context, any) (any, error) {
		t.Error("the call of a caller that has left ran")
		return nil, nil
	})
	if status.Code(err) != codes.Canceled {
		t.Errorf("the interceptor returns %v, want Canceled", err)
	}
	waittest.Until(t, "given back", func() bool { return used(t, c, "free", "concurrent") == 0 })
	wantUsed(t, c, "free", "tokens", 0)
}

// forgetting is a limiter that makes reservations, and loses their answers because the caller
// leaves.
type forgetting struct {
	*client.Client
	leave context.CancelFunc
}

func (l forgetting) Reserve(ctx context.Context, e client.Estimate) (*client.Reservation, error) {
	if _, err := l.Client.Reserve(context.WithoutCancel(ctx), e); err != nil {
		return nil, err
	}
	l.leave()
	return nil, context.Canceled
}

type discard struct{ header http.Header }

func (w discard) Header() http.Header         { return w.header }
func (w discard) WriteHeader(int)             {}
func (w discard) Write(b []byte) (int, error) { return len(b), nil }
