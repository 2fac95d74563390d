// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// waiter is a service that answers when decide returns.
type waiter struct {
	pb.UnimplementedRateLimiterServer
	decide func(context.Context, *durationpb.Duration, pb.Priority) *pb.Decision
}

func (s waiter) Check(ctx context.Context, q *pb.CheckRequest) (*pb.Decision, error) {
	return s.decide(ctx, q.MaxWait, q.Priority), nil
}

func (s waiter) Reserve(ctx context.Context, q *pb.ReserveRequest) (*pb.Decision, error) {
	return s.decide(ctx, q.MaxWait, q.Priority), nil
}

// TestWaitingFields: a call says how long it may wait, and its class.
func TestWaitingFields(t *testing.T) {
	var wait *durationpb.Duration
	var class pb.Priority
	n := newNode(t, func(o *Options) {
		o.Service = waiter{decide: func(_ context.Context, d *durationpb.Duration, p pb.Priority) *pb.Decision {
			wait, class = d, p
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED}
		}}
	})
	const absent = -1
	for _, tt := range []struct {
		fields string
		wait   time.Duration
		class  pb.Priority
	}{
		{``, absent, pb.Priority_PRIORITY_UNSPECIFIED},
		{`,"max_wait_seconds":null`, absent, pb.Priority_PRIORITY_UNSPECIFIED},
		{`,"max_wait_seconds":0`, 0, pb.Priority_PRIORITY_UNSPECIFIED},
		{`,"max_wait_seconds":5`, 5 * time.Second, pb.Priority_PRIORITY_UNSPECIFIED},
		{`,"max_wait_seconds":0.25,"priority":"batch"`, 250 * time.Millisecond, pb.Priority_PRIORITY_BATCH},
		{`,"max_wait_seconds":0.001`, time.Millisecond, pb.Priority_PRIORITY_UNSPECIFIED},
		{`,"max_wait_seconds":6e2`, 10 * time.Minute, pb.Priority_PRIORITY_UNSPECIFIED},
		{`,"priority":"interactive"`, absent, pb.Priority_PRIORITY_INTERACTIVE},
		{`,"priority":"standard"`, absent, pb.Priority_PRIORITY_STANDARD},
		{`,"priority":""`, absent, pb.Priority_PRIORITY_UNSPECIFIED},
	} {
		for _, path := range []string{"/v1/check", "/v1/reserve"} {
			a := n.post(t, path, `{"key":"k"`+tt.fields+`}`)
			got := time.Duration(absent)
			if wait != nil {
				got = wait.AsDuration()
			}
			if a.status != 200 || got != tt.wait || class != tt.class {
				t.Errorf("%s with %s = %d %s, wait %v, %v, want %v, %v", path, tt.fields, a.status, a.body, got, class, tt.wait, tt.class)
			}
		}
	}
}

// TestWaitingAnswers: an answer says how long the call waited, its place and its class, or why
// it may not wait.
func TestWaitingAnswers(t *testing.T) {
	var d *pb.Decision
	n := newNode(t, func(o *Options) {
		o.Service = waiter{decide: func(context.Context, *durationpb.Duration, pb.Priority) *pb.Decision { return d }}
	})
	denied := func(why string) *pb.Decision {
		return &pb.Decision{
			Outcome: pb.Outcome_OUTCOME_DENIED, Reason: pb.Reason_REASON_LIMIT_EXCEEDED, WaitRefused: why, MayWait: true,
			RetryAfter: durationpb.New(12300 * time.Millisecond), Binding: new(int32), Priority: pb.Priority_PRIORITY_BATCH,
			Limits: []*pb.LimitState{{
				Name: "requests", Dimension: "requests", Scope: "acme", Algorithm: "token_bucket", Limit: 10, Capacity: 10, Headroom: 4,
				Window: durationpb.New(time.Minute), MaxWait: durationpb.New(5 * time.Second), Exceeded: true,
			}},
		}
	}
	waited := func(d *pb.Decision, took time.Duration) *pb.Decision {
		d.Waited, d.Place, d.Priority = durationpb.New(took), 3, pb.Priority_PRIORITY_STANDARD
		return d
	}
	for _, tt := range []struct {
		d    *pb.Decision
		body string // of the request
		says []string
		not  []string
	}{
		{&pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED}, "", nil, []string{"waited_ms", "place", "priority", "wait_refused", "may_wait"}},
		{waited(&pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED}, 1_234_000_001), "", []string{`"priority":"standard","waited_ms":1235,"place":3`}, []string{"wait_refused"}},
		{waited(&pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED}, 0), "", []string{`"waited_ms":0`}, nil},
		{waited(denied(""), 5*time.Second), "", []string{`"waited_ms":5000`, "The call has waited for 5s."}, []string{"wait_refused", "may_wait"}},
		{denied("limit_full"), "", []string{
			`"wait_refused":"limit_full"`, `"priority":"batch"`, `"headroom":4,"max_wait_seconds":5`, `"retry_after_seconds":12.3`,
			"6 of the 6 requests for class batch used this minute by acme", "as many calls wait at this limit as may",
		}, []string{"waited_ms", "place", "may_wait"}},
		{denied("too_late"), "", []string{"The call would have to wait for 12.3s, and may wait for 5s."}, nil},
		{denied("too_late"), `,"max_wait_seconds":1.5`, []string{"The call would have to wait for 12.3s, and may wait for 1.5s."}, nil},
		{denied("too_late"), `,"max_wait_seconds":60`, []string{"The call would have to wait for 12.3s, and may wait for 5s."}, nil},
	} {
		d = tt.d
		a := n.post(t, "/v1/check", `{"key":"k"`+tt.body+`}`)
		for _, text := range tt.says {
			if !strings.Contains(a.body, text) {
				t.Errorf("answer %s, want %s", a.body, text)
			}
		}
		for _, text := range tt.not {
			if strings.Contains(a.body, text) {
				t.Errorf("answer %s, want no %s", a.body, text)
			}
		}
	}
}

// TestWaitingOutlastsTimeouts: the timeouts of the server neither end the context of a call
// that waits nor cut its answer off, and they hold again for the next request.
func TestWaitingOutlastsTimeouts(t *testing.T) {
	const timeout = 100 * time.Millisecond
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(New(Options{Service: waiter{decide: func(ctx context.Context, _ *durationpb.Duration, _ pb.Priority) *pb.Decision {
		select {
		case <-ctx.Done():
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED}
		case <-time.After(4 * timeout):
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, Waited: durationpb.New(4 * timeout)}
		}
	}}}))
	s.Config.ReadTimeout, s.Config.WriteTimeout = timeout, 2*timeout
	s.Start()
	t.Cleanup(s.Close)
	for _, protocol := range []string{"HTTP/1.1", "HTTP/2.0"} {
		transport := &http.Transport{Protocols: new(http.Protocols)}
		transport.Protocols.SetHTTP1(protocol == "HTTP/1.1")
		transport.Protocols.SetUnencryptedHTTP2(protocol == "HTTP/2.0")
		defer transport.CloseIdleConnections()
		for range 2 { // the same connection
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/reserve", strings.NewReader(`{"key":"k"}`))
			if err != nil {
				t.Fatal(err)
			}
			w, err := transport.RoundTrip(r)
			if err != nil {
				t.Fatalf("%s: %v", protocol, err)
			}
			body, err := io.ReadAll(w.Body)
			if _ = w.Body.Close(); err != nil || w.Proto != protocol || !strings.Contains(string(body), `"outcome":"allowed"`) {
				t.Errorf("%s: %s %s, %v, want allowed", protocol, w.Proto, body, err)
			}
		}
		// A body that does not arrive is still cut off.
		body, rest := io.Pipe()
		defer rest.Close()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, s.URL+"/v1/reserve", body)
		if err != nil {
			t.Fatal(err)
		}
		go fmt.Fprint(rest, `{"key":`)
		if w, err := transport.RoundTrip(r); err == nil {
			if _ = w.Body.Close(); w.StatusCode != http.StatusBadRequest {
				t.Errorf("%s: a body that does not arrive = %d, want 400", protocol, w.StatusCode)
			}
		}
	}
}

// TestCallerLeavesTheLine: the context of a call that waits ends when its caller is gone.
func TestCallerLeavesTheLine(t *testing.T) {
	waits, left := make(chan struct{}), make(chan struct{})
	n := newNode(t, func(o *Options) {
		o.Service = waiter{decide: func(ctx context.Context, _ *durationpb.Duration, _ pb.Priority) *pb.Decision {
			close(waits)
			<-ctx.Done()
			close(left)
			return &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED}
		}}
	})
	ctx, cancel := context.WithCancel(t.Context())
	r, err := http.NewRequestWithContext(ctx, http.MethodPost, n.url+"/v1/reserve", strings.NewReader(`{"key":"k"}`))
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		<-waits
		cancel()
	}()
	if w, err := http.DefaultClient.Do(r); err == nil {
		_ = w.Body.Close()
		t.Error("a call that was given up has an answer")
	}
	select {
	case <-left:
	case <-time.After(waittest.Limit):
		t.Error("the call waits after its caller has gone")
	}
}
