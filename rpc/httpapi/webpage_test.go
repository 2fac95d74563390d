// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// TestWebPages: pages of another origin can charge nothing, however their browser sends
// it; callers that are no browsers, and reading, are as before.
func TestWebPages(t *testing.T) {
	n := newNode(t, nil)
	host := strings.TrimPrefix(n.url, "http://")
	_, port, _ := net.SplitHostPort(host)
	for _, tt := range []struct {
		name, method, path, host string
		header                   map[string]string
		want                     int
	}{
		{"curl", "POST", "/v1/check", host, nil, 200},
		{"a foreign page", "POST", "/v1/check", host, map[string]string{"Origin": "https://evil.example", "Content-Type": "text/plain"}, 403},
		{"a foreign page with fetch metadata", "POST", "/v1/check", host, map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 403},
		{"a foreign page without Origin", "POST", "/v1/check", host, map[string]string{"Sec-Fetch-Site": "cross-site"}, 403},
		{"a page of another port", "POST", "/v1/check", host, map[string]string{"Origin": "http://127.0.0.1:1", "Sec-Fetch-Site": "same-site"}, 403},
		{"a page in a sandbox", "POST", "/v1/check", host, map[string]string{"Origin": "null"}, 403},
		{"a name that leads here", "POST", "/v1/check", "evil.example:" + port, map[string]string{"Origin": "http://evil.example:" + port}, 403},
		{"a name that leads here, with fetch metadata", "POST", "/v1/check", "evil.example:" + port, map[string]string{"Origin": "http://evil.example:" + port, "Sec-Fetch-Site": "same-origin"}, 403},
		{"a page of this node", "POST", "/v1/check", host, map[string]string{"Origin": n.url, "Sec-Fetch-Site": "same-origin"}, 200},
		{"a page of localhost", "POST", "/v1/check", "localhost:" + port, map[string]string{"Origin": "http://localhost:" + port}, 200},
		{"typed by the user", "POST", "/v1/check", host, map[string]string{"Sec-Fetch-Site": "none"}, 200},
		{"another call", "POST", "/v1/reserve", host, map[string]string{"Origin": "https://evil.example"}, 403},
		{"reading", "GET", "/v1/limits?key=acme", host, map[string]string{"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}, 200},
		{"the status page, from a link", "GET", "/livez", host, map[string]string{"Sec-Fetch-Site": "cross-site"}, 200},
	} {
		r, err := http.NewRequestWithContext(t.Context(), tt.method, n.url+tt.path, strings.NewReader(`{"key":"acme"}`))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = tt.host
		for name, value := range tt.header {
			r.Header.Set(name, value)
		}
		answer, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(answer.Body)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
		if answer.StatusCode != tt.want {
			t.Errorf("%s: %d %s, want %d", tt.name, answer.StatusCode, body, tt.want)
		}
		if tt.want == 403 && !strings.Contains(string(body), `"error":"web_page"`) {
			t.Errorf("%s: body = %s, want the error web_page", tt.name, body)
		}
	}
}

// gather returns the counters of rejected requests that are above 0.
func gather(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			var name []string
			for _, l := range m.GetLabel() {
				name = append(name, l.GetValue())
			}
			if v := m.GetCounter().GetValue(); v > 0 && f.GetName() == "bucketring_rejected_requests_total" {
				values[strings.Join(name, " ")] = v
			}
		}
	}
	return values
}

func TestRejectedRequestsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := newNode(t, func(o *Options) { o.Rejections = server.NewRejections(reg) })
	for _, r := range []struct{ method, path, body string }{
		{"GET", "/nowhere", ""},
		{"POST", "/v2/check", ""},
		{"GET", "/debug/vars", ""},
		{"GET", "/v1/check", ""},
		{"POST", "/v1/check", "{"},
		{"POST", "/v1/check", "[]"},
		{"POST", "/v1/settle", ""},
		{"POST", "/v1/check", `{"key":"acme","tokns":1}`},
		{"GET", "/v1/limits?kez=acme", ""},
		{"POST", "/v1/check", `{"key":1}`},
		{"POST", "/v1/check", `{"key":"` + strings.Repeat("x", maxBody) + `"}`},
		{"POST", "/v1/check", `{"key":"acme","tier":"gold"}`}, // rejected by the service
		{"POST", "/v1/check", `{"key":"acme"}`},
	} {
		q, err := http.NewRequestWithContext(t.Context(), r.method, n.url+r.path, strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		_ = answer.Body.Close()
	}
	want := map[string]float64{
		"http unknown_path": 3, "http wrong_method": 1, "http bad_message": 3, "http unknown_field": 2, "http invalid_field": 1, "http too_large": 1,
	}
	if diff := cmp.Diff(want, gather(t, reg)); diff != "" {
		t.Errorf("rejected requests differ (-want +got):\n%s", diff)
	}
}

// waiting answers a check when it may.
type waiting struct {
	pb.UnimplementedRateLimiterServer
	release chan struct{}
}

func (w waiting) Check(context.Context, *pb.CheckRequest) (*pb.Decision, error) {
	<-w.release
	return &pb.Decision{}, nil
}

// TestLargeBodiesAreBounded sends many large bodies at once: those beyond the share of an
// address are refused before they are read, and small ones are not.
func TestLargeBodiesAreBounded(t *testing.T) {
	reg := prometheus.NewRegistry()
	service := waiting{release: make(chan struct{})}
	handler := New(Options{Service: service, Rejections: server.NewRejections(reg)})
	a := handler.(*api)
	s := httptest.NewServer(handler)
	t.Cleanup(s.Close)
	address := strings.TrimPrefix(s.URL, "http://")
	const most = maxBodiesPerAddress / maxBody
	for range most {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(waittest.Limit))
		// The length is declared, and little more than what is free is sent.
		if _, err := fmt.Fprintf(c, "POST /v1/check HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s", maxBody, strings.Repeat(" ", smallBody)); err != nil {
			t.Fatal(err)
		}
	}
	waittest.Until(t, "the share of the address is taken", func() bool { return a.bodies.Used() == maxBodiesPerAddress })
	post := func(body string) (int, string) {
		t.Helper()
		answer, err := http.Post(s.URL+"/v1/check", "", strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		defer answer.Body.Close()
		text, _ := io.ReadAll(answer.Body)
		return answer.StatusCode, string(text)
	}
	if status, text := post(`{"key":"acme"}` + strings.Repeat(" ", smallBody)); status != http.StatusServiceUnavailable || !strings.Contains(text, `"error":"overloaded"`) {
		t.Errorf("another large body = %d %s, want 503 overloaded", status, text)
	}
	close(service.release)
	if status, text := post(`{"key":"acme"}`); status != http.StatusOK {
		t.Errorf("a small body = %d %s, want 200", status, text)
	}
	if got := gather(t, reg)["http too_many_at_once"]; got != 1 {
		t.Errorf("counted %v refused bodies, want 1", got)
	}
}
