// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/httpapi/statuspage"
	"github.com/bucketring/bucketring/rpc/pb"
)

const chrome = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,image/apng,*/*;q=0.8,application/signed-exchange;v=b3;q=0.7"

func TestStatusIsNegotiated(t *testing.T) {
	api := New(Options{
		Service:    pb.UnimplementedRateLimiterServer{},
		Status:     func() any { return map[string]string{"name": "<node1>"} },
		StatusPage: func() statuspage.Status { return statuspage.Status{Name: "<node1>"} },
	})
	for _, tt := range []struct {
		accept []string
		html   bool
	}{
		{nil, false},
		{[]string{""}, false},
		{[]string{"*/*"}, false}, // curl
		{[]string{"application/json"}, false},
		{[]string{"text/html"}, true},
		{[]string{"Text/HTML; charset=utf-8"}, true},
		{[]string{chrome}, true},
		{[]string{"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}, true}, // Firefox
		{[]string{"text/*"}, true},
		{[]string{"text/html, application/json"}, false},
		{[]string{"application/json, text/html"}, false},
		{[]string{"application/json, text/html;q=0.9"}, false},
		{[]string{"application/json;q=0.5, text/html;q=0.501"}, true},
		{[]string{"application/json;q=0.5", "text/html"}, true}, // two headers
		{[]string{"text/html;q=0.5, */*"}, false},
		{[]string{"text/html;q=0.5, text/*;q=0.9, */*;q=0.6"}, false}, // the most specific range counts
		{[]string{"*/*;q=0.1, text/*;q=0.2"}, true},
		{[]string{"text/html;q=0"}, false},
		{[]string{"text/html;q=0, */*"}, false},
		{[]string{"image/png"}, false},
		{[]string{"application/json-seq, text/htmlx"}, false},
		{[]string{"text/html;q=2"}, false},
		{[]string{"text/html;q=-1"}, false},
		{[]string{"text/html;q=0.1234"}, false},
		{[]string{"text/html;q=1.001"}, false},
		{[]string{"text/html;q="}, false},
		{[]string{"text/html;q=0.+1"}, false},
		{[]string{"text/html;q=1."}, true},
		{[]string{"application/json;q=x, text/html;q=0.1"}, true}, // invalid ranges are ignored
		{[]string{",,;;/, text/html"}, true},
	} {
		r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/status", nil)
		r.Header["Accept"] = tt.accept
		w := httptest.NewRecorder()
		api.ServeHTTP(w, r)
		kind, body := "application/json", `{"name":"<node1>"}`+"\n"
		if tt.html {
			kind, body = "text/html; charset=utf-8", "<h1>&lt;node1&gt;</h1>"
		}
		h := w.Header()
		if w.Code != 200 || h.Get("Content-Type") != kind || (tt.html && !strings.Contains(w.Body.String(), body)) || (!tt.html && w.Body.String() != body) {
			t.Errorf("Accept %q: %d %s %s, want 200 %s %s", tt.accept, w.Code, h.Get("Content-Type"), w.Body, kind, body)
		}
		if h.Get("Vary") != "Accept" || h.Get("Cache-Control") != "no-store" || h.Get("Content-Length") != strconv.Itoa(w.Body.Len()) {
			t.Errorf("Accept %q: headers %v", tt.accept, h)
		}
		if policy := h.Get("Content-Security-Policy"); tt.html != (policy == statuspage.ContentSecurityPolicy()) || tt.html != (h.Get("X-Content-Type-Options") == "nosniff") {
			t.Errorf("Accept %q: Content-Security-Policy %q", tt.accept, policy)
		}
	}
}

func TestStatusWithoutPage(t *testing.T) {
	n := newNode(t, func(o *Options) { o.Status = func() any { return struct{}{} } })
	a := n.doAccept(t, http.MethodGet, chrome)
	if a.status != 200 || a.body != "{}\n" || a.header.Get("Vary") != "" {
		t.Errorf("GET /status = %d %q %v, want JSON, whoever asks", a.status, a.body, a.header)
	}
}

// TestStatusHead: HEAD has the headers of GET and no body, over real HTTP.
func TestStatusHead(t *testing.T) {
	n := newNode(t, func(o *Options) {
		o.Status = func() any { return struct{}{} }
		o.StatusPage = func() statuspage.Status { return statuspage.Status{} }
	})
	for _, accept := range []string{chrome, "application/json"} {
		get, head := n.doAccept(t, http.MethodGet, accept), n.doAccept(t, http.MethodHead, accept)
		get.header.Del("Date")
		head.header.Del("Date")
		if head.status != 200 || head.body != "" || get.body == "" {
			t.Errorf("Accept %s: HEAD = %d %q, GET = %q", accept, head.status, head.body, get.body)
		}
		for name := range get.header {
			if g, h := get.header.Get(name), head.header.Get(name); g != h {
				t.Errorf("Accept %s: %s = %q with GET and %q with HEAD", accept, name, g, h)
			}
		}
	}
}

// doAccept requests /status with an Accept header.
func (n *node) doAccept(t testing.TB, method, accept string) answer {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), method, n.url+"/status", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", accept)
	w, err := http.DefaultClient.Do(r)
	if err != nil {
		t.Fatalf("%s /status = %v", method, err)
	}
	defer w.Body.Close()
	body, err := io.ReadAll(w.Body)
	if err != nil {
		t.Fatalf("%s /status: %v", method, err)
	}
	return answer{w.StatusCode, w.Header, string(body)}
}

// TestRoot leads browsers from the root to the page, also those without credentials, and tells
// others what there is.
func TestRoot(t *testing.T) {
	page := func() statuspage.Status { return statuspage.Status{} }
	status := func() any { return struct{}{} }
	for _, tt := range []struct {
		name, method, accept string
		page                 func() statuspage.Status
		want                 int
		location             string
	}{
		{"Chromium", http.MethodGet, chrome, page, http.StatusFound, "/status"},
		{"a browser's HEAD", http.MethodHead, chrome, page, http.StatusFound, "/status"},
		{"curl", http.MethodGet, "*/*", page, http.StatusNotFound, ""},
		{"a client without Accept", http.MethodGet, "", page, http.StatusNotFound, ""},
		{"a form", http.MethodPost, chrome, page, http.StatusNotFound, ""},
		{"without a page", http.MethodGet, chrome, nil, http.StatusNotFound, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			api := New(Options{Service: pb.UnimplementedRateLimiterServer{}, Status: status, StatusPage: tt.page})
			r := httptest.NewRequestWithContext(t.Context(), tt.method, "/", nil)
			r.Header.Set("Accept", tt.accept)
			w := httptest.NewRecorder()
			api.ServeHTTP(w, r)
			if w.Code != tt.want || w.Header().Get("Location") != tt.location {
				t.Errorf("answer %d to %q, want %d to %q", w.Code, w.Header().Get("Location"), tt.want, tt.location)
			}
			if tt.want == http.StatusNotFound && !strings.Contains(w.Body.String(), "GET /status shows the node") {
				t.Errorf("answer %s, want one that names /status", w.Body)
			}
			if vary := w.Header().Get("Vary"); tt.page != nil && vary != "Accept" {
				t.Errorf("Vary %q, want Accept, because the answer depends on it", vary)
			}
		})
	}
}
