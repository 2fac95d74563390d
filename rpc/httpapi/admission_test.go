// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/server"
)

// TestOverloaded: an overloaded node refuses new calls, and nothing else. A refusal does
// not count as a rejected request.
func TestOverloaded(t *testing.T) {
	admission, reg := server.NewAdmission(nil), prometheus.NewRegistry()
	n := newNode(t, func(o *Options) {
		o.Admission, o.Rejections = admission, server.NewRejections(reg)
	})
	if got := n.post(t, "/v1/reserve", `{"key":"k","request_id":"a","model":"llama","max_output_tokens":9}`); got.status != http.StatusOK {
		t.Fatalf("/v1/reserve = %d %s", got.status, got.body)
	}
	admission.Refuse(overload.Whole)
	for _, path := range []string{"/v1/check", "/v1/reserve"} {
		got := n.post(t, path, `{"key":"k"}`)
		if got.status != http.StatusServiceUnavailable || got.problem(t).Error != "overloaded" || got.header.Get("Retry-After") != "1" {
			t.Errorf("%s of an overloaded node = %d %s, Retry-After %q; want 503 overloaded", path, got.status, got.body, got.header.Get("Retry-After"))
		}
	}
	if got := n.do(t, "GET", "/v1/limits?key=k", nil); got.status != http.StatusServiceUnavailable {
		t.Errorf("/v1/limits of an overloaded node = %d %s, want 503", got.status, got.body)
	}
	for _, q := range []struct{ path, body string }{
		{"/v1/settle", `{"key":"k","request_id":"a","output_tokens":1,"final":false}`},
		{"/v1/cancel", `{"key":"k","request_id":"a"}`},
	} {
		if got := n.post(t, q.path, q.body); got.status != http.StatusOK {
			t.Errorf("%s of an overloaded node = %d %s, want 200", q.path, got.status, got.body)
		}
	}
	for _, path := range []string{"/livez", "/healthz", "/readyz"} {
		if got := n.do(t, "GET", path, nil); got.status != http.StatusOK {
			t.Errorf("%s of an overloaded node = %d %s, want 200", path, got.status, got.body)
		}
	}
	if got := admission.Refused(); got != 3 {
		t.Errorf("%d refused, want 3", got)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if m.GetCounter().GetValue() != 0 {
				t.Errorf("a refusal counts as rejected: %v", m)
			}
		}
	}
}

// TestRefusalKeepsTheConnection: a call is refused before its body has arrived, and the
// next one of the connection is answered.
func TestRefusalKeepsTheConnection(t *testing.T) {
	admission := server.NewAdmission(nil)
	n := newNode(t, func(o *Options) { o.Admission = admission })
	conn, err := net.Dial("tcp", strings.TrimPrefix(n.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(waittest.Limit)); err != nil {
		t.Fatal(err)
	}
	answers := bufio.NewReader(conn)
	answer := func() int {
		t.Helper()
		w, err := http.ReadResponse(answers, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer w.Body.Close()
		if _, err := bufio.NewReader(w.Body).Discard(int(w.ContentLength)); err != nil {
			t.Fatal(err)
		}
		return w.StatusCode
	}
	const body = `{"key":"k"}`
	send := func(text string) {
		t.Helper()
		if _, err := fmt.Fprint(conn, text); err != nil {
			t.Fatal(err)
		}
	}
	admission.Refuse(overload.Whole)
	head := fmt.Sprintf("POST /v1/check HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: %d\r\n\r\n", len(body))
	send(head + body)
	if got := answer(); got != http.StatusServiceUnavailable {
		t.Errorf("an overloaded node answers %d, want 503", got)
	}
	admission.Refuse(0)
	send(head + body)
	if got := answer(); got != http.StatusOK {
		t.Errorf("the next call of the connection gets %d, want 200", got)
	}
}
