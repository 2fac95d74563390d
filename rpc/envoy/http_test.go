// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/bucketring/bucketring/rpc/envoy/config"
)

// visit serves an HTTP request.
func visit(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest(method, path, strings.NewReader(body)))
	return w
}

func TestJSON(t *testing.T) {
	w := newWorld(t, testRules, nil)
	h := w.HTTP(func() error { return nil })
	for i, test := range []struct {
		body   string
		status int
		want   string // brief, or the beginning of an error
	}{
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"a"}]}],"hitsAddend":2}`, 200, "OK: OK 3/minute left 1 in 40s"},
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"a"}],"hits_addend":"5"}]}`, 429, "OVER: OVER 3/minute left 0 in 40s"},
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"a"}],"hitsAddend":"4","isNegativeHits":true}]}`, 200, "OK: OK 3/minute left 0 in 40s"},
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"b"}],"limit":{"requestsPerUnit":1,"unit":"HOUR"}}]}`, 200, "OK: OK 1/hour left 0 in 46m40s"},
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user"}]}]}`, 200, "OK: OK 3/minute left 2 in 40s"},
		{`{"domain":"elsewhere","descriptors":[{}]}`, 200, "OK: OK"},
		{``, 400, "read request: "},
		{`}`, 400, "read request: "},
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"a"}],"hits":5}]}`, 400, "read request: "},
		{`{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"` + "\xff" + `"}]}]}`, 400, "read request: "},
		{`{"domain":"shop"}`, 400, "descriptors: must not be empty"},
		{`{"domain":"` + strings.Repeat("x", maxJSON) + `"}`, 413, "read request: "},
	} {
		r := visit(h, http.MethodPost, "/json", test.body)
		if r.Code != test.status {
			t.Errorf("body %d: status %d, want %d", i, r.Code, test.status)
			continue
		}
		if r.Code != http.StatusOK && r.Code != http.StatusTooManyRequests {
			if !strings.HasPrefix(r.Body.String(), test.want) {
				t.Errorf("body %d: %s, want %s", i, r.Body, test.want)
			}
			continue
		}
		var answer rls.RateLimitResponse
		if err := protojson.Unmarshal(r.Body.Bytes(), &answer); err != nil || brief(&answer) != test.want || r.Header().Get("Content-Type") != "application/json" {
			t.Errorf("body %d: %s (%v), want %s in JSON", i, r.Body, err, test.want)
		}
	}
	w.err = grpcstatus.Error(codes.DeadlineExceeded, "late")
	if r := visit(h, http.MethodPost, "/json", `{"domain":"shop","descriptors":[{"entries":[{"key":"user"}]}]}`); r.Code != http.StatusServiceUnavailable || r.Body.String() != "late\n" {
		t.Errorf("POST /json with a counter that cannot be asked = %d %s, want 503 and the reason", r.Code, r.Body)
	}
	if r := visit(h, http.MethodGet, "/json", ""); r.Code != http.StatusMethodNotAllowed {
		t.Errorf("GET /json = %d, want 405", r.Code)
	}
}

func TestHealthcheckAndRules(t *testing.T) {
	w := newWorld(t, "", nil)
	var notReady error
	h := w.HTTP(func() error { return notReady })
	check := func(path string, status int, want string) {
		t.Helper()
		if r := visit(h, http.MethodGet, path, ""); r.Code != status || r.Body.String() != want {
			t.Errorf("GET %s = %d %q, want %d %q", path, r.Code, r.Body, status, want)
		}
	}
	const none = "no rate limit configuration is loaded yet\n"
	check("/healthcheck", 503, none)
	check("/rlconfig", 503, none)
	if r := visit(h, http.MethodPost, "/json", `{"domain":"shop","descriptors":[{}]}`); r.Code != http.StatusServiceUnavailable {
		t.Errorf("POST /json without rules = %d, want 503", r.Code)
	}
	w.SetRules(mustParse(t, testRules))
	check("/healthcheck", 200, "OK")
	notReady = errors.New("draining")
	check("/healthcheck", 503, "draining\n")

	text := visit(h, http.MethodGet, "/rlconfig", "").Body.String()
	again, err := config.Parse("rlconfig", []byte(text))
	if err != nil || again.Digest() != w.Rules().Digest() {
		t.Errorf("GET /rlconfig is not the rules in force: %v\n%s", err, text)
	}
	if want := "# digest " + w.Rules().Digest() + "\n"; !strings.HasPrefix(text, want) {
		t.Errorf("GET /rlconfig begins with %.90s, want %s", text, want)
	}
}
