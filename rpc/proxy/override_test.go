// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"net/http"
	"strings"
	"testing"
)

// request parses a request with a head line, and more header lines and a body.
func request(t *testing.T, head string, lines ...string) *http.Request {
	t.Helper()
	r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(head + " HTTP/1.1\r\nHost: x\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n")))
	if err != nil {
		t.Fatalf("%s: %v", head, err)
	}
	return r
}

// What passes does not become another method or another path at a server, and no spelling
// of a path that runs a model passes.
func TestWhatSafeRefuses(t *testing.T) {
	p := routedProxy(t, "")
	p.options.Pass = safe()
	p.options.Meter = nil
	passes := func(r *http.Request) bool {
		rt := p.classify(r)
		return !rt.metered && !rt.ambiguous && p.options.Pass.allows(r)
	}
	for _, head := range []string{
		"GET /v1/models", "GET /v1/models?limit=20&after=x", "GET /v1/models?method=list", "GET /v1/models?my_method=DELETE", "GET /v1/models?x=_method", "GET /v1/models?q=100%25",
		"HEAD /models", "GET /health", "GET /v1/models/org/name", "GET /v1/models/gpt-4.1", "OPTIONS /v1/chat/completions?x=1",
	} {
		if !passes(request(t, head)) {
			t.Errorf("%s does not pass", head)
		}
	}
	for _, head := range []string{
		"GET /v1/models?_method=DELETE", "GET /v1/models?%5fmethod=DELETE", "GET /v1/models?%5Fmethod=DELETE", "GET /v1/models?%5Fm%65thod=DELETE", "GET /v1/models?_METHOD=delete",
		"GET /v1/models?%255fmethod=DELETE", "GET /v1/models?%25255fmethod=DELETE", "GET /v1/models?%2525252525255fmethod=DELETE", "GET /v1/models?a=1&_method=DELETE", "GET /v1/models?a=1;_method=DELETE",
		"GET /v1/models?a=1%26_method=DELETE", "GET /v1/models?.method=DELETE", "GET /v1/models?+_method=DELETE", "GET /v1/models?_method[]=DELETE", "GET /v1/models?_method%00=DELETE", "GET /v1/models?_method",
		"GET /v1/models?x-http-method-override=DELETE", "GET /v1/models?X_HTTP_METHOD_OVERRIDE=DELETE", "GET /v1/models?%24httpMethod=DELETE", "GET /v1/models?_HttpMethod=DELETE", "GET /v1/models??_method=DELETE",
		"POST /v1/messages/count_tokens?_method=DELETE", "OPTIONS /v1/models?%5fmethod=POST",

		"GET //v1/models/x", "GET /v1//models", "GET /v1/models;x", "GET /v1/models/..", "GET /v1/models/%2e%2e/x", "GET /v1/models/x%2f..%2f..", "GET /v1/models/..%5cx", "GET /v1/models/x%00", "GET /v1/models/%252e",
		"GET /v1/MODELS", "get /v1/models", "GET /v1/modelsx", "GET /v1/models.", "GET /health.", "GET /version/x", "GET /healthz",

		"POST //v1//chat/completions", "POST /v1/chat/completions;x", "POST /v1/chat/completions.", "POST /v1/chat/Completions", "POST /v1/chat%5Ccompletions", "POST /v1/%2e%2e/generate",
		"POST /v1/chat/completions/messages/count_tokens", "POST /v1/completions/x/messages/count_tokens", "POST /v1/CHAT/COMPLETIONS/messages/count_tokens", "POST /v1/responses/responses/input_tokens",
		"POST /v1/messages/messages/count_tokens", "POST /v1/messages/count_tokens/..", "POST /v1/messages/count_tokens/../../generate", "POST /v1/messages/count_tokens;/../x", "POST /v1/messages/count_tokens%2f..",
		"POST /messages/count_tokens.", "POST /xmessages/count_tokens", "POST /v1/messages//count_tokens", "PUT /v1/messages/count_tokens", "DELETE /v1/models/x", "POST /v1/models", "TRACE /v1/models", "PROPFIND /health",
	} {
		r := request(t, head)
		if rt := p.classify(r); passes(r) || rt.counted {
			t.Errorf("%s passes", head)
		}
	}
	for name, values := range map[string][]string{
		"":                       {},
		"X-HTTP-Method-Override": {"DELETE"},
		"x-http-method-override": {"get"},
		"X_HTTP_Method_Override": {"DELETE"},
		"X-HTTP-Method":          {"MERGE"},
		"X-Method-Override":      {"PUT"},
		"X_Method_Override":      {"PUT"},
		"X-Original-Method":      {"POST"},
		"X-Original-URL":         {"/v1/chat/completions"},
		"X_Original_URL":         {"/v1/chat/completions"},
		"X-Rewrite-Url":          {"/generate"},
		"X_REWRITE_URL":          {"/generate"},
	} {
		for _, head := range []string{"GET /v1/models", "GET /health", "OPTIONS /v1/models", "POST /v1/messages/count_tokens"} {
			var lines []string
			for _, v := range values {
				lines = append(lines, name+": "+v)
			}
			if got := passes(request(t, head, lines...)); got != (name == "") {
				t.Errorf("%s with %s passes: %v", head, lines, got)
			}
		}
	}
	for kind, want := range map[string]bool{
		"application/json": true, "application/json; charset=utf-8": true, "text/plain": true, "": true,
		"application/x-www-form-urlencoded": false, "Application/X-WWW-Form-URLEncoded; charset=utf-8": false, "multipart/form-data; boundary=x": false, "multipart/mixed; boundary=x": false,
		"application/x-www-form-urlencoded;;": false, ";": false,
	} {
		lines := []string{"Content-Length: 14"}
		if kind != "" {
			lines = append(lines, "Content-Type: "+kind)
		}
		if got := passes(request(t, "POST /v1/messages/count_tokens", lines...)); got != want {
			t.Errorf("count_tokens with a body of type %q passes: %v, want %v", kind, got, want)
		}
	}
	two := request(t, "POST /v1/messages/count_tokens", "Content-Type: application/json", "Content-Type: application/x-www-form-urlencoded", "Content-Length: 14")
	if passes(two) {
		t.Error("count_tokens with two types of body passes")
	}
}
