// SPDX-License-Identifier: Apache-2.0

package proxy

import (
	"bufio"
	"fmt"
	"net/http"
	"net/http/httputil"
	"net/url"
	"path"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/client/middleware"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

// leniencies are what servers do to a path before they look for its handler.
var leniencies = []func(string) string{
	func(s string) string {
		if got, err := url.PathUnescape(s); err == nil {
			return got
		}
		return s
	},
	func(s string) string {
		for i := range 256 { // all but slashes and percent signs
			if c := byte(i); c != '/' && c != '\\' && c != '%' {
				s = strings.NewReplacer(fmt.Sprintf("%%%02X", c), string([]byte{c}), fmt.Sprintf("%%%02x", c), string([]byte{c})).Replace(s)
			}
		}
		return s
	},
	strings.ToLower,
	func(s string) string { return path.Clean("/" + s) },
	func(s string) string { return strings.ReplaceAll(s, `\`, "/") },
	func(s string) string { return strings.TrimRight(s, "/") },
	func(s string) string { s, _, _ = strings.Cut(s, "?"); return s },
	func(s string) string { s, _, _ = strings.Cut(s, "#"); return s },
	func(s string) string { s, _, _ = strings.Cut(s, "\x00"); return s },
	func(s string) string {
		segments := strings.Split(s, "/")
		for i := range segments {
			segments[i], _, _ = strings.Cut(segments[i], ";")
		}
		return strings.Join(segments, "/")
	},
	func(s string) string {
		segments := strings.Split(s, "/")
		for i := range segments {
			segments[i] = strings.TrimSpace(segments[i])
		}
		return strings.Join(segments, "/")
	},
	func(s string) string {
		segments := strings.Split(s, "/")
		for i := range segments {
			if strings.Trim(segments[i], ".") != "" {
				segments[i] = strings.TrimRight(segments[i], ".")
			}
		}
		return strings.Join(segments, "/")
	},
	func(s string) string { return strings.ToLower(strings.ToUpper(s)) },
	func(s string) string {
		for strings.Contains(s, "//") {
			s = strings.ReplaceAll(s, "//", "/")
		}
		return s
	},
}

// read returns the name of the handler that a server has for a path, or "".
func read(target string) string {
	var segments []string
	for segment := range strings.SplitSeq(target, "/") {
		if segment != "" {
			segments = append(segments, segment)
		}
	}
	n := len(segments)
	end := func(names ...string) bool {
		return n >= len(names) && strings.Join(segments[n-len(names):], "/") == strings.Join(names, "/")
	}
	switch {
	case end("chat", "completions"):
		return llm.ChatCompletions.String()
	case end("completions"):
		return llm.Completions.String()
	case end("embeddings"):
		return llm.Embeddings.String()
	case end("responses"), end("responses", "compact"):
		return llm.Responses.String()
	case end("messages"):
		return llm.Messages.String()
	}
	return ""
}

// isCounted reports whether a server takes a path for one of those metered by count.
func isCounted(target string) bool {
	target = path.Clean(target)
	return target == "/v1/rerank" || strings.HasPrefix(target, "/v1/audio/")
}

func routedProxy(t testing.TB, base string) *Proxy {
	t.Helper()
	upstream, err := url.Parse("http://model" + base)
	if err != nil {
		t.Fatal(err)
	}
	prefix, inside := "/v1", base == "/v1"
	if inside {
		prefix = ""
	}
	meter, err := ParseMeter([]string{"POST " + prefix + "/rerank", "POST " + prefix + "/audio/*"})
	if err != nil {
		t.Fatal(err)
	}
	all, err := ParsePass([]string{"all"})
	if err != nil {
		t.Fatal(err)
	}
	o := Options{Upstream: upstream, Pass: all, Meter: meter}
	o.Middleware.Identify = func(*http.Request) (middleware.Identity, error) { return middleware.Identity{}, nil }
	return &Proxy{options: o}
}

// FuzzRoute sends a path through the proxy to a server that is lenient in the given
// ways. If the server runs a metered endpoint, the request was metered as a call of that
// endpoint, or rejected, although Pass allows everything.
func FuzzRoute(f *testing.F) {
	for _, target := range []string{
		"/v1/chat/completions", "/chat/completions", "/v1/chat%2Fcompletions;x%2Fy", "/V1/Chat/Completions/", "/v1/chat%252Fcompletions", `/v1\chat\completions`,
		"/openai/deployments/m/embeddings", "/v1/responses/compact", "/v1/x/%252e%252e/messages", "/v1/messages%253Fx", "/v1/chat%20/completions", "/v1;a/chat;b/completions;c",
		"/v1/rerank", "/v1/RERANK", "/v1/audio%2Fspeech", "/v1/audio;x/speech", "/v1/x/../rerank", "/../v1/rerank", "/files/a%20b;v=1", "/v1/messages/count_tokens",
		"http://elsewhere/v1/messages", "a:/v1/messages", "/v1/chat/completions%00x", "/v1/chat/completions%3B%2F..%2Fx", "/v1/embeddings/%2e%2e/chat/completions", "/v1//chat///completions",
		"/v1/chat/completions.", "/v1/chat./completions..", "/v1/chat/completion\u017f", "/v1/chat/completion%C5%BF", "/v1/chat/completions.%20.",
	} {
		for base := range 4 {
			f.Add("POST", target, uint8(base), []byte{0, 8, 0, 1, 2})
			f.Add("POST", target, uint8(base), []byte{8, 0, 0, 5, 9, 1, 2})
		}
	}
	f.Add("post", "/v1/rerank", uint8(0), []byte{})
	f.Add("PUT", "/v1/chat/completions", uint8(0), []byte{})
	var proxies []*Proxy
	for _, base := range []string{"", "/v1", "/v1/chat", "/base/"} {
		proxies = append(proxies, routedProxy(f, base))
	}
	f.Fuzz(func(t *testing.T, method, target string, base uint8, steps []byte) {
		r, err := http.ReadRequest(bufio.NewReader(strings.NewReader(fmt.Sprintf("%s %s HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}", method, target))))
		if err != nil || len(steps) > 12 {
			return
		}
		p := proxies[int(base)%len(proxies)]
		rt := p.classify(r)
		if rt.ambiguous || !rt.metered && !p.options.Pass.allows(r) {
			return // rejected
		}
		as := ""
		if e, ok := llm.EndpointOf(r.Method, r.URL.Path); ok {
			as = e.String()
		}
		if rt.metered && !rt.counted && as == "" || rt.counted && as != "" {
			t.Fatalf("%s %s is classified as %+v, but the middleware takes it for %q", method, target, rt, as)
		}
		out := r.Clone(t.Context())
		p.rewrite(&httputil.ProxyRequest{In: r, Out: out})
		reading := out.URL.EscapedPath()
		if out.URL.Opaque != "" {
			t.Fatalf("%s %s is sent as it is", method, target)
		}
		for i := -1; i < len(steps); i++ {
			if i >= 0 {
				reading = leniencies[int(steps[i])%len(leniencies)](reading)
			}
			if runs := read(reading); runs != "" && runs != as {
				t.Fatalf("%s %s at base %q was metered as %q (%+v), and a server that reads %q runs %s", method, target, p.options.Upstream.Path, as, rt, reading, runs)
			}
			if isCounted(reading) && !rt.metered {
				t.Fatalf("%s %s at base %q passed, and a server that reads %q runs it", method, target, p.options.Upstream.Path, reading)
			}
		}
	})
}

// Paths are metered by how they end, whatever is before.
func TestEndpointsAreFoundByTheirEnd(t *testing.T) {
	for target, want := range map[string]string{
		"/v1/chat/completions":                        "chat_completions",
		"/chat/completions":                           "chat_completions",
		"/v4/chat/completions/":                       "chat_completions",
		"/v1beta/openai/chat/completions":             "chat_completions",
		"/openai/deployments/gpt-4o/chat/completions": "chat_completions gpt-4o",
		"/openai/deployments/gpt-4o/completions":      "completions gpt-4o",
		"/v1/engines/org/model/embeddings":            "embeddings org/model",
		"/engines/chat/completions":                   "chat_completions", // no name is left
		"/v1//responses":                              "responses",
		"/responses/compact":                          "responses",
		"/anthropic/v1/messages":                      "messages",
		"/v1/xchat/completions":                       "completions",
		"/v1/messages/count_tokens":                   "",
		"/v1/responses/input_tokens":                  "",
		"/v1/chatcompletions":                         "",
		"/v1/chat/completions/x":                      "",
	} {
		got := ""
		if e, ok := llm.EndpointOf(http.MethodPost, target); ok {
			got = strings.TrimSpace(e.String() + " " + llm.ModelOfPath(target))
		}
		if got != want {
			t.Errorf("POST %s is %q, want %q", target, got, want)
		}
	}
}

// The path of a rejected request takes a bounded time to look at.
func TestOddPathsAreBounded(t *testing.T) {
	p := routedProxy(t, "/v1")
	for _, target := range []string{
		"/" + strings.Repeat("%25", 20_000), "/" + strings.Repeat("%2525;", 600), "/" + strings.Repeat(`a\;%20/`, 500), "/" + strings.Repeat("/../", 1_000),
	} {
		r, err := http.NewRequest(http.MethodPost, "http://x"+target, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		for _, base := range []string{"", "/v1"} {
			if read, ok := readings(base, r.URL); ok && len(read) > maxReadings {
				t.Errorf("%.20s has %d readings, want at most %d", target, len(read), maxReadings)
			}
		}
		p.classify(r)
	}
}
