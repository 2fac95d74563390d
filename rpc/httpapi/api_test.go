// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

const testPolicy = `
tiers:
  free:     { requests: 10/min, tokens: 10_000/min, concurrent: 2, spend: $1/day }
  standard: { requests: 60/min, tokens: 100_000/min, concurrent: 10, spend: $50/day }
  org:
    limits:
      - { name: org-tpm, dimension: tokens, limit: 5_000_000, window: 1m, burst: 500_000, on_exceed: degrade }
  media:
    limits:
      - { name: pictures, dimension: images, limit: 3, window: 1h, algorithm: sliding_window }
      - { name: preview, dimension: requests, limit: 1, window: 1m, mode: shadow }
      - { name: budget, dimension: spend, limit: $5, window: month }
  shut:
    limits:
      - { name: none, dimension: tokens, limit: 0, window: 1m }
default_tier: free
assign:
  - { key: big, tier: org }
prices:
  llama: { input: 1.00, output: 3.00 }
`

// node serves the API over real HTTP, with a clock that the test advances.
type node struct {
	url     string
	elapsed atomic.Int64
	engine  *limiter.Engine
}

func (n *node) now() limiter.Time {
	const start = 1_767_268_800_000_000_000 // 2026-01-01T12:00:00Z
	return limiter.Time{Mono: n.elapsed.Load(), Wall: start + n.elapsed.Load()}
}

func newNode(t testing.TB, change func(*Options)) *node {
	t.Helper()
	n := &node{engine: limiter.New(limiter.Options{})}
	p, err := policy.Parse("test.yaml", []byte(testPolicy), n.engine.Catalog())
	if err != nil {
		t.Fatalf("policy: %v", err)
	}
	var ids atomic.Int64
	o := Options{
		Service: server.New(server.Options{
			Engine: n.engine,
			Policy: func() server.Policy { return p },
			Now:    n.now,
			Name:   "node1",
			NewID:  func() string { return fmt.Sprintf("made-%d", ids.Add(1)) },
		}),
		Now:    func() time.Time { return time.Unix(0, n.now().Wall) },
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&o)
	}
	s := httptest.NewUnstartedServer(nil)
	s.Config = NewServer(New(o))
	s.Start()
	t.Cleanup(s.Close)
	n.url = s.URL
	return n
}

// answer is an HTTP response with its body read.
type answer struct {
	status int
	header http.Header
	body   string
}

func (n *node) do(t testing.TB, method, path string, body io.Reader) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, method, n.url+path, body)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded") // as curl does
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s %s = %v", method, path, err)
	}
	defer w.Body.Close()
	text, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	return answer{w.StatusCode, w.Header, string(text)}
}

func (n *node) post(t testing.TB, path, body string) answer {
	t.Helper()
	return n.do(t, "POST", path, strings.NewReader(body))
}

// problem decodes an error body.
func (a answer) problem(t testing.TB) (p struct{ Error, Field, Message string }) {
	t.Helper()
	if err := json.Unmarshal([]byte(a.body), &p); err != nil {
		t.Errorf("answer %d %q is not JSON: %v", a.status, a.body, err)
	}
	return p
}

// TestScenarios runs each file of testdata against a node of its own. "post" and
// "get" show the status, headers and body of an answer; "wait" advances the clock.
func TestScenarios(t *testing.T) {
	datadriven.Walk(t, "testdata/scenarios", func(t *testing.T, path string) {
		n := newNode(t, nil)
		datadriven.RunTest(t, path, func(t *testing.T, d *datadriven.TestData) string {
			path := ""
			if len(d.CmdArgs) > 0 {
				path = d.CmdArgs[0].String()
			}
			switch d.Cmd {
			case "post":
				return n.post(t, path, d.Input).text()
			case "get":
				return n.do(t, "GET", path, nil).text()
			case "wait":
				pause, err := time.ParseDuration(path)
				if err != nil {
					d.Fatalf(t, "%v", err)
				}
				n.elapsed.Add(int64(pause))
				return "at " + time.Unix(0, n.now().Wall).UTC().Format(time.RFC3339Nano) + "\n"
			default:
				d.Fatalf(t, "unknown command %s", d.Cmd)
				return ""
			}
		})
	})
}

// text formats an answer, with a line for each limit.
func (a answer) text() string {
	var b strings.Builder
	fmt.Fprintln(&b, a.status, http.StatusText(a.status))
	var names []string
	for name := range a.header {
		if name != "Date" && name != "Content-Length" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Fprintf(&b, "%s: %s\n", name, strings.Join(a.header[name], " | "))
	}
	body := a.body
	body = strings.ReplaceAll(body, `"limits":[{`, "\"limits\":[\n  {")
	body = strings.ReplaceAll(body, `},{`, "},\n  {")
	body = strings.ReplaceAll(body, `}],"policy`, "}],\n\"policy")
	if _, rest, ok := strings.Cut(body, `"policy_version":"`); ok {
		version, _, _ := strings.Cut(rest, `"`)
		body = strings.ReplaceAll(body, version, strings.Repeat("0", len(version)))
	}
	return b.String() + body
}

func TestRoutes(t *testing.T) {
	ready := errors.New("policy is not loaded")
	n := newNode(t, func(o *Options) {
		o.Ready = func() error { return ready }
		o.Metrics = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "metrics") })
		o.Status = func() any {
			return struct {
				Name   string         `json:"name"`
				Policy map[string]any `json:"policy"`
				Peers  []string       `json:"peers"`
			}{"<node1>", map[string]any{"digest": "d"}, []string{"a"}}
		}
		o.Partitions = func(_ context.Context, member string) (any, error) {
			if member == "gone" {
				return nil, errors.New("it has ended")
			}
			if member == "n9" {
				return nil, &UnknownMemberError{member, []string{"n1", "n2"}}
			}
			return map[string]string{"member": member}, nil
		}
	})
	for _, tt := range []struct {
		method, path string
		status       int
		says         string
	}{
		{"GET", "/livez", 200, "ok\n"},
		{"GET", "/healthz", 200, "ok\n"},
		{"HEAD", "/livez", 200, ""},
		{"GET", "/readyz", 503, "not ready\n"},
		{"GET", "/readyz?verbose", 503, "not ready: policy is not loaded\n"},
		{"GET", "/metrics", 200, "metrics\n"},
		{"GET", "/status", 200, `{"name":"<node1>","policy":{"digest":"d"},"peers":["a"]}`},
		{"GET", "/status/partitions", 200, `{"member":""}`},
		{"GET", "/status/partitions?member=n2", 200, `{"member":"n2"}`},
		{"GET", "/status/partitions?member=gone", 503, `{"error":"unavailable","message":"it has ended"}`},
		{"GET", "/status/partitions?member=n9", 404, `{"error":"unknown_member","field":"member","message":"member: no member has the name \"n9\"; did you mean`},
		{"GET", "/status/partitions?owner=n2", 400, `owner: unknown field`},
		{"GET", "/v1/check", 405, `{"error":"method_not_allowed","message":"/v1/check takes POST, got \"GET\""}`},
		{"POST", "/v1/limits", 405, `takes GET, HEAD`},
		{"OPTIONS", "/v1/reserve", 405, `takes POST`},
		{"POST", "/v1/chekc", 404, `{"error":"not_found","message":"no such path: \"/v1/chekc\"; did you mean /v1/check?"}`},
		{"GET", "/", 404, `no such path: \"/\" (GET /status shows the node, POST /v1/check decides a call)"}`},
		{"GET", "/v1/check/", 404, `did you mean /v1/check?`},
	} {
		a := n.do(t, tt.method, tt.path, nil)
		if a.status != tt.status || !strings.Contains(a.body, tt.says) {
			t.Errorf("%s %s = %d %s, want %d %s", tt.method, tt.path, a.status, a.body, tt.status, tt.says)
		}
		if allow := a.header.Get("Allow"); (a.status == 405) != (allow != "") {
			t.Errorf("%s %s: Allow = %q", tt.method, tt.path, allow)
		}
	}
	ready = nil
	if a := n.do(t, "GET", "/readyz", nil); a.status != 200 {
		t.Errorf("GET /readyz = %d, want 200", a.status)
	}
}

// faulty panics, fails, or does not implement a method.
type faulty struct {
	pb.UnimplementedRateLimiterServer
}

func (faulty) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) { panic("out of cheese") }

func (faulty) Reserve(context.Context, *pb.ReserveRequest) (*pb.Decision, error) {
	return nil, errors.New("disk on fire")
}

func TestFaults(t *testing.T) {
	var log bytes.Buffer
	n := newNode(t, func(o *Options) {
		o.Service = faulty{}
		o.Logger = slog.New(slog.NewTextHandler(&log, nil))
	})
	for _, path := range []string{"/v1/check", "/v1/reserve", "/v1/settle"} {
		a := n.post(t, path, `{"key":"k"}`)
		if a.status != 500 || a.problem(t).Error != "internal" {
			t.Errorf("POST %s = %d %s, want 500 internal", path, a.status, a.body)
		}
	}
	if got := strings.Count(log.String(), "\n"); got != 3 {
		t.Errorf("three faults left %d log lines, want 3:\n%s", got, log.String())
	}
}

// TestServerTimeouts: no client can hold a connection forever.
func TestServerTimeouts(t *testing.T) {
	s := NewServer(http.NotFoundHandler())
	if s.ReadHeaderTimeout <= 0 || s.ReadTimeout <= 0 || s.WriteTimeout <= s.ReadTimeout || s.IdleTimeout <= 0 || s.MaxHeaderBytes <= 0 {
		t.Errorf("NewServer() = %+v, want all timeouts", s)
	}
}
