// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/proxy"
)

func origins(t testing.TB, list ...string) func(*proxy.Options) {
	t.Helper()
	parsed, err := proxy.ParseOrigins(list)
	if err != nil {
		t.Fatal(err)
	}
	return func(o *proxy.Options) { o.Origins = parsed }
}

func TestParseOrigins(t *testing.T) {
	for _, bad := range []string{"", "null", "chat.example.org", "https://", "https://chat.example.org/", "https://Chat.example.org", "https://*.example.org", "ftp://x", "https://u@x", "https://x?y", "https://x y", "**"} {
		if _, err := proxy.ParseOrigins([]string{bad}); err == nil {
			t.Errorf("ParseOrigins(%q) = nil, want an error", bad)
		}
	}
	if _, err := proxy.ParseOrigins([]string{"*", "https://x"}); err == nil {
		t.Error("ParseOrigins(*, https://x) = nil, want an error")
	}
	if _, err := proxy.ParseOrigins([]string{"https://x", "http://localhost:3000", "http://[::1]:80"}); err != nil {
		t.Errorf("ParseOrigins = %v, want three", err)
	}
}

// Pages of allowed origins can read our errors and denials, and their headers.
func TestCrossOriginErrors(t *testing.T) {
	const page = "https://chat.example.org"
	for _, test := range []struct {
		name           string
		list           []string
		origin, method string
		path, caller   string
		status         int
		allowed, vary  string
	}{
		{"401", []string{page}, page, "POST", "/v1/chat/completions", "none", 401, page, "Origin"},
		{"403", []string{page}, page, "POST", "/generate", "std", 403, page, "Origin"},
		{"429", []string{page}, page, "POST", "/v1/chat/completions", "poor", 429, page, "Origin"},
		{"502", []string{page}, page, "POST", "/v1/messages", "std", 502, page, "Origin"},
		{"any", []string{"*"}, "https://elsewhere", "POST", "/v1/chat/completions", "poor", 429, "*", ""},
		{"other origin", []string{page}, "https://evil", "POST", "/v1/chat/completions", "poor", 429, "", "Origin"},
		{"suffix", []string{page}, page + ".evil", "POST", "/v1/chat/completions", "poor", 429, "", "Origin"},
		{"null", []string{page}, "null", "POST", "/v1/chat/completions", "poor", 429, "", "Origin"},
		{"no origin", []string{page}, "", "POST", "/v1/chat/completions", "poor", 429, "", "Origin"},
		{"not set", nil, page, "POST", "/v1/chat/completions", "poor", 429, "", ""},
	} {
		s := start(t, setup{dead: true, edit: origins(t, test.list...)})
		answer := s.do(test.method, test.path, strings.NewReader(hello), "Authorization", "Bearer sk-"+test.caller, "Origin", test.origin)
		h := answer.Header
		if answer.StatusCode != test.status || h.Get("Access-Control-Allow-Origin") != test.allowed || h.Get("Vary") != test.vary {
			t.Errorf("%s: answer = %d, allowed %q, vary %q, want %d, %q, %q", test.name, answer.StatusCode, h.Get("Access-Control-Allow-Origin"), h.Get("Vary"), test.status, test.allowed, test.vary)
		}
		exposed := h.Get("Access-Control-Expose-Headers")
		if test.allowed != "" && test.status == 429 {
			for _, name := range []string{"X-Bucketring-Request-Id", "X-Should-Retry", "X-Request-Id"} {
				if h.Get(name) != "" && !strings.Contains(exposed, name) {
					t.Errorf("%s: exposed headers = %q, want %s", test.name, exposed, name)
				}
			}
		}
		if test.allowed == "" && exposed != "" {
			t.Errorf("%s: exposed headers = %q, want none", test.name, exposed)
		}
	}
}

// Headers that the upstream sends win, and are not doubled.
func TestCrossOriginHeadersAreNotDoubled(t *testing.T) {
	const page = "https://chat.example.org"
	own := true
	s := start(t, setup{edit: origins(t, page), upstream: handler(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Vary", "Accept-Encoding, origin")
		w.Header().Set("Content-Type", "application/json")
		if own {
			w.Header().Set("Access-Control-Allow-Origin", "https://theirs")
			w.Header().Set("Access-Control-Expose-Headers", "X-Theirs")
		}
		fmt.Fprint(w, `{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":1}}`)
	})})
	for _, own = range []bool{true, false} {
		h := s.post("/v1/chat/completions", hello, "Origin", page).Header
		want, exposed := "https://theirs", "X-Theirs"
		if !own {
			want, exposed = page, "Ratelimit"
		}
		if got := h.Values("Access-Control-Allow-Origin"); len(got) != 1 || got[0] != want {
			t.Errorf("upstream sets it: %v: Allow-Origin = %q, want %q once", own, got, want)
		}
		if got := h.Values("Access-Control-Expose-Headers"); len(got) != 1 || !strings.Contains(got[0], exposed) {
			t.Errorf("upstream sets it: %v: Expose-Headers = %q, want %q once", own, got, exposed)
		}
		if got := strings.Count(strings.ToLower(strings.Join(h.Values("Vary"), ",")), "origin"); got != 1 {
			t.Errorf("upstream sets it: %v: Vary = %q, want the origin once", own, h.Values("Vary"))
		}
	}
}

// Preflight requests are answered if there are origins, and passed otherwise.
func TestPreflight(t *testing.T) {
	const page = "https://chat.example.org"
	upstream := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusTeapot) })
	ask := []string{"Origin", page, "Access-Control-Request-Method", "POST", "Access-Control-Request-Headers", "authorization, content-type", "Authorization", ""}
	s := start(t, setup{upstream: upstream, edit: origins(t, page)})
	answer := s.do(http.MethodOptions, "/v1/chat/completions", nil, ask...)
	h := answer.Header
	if answer.StatusCode != http.StatusNoContent || h.Get("Access-Control-Allow-Origin") != page || h.Get("Access-Control-Allow-Methods") != "POST" ||
		h.Get("Access-Control-Allow-Headers") != "authorization, content-type" || h.Get("Access-Control-Max-Age") != "600" || !strings.Contains(h.Get("Vary"), "Origin") {
		t.Errorf("answer = %d %v, want what was asked for", answer.StatusCode, h)
	}
	answer = s.do(http.MethodOptions, "/v1/chat/completions", nil, append(ask, "Origin", "https://evil")...)
	if answer.StatusCode != http.StatusNoContent || answer.Header.Get("Access-Control-Allow-Origin") != "" || answer.Header.Get("Access-Control-Allow-Methods") != "" {
		t.Errorf("for another origin: answer = %d %v, want nothing allowed", answer.StatusCode, answer.Header)
	}
	answer = s.do(http.MethodOptions, "/v1/chat/completions", nil, append(ask, "Access-Control-Request-Headers", "a, b c")...)
	if answer.Header.Get("Access-Control-Allow-Headers") != "" {
		t.Errorf("for invalid names: answer = %v, want no headers allowed", answer.Header)
	}
	if answer = s.do(http.MethodOptions, "/v1/chat/completions", nil, "Origin", page); answer.StatusCode != http.StatusTeapot {
		t.Errorf("OPTIONS that is no preflight = %d, want the upstream's answer", answer.StatusCode)
	}
	s = start(t, setup{upstream: upstream})
	if answer = s.do(http.MethodOptions, "/v1/chat/completions", nil, ask...); answer.StatusCode != http.StatusTeapot {
		t.Errorf("without origins = %d, want the upstream's answer", answer.StatusCode)
	}
}
