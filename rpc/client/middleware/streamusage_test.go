// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// A strictServer refuses what it does not know.
type strictServer struct {
	status int
	body   string // of the refusal
	coding string // of that body
	broken bool   // refuses all calls

	mu    sync.Mutex
	calls []string // bodies
}

func (s *strictServer) serve(w http.ResponseWriter, r *http.Request) {
	text, _ := io.ReadAll(r.Body)
	s.mu.Lock()
	s.calls = append(s.calls, string(text))
	s.mu.Unlock()
	var q map[string]any
	if err := json.Unmarshal(text, &q); err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	if _, ok := q["stream_options"]; ok || s.broken {
		w.Header().Set("X-Attempt", "refused")
		if s.coding != "" {
			w.Header().Set("Content-Encoding", s.coding)
		}
		whole(s.status, s.body)(w, r)
		return
	}
	w.Header().Set("X-Attempt", "accepted")
	streaming(event("a"), event("b"), doneEvent)(w, r)
}

// took returns the bodies of the calls since the last time.
func (s *strictServer) took() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	calls := s.calls
	s.calls = nil
	return calls
}

// A server that refuses stream_options gets the call once more without them, and later
// calls for the model without them at once.
func TestStreamOptionsAreRefused(t *testing.T) {
	for name, up := range map[string]*strictServer{
		"OpenAI":    {status: 400, body: `{"error":{"message":"Unrecognized request argument supplied: stream_options"}}`},
		"Mistral":   {status: 422, body: `{"detail":[{"type":"extra_forbidden","loc":["body","stream_options"],"msg":"Extra inputs are not permitted"}]}`},
		"words":     {status: 400, body: `{"message":"Stream options are not supported"}`},
		"FastAPI":   {status: 422, body: `{"detail":[{"type":"missing","loc":["query","x"]},{"type":"extra_forbidden","loc":["body","stream_options","include_usage"],"msg":"Extra inputs are not permitted","input":true}]}`},
		"in a text": {status: 400, body: `{"detail":"{\"loc\":[\"body\",\"stream_options\"]}"}`},
		"escapes":   {status: 400, body: `{"error":"unknown field stream\u005foptions"}`},
		"camel":     {status: 400, body: `{"error":"unknown field: streamOptions"}`},
		"pointer":   {status: 422, body: `{"errors":[{"source":{"pointer":"/stream-options/include-usage"}}]}`},
		"a list":    {status: 400, body: `{"path":["include","usage"]}`},
		"gzip":      {status: 400, coding: "gzip", body: encode(t, `{"error":"unknown field stream_options"}`, "gzip")},
		"zstd":      {status: 422, coding: "zstd", body: encode(t, `{"detail":[{"loc":["body","stream_options"]}]}`, "zstd")},
		"deflate":   {status: 400, coding: "deflate", body: encode(t, `{"error":"stream_options"}`, "deflate")},
		"twice":     {status: 400, coding: "gzip, zstd", body: encode(t, `{"error":"stream_options"}`, "gzip", "zstd")},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			reg := prometheus.NewRegistry()
			s := serve(t, middleware.Options{Client: c, Registerer: reg, Identify: identifyAs("big")}, up.serve)
			for i, want := range []int{2, 1, 1} {
				a, text := s.post(t, chat, ask(`,"max_tokens":10,"stream":true`))
				if a.StatusCode != 200 || a.Header.Get("X-Attempt") != "accepted" || text != event("a")+event("b")+doneEvent {
					t.Errorf("call %d: %d %v %q, want the stream", i, a.StatusCode, a.Header, text)
				}
				calls := up.took()
				if len(calls) != want || calls[len(calls)-1] != ask(`,"max_tokens":10,"stream":true`) {
					t.Errorf("call %d: the server got %q, want %d calls, the last as the caller sent it", i, calls, want)
				}
				r := s.result(t)
				wantCharge(t, r, middleware.SourceEstimated, 105, 2)
				if !r.UsageRefused {
					t.Errorf("call %d: UsageRefused = false", i)
				}
			}
			if _, text := s.post(t, chat, strings.Replace(ask(`,"stream":true`), `"m"`, `"other"`, 1)); len(up.took()) != 2 || text == "" {
				t.Error("another model is not asked for its usage")
			}
			if got := metric(t, reg, "bucketring_middleware_streams_without_usage_total"); got != 4 {
				t.Errorf("%v streams without usage are counted, want 4", got)
			}
		})
	}
}

// Refusals of other things are passed on as they are, and nothing is remembered.
func TestOtherRefusalsArePassed(t *testing.T) {
	named := `{"error":{"message":"bad text: stream_options"}}`
	for name, tt := range map[string]struct {
		up      *strictServer
		mode    middleware.StreamUsage
		members string
		calls   int
	}{
		"another reason":             {&strictServer{status: 400, body: `{"error":{"message":"no"}}`}, middleware.StreamUsageAuto, "", 1},
		"another status":             {&strictServer{status: 404, body: named}, middleware.StreamUsageAuto, "", 1},
		"refused again":              {&strictServer{status: 400, body: named, broken: true}, middleware.StreamUsageAuto, "", 2},
		"the caller's own":           {&strictServer{status: 400, body: named}, middleware.StreamUsageAuto, `,"stream_options":{}`, 1},
		"encoded, another reason":    {&strictServer{status: 400, coding: "gzip", body: encode(t, `{"error":"no"}`, "gzip")}, middleware.StreamUsageAuto, "", 1},
		"not what it says":           {&strictServer{status: 400, coding: "zstd", body: named}, middleware.StreamUsageAuto, "", 1},
		"another coding":             {&strictServer{status: 400, coding: "br", body: "\x1b\x05"}, middleware.StreamUsageAuto, "", 1},
		"a bomb":                     {&strictServer{status: 400, coding: "gzip", body: encode(t, strings.Repeat(" ", 1<<20)+named, "gzip")}, middleware.StreamUsageAuto, "", 1},
		"a long text":                {&strictServer{status: 400, body: named + strings.Repeat(" ", 1<<20)}, middleware.StreamUsageAuto, "", 1},
		"no second attempt":          {&strictServer{status: 400, body: named}, middleware.StreamUsageAlways, "", 1},
		"the caller's, without ours": {&strictServer{status: 400, body: named}, middleware.StreamUsageNever, `,"stream_options":{}`, 1},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			up := tt.up
			s := serve(t, middleware.Options{Client: c, StreamUsage: tt.mode}, up.serve)
			for range 2 {
				a, text := s.post(t, chat, ask(`,"max_tokens":10,"stream":true`+tt.members), "Accept-Encoding", "identity")
				if a.StatusCode != up.status || text != up.body || a.Header.Get("X-Attempt") != "refused" {
					t.Errorf("the caller got %d %.100q, want the refusal", a.StatusCode, text)
				}
				if got := len(up.took()); got != tt.calls {
					t.Errorf("the server got %d calls, want %d", got, tt.calls)
				}
				wantCharge(t, s.result(t), middleware.SourceRejected, 0, 0)
			}
		})
	}
}

func TestParseStreamUsage(t *testing.T) {
	for _, want := range []middleware.StreamUsage{middleware.StreamUsageAuto, middleware.StreamUsageAlways, middleware.StreamUsageNever} {
		if got, err := middleware.ParseStreamUsage(want.String()); got != want || err != nil {
			t.Errorf("ParseStreamUsage(%v) = %v, %v", want, got, err)
		}
	}
	if _, err := middleware.ParseStreamUsage("on"); err == nil || err.Error() != `must be auto, always or never, got "on"` {
		t.Errorf("ParseStreamUsage(on) = %v", err)
	}
}

// A call without a bound is not changed, and is charged for what it generates. With
// bound_output, or if it is degraded, it gets the grant as its bound.
func TestCallsWithoutBound(t *testing.T) {
	for name, tt := range map[string]struct {
		tier, path, members string
		want                string // the bound that the server gets
		header              string
	}{
		"chat":                {"free", chat, "", `null`, ""},
		"tools":               {"free", chat, `,"tools":[{"type":"function"}]`, `null`, ""},
		"no bound":            {"free", chat, `,"max_tokens":-1`, `-1`, ""},
		"null":                {"free", chat, `,"max_tokens":null`, `null`, ""},
		"bounded chat":        {"bounded", chat, "", `1000`, "1000"},
		"bounded null":        {"bounded", chat, `,"max_completion_tokens":null`, `1000`, "1000"},
		"bounded no bound":    {"bounded", chat, `,"max_tokens":-1`, `1000`, "1000"},
		"bounded completions": {"bounded", "/v1/completions", `,"prompt":"a"`, `1000`, "1000"},
		"bounded responses":   {"bounded", "/v1/responses", `,"input":"a"`, `1000`, "1000"},
		"bounded by itself":   {"bounded", chat, `,"max_tokens":5`, `5`, ""},
		"degraded":            {"soft", chat, "", "", ""}, // 2,000 tokens less 1,500 that are used
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			bodies := make(chan string, 2)
			s := serve(t, middleware.Options{Client: c, Identify: identifyAs(tt.tier)}, func(w http.ResponseWriter, r *http.Request) {
				text, _ := io.ReadAll(r.Body)
				bodies <- string(text)
				whole(200, completion("a", `{"prompt_tokens":100,"completion_tokens":1400}`))(w, r)
			})
			if tt.tier == "soft" {
				s.post(t, chat, ask(`,"max_tokens":1400`))
				s.result(t)
				<-bodies
			}
			a, _ := s.post(t, tt.path, ask(tt.members))
			r := s.result(t)
			wantCharge(t, r, middleware.SourceReported, 100, 1400)
			if tt.tier == "soft" {
				tt.want, tt.header = fmt.Sprint(r.GrantedOutputTokens), fmt.Sprint(r.GrantedOutputTokens)
				if r.GrantedOutputTokens >= 500 || r.GrantedOutputTokens < 256 {
					t.Errorf("granted %d, want less than the 500 that are left", r.GrantedOutputTokens)
				}
			}
			var q map[string]json.RawMessage
			if err := json.Unmarshal([]byte(<-bodies), &q); err != nil {
				t.Fatal(err)
			}
			got := "null"
			for _, name := range []string{"max_tokens", "max_completion_tokens", "max_output_tokens"} {
				if n, ok := q[name]; ok && string(n) != "null" {
					got = string(n)
				}
			}
			if got != tt.want || a.Header.Get("X-Bucketring-Granted-Max-Tokens") != tt.header {
				t.Errorf("the server got the bound %s and the caller the header %q, want %s and %q", got, a.Header.Get("X-Bucketring-Granted-Max-Tokens"), tt.want, tt.header)
			}
		})
	}
}

// An estimate never refuses a call for good, and what encoded data may have cost is
// charged if the server does not say what it was.
func TestEstimatesDoNotRefuseForGood(t *testing.T) {
	n, c := start(t)
	handler := whole(200, completion("a", ""))
	s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) { handler(w, r) })
	data := fmt.Sprintf(`{"model":"m","max_tokens":100,"messages":[{"role":"assistant","content":[{"type":"redacted_thinking","data":%q}]}]}`, strings.Repeat("A", 30_000))
	if a, text := s.post(t, chat, data); a.StatusCode != 200 {
		t.Errorf("30 kB of data: %d %s, want 200", a.StatusCode, text)
	}
	if r := s.result(t); r.Source != middleware.SourceEstimated || r.Charged.InputTokens < 10_000 || r.Charged.InputTokens > 10_100 {
		t.Errorf("charged %+v, %s, want 30 kB as text", r.Charged, r.Source)
	}
	n.advance(2 * time.Minute)
	handler = whole(200, completion("a", `{"prompt_tokens":300,"completion_tokens":1}`))
	long := fmt.Sprintf(`{"model":"m","max_tokens":100,"messages":[{"role":"user","content":%q}]}`, strings.Repeat("a ", 50_000))
	if a, text := s.post(t, chat, long); a.StatusCode != 200 {
		t.Fatalf("a text of 100 kB: %d %s, want 200", a.StatusCode, text)
	}
	wantCharge(t, s.result(t), middleware.SourceReported, 300, 1)
	wantUsed(t, c, "free", "tokens", 301)
}
