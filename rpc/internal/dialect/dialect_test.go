// SPDX-License-Identifier: Apache-2.0

package dialect

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/internal/llm"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 250_000_000, time.UTC)

// in is a limit that resets after d; 0: it has no reset.
func in(d time.Duration, l client.LimitState) client.LimitState {
	if d > 0 {
		l.ResetAt = now.Add(d)
	}
	if l.Capacity == 0 {
		l.Capacity = l.Limit
	}
	return l
}

var (
	rpm    = in(30*time.Second, client.LimitState{Name: "requests", Dimension: "requests", Scope: "acme/alice", Algorithm: "token_bucket", Limit: 60, Remaining: 30, Window: time.Minute})
	tpm    = in(6*time.Second+1, client.LimitState{Name: "tokens", Dimension: "tokens", Scope: "acme/alice", Algorithm: "token_bucket", Limit: 100_000, Remaining: 89_500, Window: time.Minute})
	org    = in(time.Second, client.LimitState{Name: "tokens", Dimension: "tokens", Scope: "acme", Algorithm: "token_bucket", Limit: 5_000_000, Capacity: 500_000, Remaining: 499_499, Window: time.Minute})
	itpm   = in(2*time.Second, client.LimitState{Name: "in", Dimension: "input_tokens", Scope: "acme", Algorithm: "token_bucket", Limit: 10_000, Remaining: 1_499, Window: time.Minute})
	money  = in(11*time.Hour, client.LimitState{Name: "spend", Dimension: "spend", Scope: "acme", Algorithm: "fixed_window", Limit: 1_000_000, Remaining: 50_000, Window: 24 * time.Hour})
	slots  = in(0, client.LimitState{Name: "concurrent", Dimension: "concurrent", Scope: "acme", Algorithm: "concurrency", Limit: 2})
	shadow = in(time.Second, client.LimitState{Name: "watch", Dimension: "tokens", Scope: "acme", Limit: 1, Window: time.Second, Shadow: true})
	huge   = in(time.Second, client.LimitState{Name: "é\"\\\r\n", Dimension: "images", Scope: "acme", Limit: 1 << 53, Remaining: 1 << 53, Window: 1500 * time.Millisecond})
)

func TestHeaders(t *testing.T) {
	for _, tt := range []struct {
		name string
		d    Dialect
		dec  client.Decision
		want map[string]string
	}{
		{"OpenAI", llm.OpenAI, client.Decision{Outcome: client.Allowed, Binding: rpm, Limits: []client.LimitState{rpm, tpm, org, shadow}}, map[string]string{
			"X-Ratelimit-Limit-Requests": "60", "X-Ratelimit-Remaining-Requests": "30", "X-Ratelimit-Reset-Requests": "30s",
			"X-Ratelimit-Limit-Tokens": "100000", "X-Ratelimit-Remaining-Tokens": "89500", "X-Ratelimit-Reset-Tokens": "6.001s",
			"X-Ratelimit-Limit": "60", "X-Ratelimit-Remaining": "30", "X-Ratelimit-Reset": "1772366431",
			"Ratelimit-Policy": `"requests";q=60;w=60, "tokens@acme/alice";q=100000;w=60;qu="tokens", "tokens@acme";q=5000000;w=60;qu="tokens"`,
			"Ratelimit":        `"requests";r=30;t=30, "tokens@acme/alice";r=89500;t=7, "tokens@acme";r=499499;t=1`,
		}},
		{"Anthropic", llm.Anthropic, client.Decision{Outcome: client.Allowed, Binding: itpm, Limits: []client.LimitState{rpm, tpm, itpm}}, map[string]string{
			"Anthropic-Ratelimit-Requests-Limit": "60", "Anthropic-Ratelimit-Requests-Remaining": "30", "Anthropic-Ratelimit-Requests-Reset": "2026-03-01T12:00:31Z",
			"Anthropic-Ratelimit-Tokens-Limit": "10000", "Anthropic-Ratelimit-Tokens-Remaining": "1000", "Anthropic-Ratelimit-Tokens-Reset": "2026-03-01T12:00:03Z",
			"Anthropic-Ratelimit-Input-Tokens-Limit": "10000", "Anthropic-Ratelimit-Input-Tokens-Remaining": "1000", "Anthropic-Ratelimit-Input-Tokens-Reset": "2026-03-01T12:00:03Z",
			"X-Ratelimit-Limit": "10000", "X-Ratelimit-Remaining": "1499", "X-Ratelimit-Reset": "1772366403",
			"Ratelimit-Policy": `"requests";q=60;w=60, "tokens";q=100000;w=60;qu="tokens", "in";q=10000;w=60;qu="input_tokens"`,
			"Ratelimit":        `"requests";r=30;t=30, "tokens";r=89500;t=7, "in";r=1499;t=2`,
		}},
		{"concurrency, spend and an operator's own dimension", llm.OpenAI, client.Decision{Outcome: client.Denied, RetryAfter: time.Second, Binding: slots, Limits: []client.LimitState{slots, money, huge}}, map[string]string{
			"X-Ratelimit-Limit": "2", "X-Ratelimit-Remaining": "0", "X-Ratelimit-Reset": "1772366402",
			"Ratelimit-Policy": `"concurrent";q=2;qu="concurrent-requests", "spend";q=1000000;w=86400;qu="spend", "??\"\\??";q=999999999999999;w=2;qu="images"`,
			"Ratelimit":        `"concurrent";r=0, "spend";r=50000;t=39600, "??\"\\??";r=999999999999999;t=1`,
		}},
		{"a wait", llm.OpenAI, client.Decision{Outcome: client.Allowed, Waited: 1234*time.Millisecond + 1}, map[string]string{"X-Bucketring-Waited-Ms": "1235"}},
		{"no limits", llm.Anthropic, client.Decision{}, map[string]string{}},
	} {
		h := http.Header{}
		SetHeaders(h, tt.d, &tt.dec, now)
		if diff := cmp.Diff(tt.want, flat(h)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", tt.name, diff)
		}
	}
}

func TestDegraded(t *testing.T) {
	h := http.Header{}
	SetDegradedHeaders(h, 800, 256, tpm)
	want := map[string]string{"X-Bucketring-Asked-Max-Tokens": "800", "X-Bucketring-Granted-Max-Tokens": "256", "X-Bucketring-Binding-Limit": "tokens"}
	if diff := cmp.Diff(want, flat(h)); diff != "" {
		t.Errorf("degraded (-want +got):\n%s", diff)
	}
	h = http.Header{}
	SetDegradedHeaders(h, -1, 256, client.LimitState{})
	if diff := cmp.Diff(map[string]string{"X-Bucketring-Granted-Max-Tokens": "256"}, flat(h)); diff != "" {
		t.Errorf("degraded, no bound asked for (-want +got):\n%s", diff)
	}
}

// TestHiddenLimits checks that no header and no body has a number of a hidden limit, and
// that the denial names it.
func TestHiddenLimits(t *testing.T) {
	hidden := money
	hidden.Name, hidden.Hidden, hidden.Limit, hidden.Capacity, hidden.Remaining, hidden.Cost = "org-spend", true, 7_654_321, 7_654_321, 1_234, 4_321
	for _, d := range []Dialect{llm.OpenAI, llm.Anthropic} {
		dec := denied(client.LimitExceeded, 11*time.Hour, hidden)
		dec.Limits = append(dec.Limits, rpm, tpm)
		w := httptest.NewRecorder()
		WriteDenial(w, d, &dec, "m", now)
		all := w.Body.String()
		for name, values := range w.Header() {
			all += name + ": " + strings.Join(values, ", ") + "\n"
		}
		for _, number := range []string{"7654321", "7.65", "7,654,321", "1234", "4321", "7653087", `"spend";`, "2026-03-01T23"} {
			if strings.Contains(all, number) {
				t.Errorf("%v: a hidden limit shows %s in\n%s", d, number, all)
			}
		}
		if !strings.Contains(all, `"message":"Spend limit org-spend of acme exceeded."`) || !strings.Contains(all, `"name":"org-spend","scope":"acme"`) {
			t.Errorf("%v: %s does not name the limit", d, w.Body)
		}
		if got := w.Header().Get("X-Ratelimit-Limit"); got != "60" {
			t.Errorf("%v: X-RateLimit-Limit = %q, want that of the tightest limit that is shown, 60", d, got)
		}
	}
}

// TestClassesAndWaits checks what a denial says of the class of the call and of waiting.
func TestClassesAndWaits(t *testing.T) {
	l := rpm
	l.Headroom, l.Remaining = 24, 0
	const share = "Request limit exceeded: 36 of the 36 requests for class batch used this minute by acme/alice; 24 of 60 are kept for more urgent classes."
	for _, d := range []Dialect{llm.OpenAI, llm.Anthropic} {
		for _, tt := range []struct {
			why    string
			waited time.Duration
			want   string
		}{
			{"", 0, share + `"`},
			{"limit_full", 0, share + ` The call may not wait: as many calls wait at this limit as may."`},
			{"too_late", 0, share + ` The call would have to wait for 7s, which is longer than it may."`},
			{"", 5 * time.Second, share + ` The call has waited for 5s."`},
		} {
			dec := denied(client.LimitExceeded, 7*time.Second, l)
			dec.Priority, dec.WaitRefused, dec.Waited = client.Batch, tt.why, tt.waited
			w := httptest.NewRecorder()
			WriteDenial(w, d, &dec, "m", now)
			if !strings.Contains(w.Body.String(), tt.want) {
				t.Errorf("%v: body %s, want %s in it", d, w.Body, tt.want)
			}
			if got := w.Header().Get(HeaderWaited) != ""; got != (tt.waited > 0) {
				t.Errorf("%v: %s is set: %t, after %v", d, HeaderWaited, got, tt.waited)
			}
		}
	}
}

// TestLimitsOfAModelAreNamed checks the message and the body of a limit that counts each
// model on its own.
func TestLimitsOfAModelAreNamed(t *testing.T) {
	l := rpm
	l.Name, l.PerModel, l.Limit, l.Capacity, l.Remaining = "big-model", true, 5, 5, 0
	for _, d := range []Dialect{llm.OpenAI, llm.Anthropic} {
		dec := denied(client.LimitExceeded, time.Second, l)
		w := httptest.NewRecorder()
		WriteDenial(w, d, &dec, "llama-3-405b", now)
		for _, want := range []string{
			`"message":"Request limit big-model of llama-3-405b exceeded: 5 of 5 requests used this minute by acme/alice."`,
			`"dimension":"requests","name":"big-model","scope":"acme/alice","model":"llama-3-405b"`,
		} {
			if !strings.Contains(w.Body.String(), want) {
				t.Errorf("%v: body %s, want %s in it", d, w.Body, want)
			}
		}
	}
}

// TestAnthropicRemainingIsTrue checks that remaining tokens are not rounded to more than
// there are, nor to nothing.
func TestAnthropicRemainingIsTrue(t *testing.T) {
	for remaining, want := range map[int64]string{0: "0", 1: "1", 400: "400", 999: "999", 1000: "1000", 1499: "1000", 1999: "1000", 89_500: "89000"} {
		l := tpm
		l.Remaining = remaining
		h := http.Header{}
		SetHeaders(h, llm.Anthropic, &client.Decision{Outcome: client.Allowed, Binding: l, Limits: []client.LimitState{l}}, now)
		if got := h.Get("Anthropic-Ratelimit-Tokens-Remaining"); got != want {
			t.Errorf("%d tokens are shown as %s, want %s", remaining, got, want)
		}
	}
}

// flat joins the values of each header.
func flat(h http.Header) map[string]string {
	m := map[string]string{}
	for name, values := range h {
		m[name] = strings.Join(values, " | ")
		if name != http.CanonicalHeaderKey(name) {
			m[name] += " (not canonical)"
		}
	}
	return m
}

// denied is a denial by one limit.
func denied(reason client.Reason, after time.Duration, l client.LimitState) client.Decision {
	return client.Decision{Outcome: client.Denied, Reason: reason, RequestID: "r1", RetryAfter: after, Binding: l, Limits: []client.LimitState{l}}
}

func TestDenial(t *testing.T) {
	const tokenMessage = "Token limit exceeded: 10,500 of 100,000 tokens used this minute by acme/alice."
	tokenFacts := `"limit":100000,"remaining":89500,"reset_at":"2026-03-01T12:00:06.251Z","dimension":"tokens","name":"tokens","scope":"acme/alice"`
	big := tpm
	big.Cost = 120_000
	moneyFacts := `"limit":1000000,"remaining":50000,"reset_at":"2026-03-01T23:00:00.25Z","dimension":"spend","name":"spend","scope":"acme"`
	for _, tt := range []struct {
		name                     string
		d                        Dialect
		dec                      client.Decision
		status                   int
		after, afterMS, tryAgain string
		body                     string
	}{
		{
			"tokens", llm.OpenAI, denied(client.LimitExceeded, 2500*time.Millisecond, tpm), 429, "3", "2500", "true",
			`{"error":{"message":"` + tokenMessage + `","type":"tokens","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":2.5,` + tokenFacts + `,"request_id":"r1"}}`,
		},
		{
			"requests", llm.OpenAI, denied(client.LimitExceeded, 1, rpm), 429, "1", "1", "true",
			`{"error":{"message":"Request limit exceeded: 30 of 60 requests used this minute by acme/alice.","type":"requests","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":0.001,"limit":60,"remaining":30,"reset_at":"2026-03-01T12:00:30.25Z","dimension":"requests","name":"requests","scope":"acme/alice","request_id":"r1"}}`,
		},
		{
			"exactly a minute", llm.OpenAI, denied(client.LimitExceeded, time.Minute, tpm), 429, "60", "60000", "true",
			`{"error":{"message":"` + tokenMessage + `","type":"tokens","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":60,` + tokenFacts + `,"request_id":"r1"}}`,
		},
		{
			"longer than SDKs wait", llm.OpenAI, denied(client.LimitExceeded, time.Minute+1, tpm), 429, "61", "60001", "false",
			`{"error":{"message":"` + tokenMessage + `","type":"tokens","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":60.001,` + tokenFacts + `,"request_id":"r1"}}`,
		},
		{
			"no time", llm.OpenAI, denied(client.LimitExceeded, 0, tpm), 429, "", "", "false",
			`{"error":{"message":"` + tokenMessage + `","type":"tokens","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded",` + tokenFacts + `,"request_id":"r1"}}`,
		},
		{
			"never", llm.OpenAI, denied(client.ExceedsCapacity, 0, big), 429, "", "", "false",
			`{"error":{"message":"Token limit exceeded: this call needs 120,000 tokens, and the limit of acme/alice never grants more than 100,000 tokens at once.","type":"tokens","param":null,"code":"rate_limit_exceeded","reason":"exceeds_capacity",` + tokenFacts + `,"request_id":"r1"}}`,
		},
		{
			"money", llm.OpenAI, denied(client.LimitExceeded, 11*time.Hour, money), 429, "39600", "39600000", "false",
			`{"error":{"message":"Spend limit exceeded: $0.95 of $1.00 used today by acme.","type":"insufficient_quota","param":null,"code":"insufficient_quota","reason":"limit_exceeded","retry_after_seconds":39600,` + moneyFacts + `,"request_id":"r1"}}`,
		},
		{
			"no price", llm.OpenAI, denied(client.NoPrice, 0, client.LimitState{}), 429, "", "", "false",
			`{"error":{"message":"A spend limit applies, and the policy has no price for model \"m\".","type":"insufficient_quota","param":null,"code":"insufficient_quota","reason":"no_price","model":"m","request_id":"r1"}}`,
		},
		{
			"an operator's own", llm.OpenAI, denied(client.LimitExceeded, time.Second, client.LimitState{Dimension: "images", Scope: "<acme>", Limit: 5, Capacity: 5, Window: time.Second}), 429, "1", "1000", "true",
			`{"error":{"message":"Images limit exceeded: 5 of 5 images used this second by <acme>.","type":"images","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":1,"limit":5,"remaining":0,"dimension":"images","scope":"<acme>","request_id":"r1"}}`,
		},
		{
			"Anthropic, tokens", llm.Anthropic, denied(client.LimitExceeded, 2500*time.Millisecond, tpm), 429, "3", "2500", "true",
			`{"type":"error","error":{"type":"rate_limit_error","message":"` + tokenMessage + `","reason":"limit_exceeded","retry_after_seconds":2.5,` + tokenFacts + `},"request_id":"r1"}`,
		},
		{
			"Anthropic, money", llm.Anthropic, denied(client.LimitExceeded, 11*time.Hour, money), 429, "", "", "false",
			`{"type":"error","error":{"type":"rate_limit_error","message":"Spend limit exceeded: $0.95 of $1.00 used today by acme.","reason":"limit_exceeded","retry_after_seconds":39600,` + moneyFacts + `},"request_id":"r1"}`,
		},
	} {
		w := httptest.NewRecorder()
		WriteDenial(w, tt.d, &tt.dec, "m", now)
		h := w.Header()
		got := []string{h.Get("Retry-After"), h.Get("Retry-After-Ms"), h.Get("X-Should-Retry"), h.Get("Cache-Control"), h.Get("Content-Type"), h.Get("Content-Length")}
		want := []string{tt.after, tt.afterMS, tt.tryAgain, "no-store", "application/json", strconv.Itoa(len(tt.body) + 1)}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s: headers (-want +got):\n%s", tt.name, diff)
		}
		if w.Code != tt.status || w.Body.String() != tt.body+"\n" {
			t.Errorf("%s: %d\n%swant %d\n%s", tt.name, w.Code, w.Body, tt.status, tt.body)
		}
		id := "X-Request-Id"
		if tt.d == llm.Anthropic {
			id = "Request-Id"
		}
		if h.Get(id) != "r1" {
			t.Errorf("%s: %s is %q, want r1", tt.name, id, h.Get(id))
		}
	}
}

// TestRetryWithoutResetTime: a denial without a reset time is retried after 1 to 2
// seconds, at random, so that callers do not come back all at once.
func TestRetryWithoutResetTime(t *testing.T) {
	for _, tt := range []struct {
		d      Dialect
		dec    client.Decision
		status int
		what   string // type and code
	}{
		{llm.OpenAI, denied(client.LimitExceeded, 0, slots), 429, "requests rate_limit_exceeded"},
		{llm.OpenAI, denied(client.LimitExceeded, time.Hour, slots), 429, "requests rate_limit_exceeded"},
		{llm.Anthropic, denied(client.LimitExceeded, 0, slots), 429, "rate_limit_error "},
		{llm.OpenAI, denied(client.OwnerUnreachable, 0, money), 503, "server_error owner_unreachable"},
		{llm.OpenAI, denied(client.OwnerUnreachable, time.Hour, money), 503, "server_error owner_unreachable"},
		{llm.OpenAI, denied(client.TableFull, 600*time.Millisecond, client.LimitState{}), 503, "server_error table_full"},
		{llm.OpenAI, denied(client.TableFull, 0, client.LimitState{}), 503, "server_error table_full"},
		{llm.OpenAI, denied(client.IDsFull, 0, client.LimitState{}), 429, "requests rate_limit_exceeded"},
		{llm.Anthropic, denied(client.IDsFull, 0, client.LimitState{}), 429, "rate_limit_error "},
		{llm.Anthropic, denied(client.OwnerUnreachable, 0, tpm), 529, "overloaded_error "},
	} {
		times := map[string]bool{}
		for range 50 {
			w := httptest.NewRecorder()
			WriteDenial(w, tt.d, &tt.dec, "m", now)
			after, err := strconv.Atoi(w.Header().Get("Retry-After"))
			ms, errMS := strconv.Atoi(w.Header().Get("Retry-After-Ms"))
			if err != nil || errMS != nil || ms < 1000 || ms > 2000 || after != (ms+999)/1000 || w.Header().Get("X-Should-Retry") != "true" {
				t.Fatalf("%s: headers %v, want 1 to 2 seconds and true", tt.what, w.Header())
			}
			times[w.Header().Get("Retry-After-Ms")] = true
			var body struct{ Error struct{ Type, Code string } }
			if err := json.Unmarshal(w.Body.Bytes(), &body); err != nil {
				t.Fatal(err)
			}
			if got := body.Error.Type + " " + body.Error.Code; w.Code != tt.status || got != tt.what {
				t.Fatalf("%d %s, want %d %s", w.Code, got, tt.status, tt.what)
			}
		}
		if len(times) < 10 {
			t.Errorf("%s: %d different times of 50, want them spread", tt.what, len(times))
		}
	}
}

func TestError(t *testing.T) {
	for _, tt := range []struct {
		d      Dialect
		status int
		e      Problem
		want   string
	}{
		{
			llm.OpenAI, 400,
			Problem{Message: "n: must be a number", Param: "n", RequestID: "r1"},
			`{"error":{"message":"n: must be a number","type":"invalid_request_error","param":"n","code":null,"request_id":"r1"}}`,
		},
		{llm.OpenAI, 401, Problem{Message: "no key", Code: "invalid_api_key"}, `{"error":{"message":"no key","type":"invalid_request_error","param":null,"code":"invalid_api_key"}}`},
		{llm.OpenAI, 502, Problem{Message: "gone"}, `{"error":{"message":"gone","type":"server_error","param":null,"code":null}}`},
		{llm.OpenAI, 429, Problem{Message: "slow"}, `{"error":{"message":"slow","type":"requests","param":null,"code":null}}`},
		{llm.OpenAI, 503, Problem{Type: "own", Message: "\xff<"}, `{"error":{"message":"\ufffd<","type":"own","param":null,"code":null}}`},
		{llm.Anthropic, 400, Problem{Message: "m", Param: "n", RequestID: "r1"}, `{"type":"error","error":{"type":"invalid_request_error","message":"m"},"request_id":"r1"}`},
		{llm.Anthropic, 401, Problem{}, `{"type":"error","error":{"type":"authentication_error","message":""}}`},
		{llm.Anthropic, 403, Problem{}, `{"type":"error","error":{"type":"permission_error","message":""}}`},
		{llm.Anthropic, 404, Problem{}, `{"type":"error","error":{"type":"not_found_error","message":""}}`},
		{llm.Anthropic, 413, Problem{}, `{"type":"error","error":{"type":"request_too_large","message":""}}`},
		{llm.Anthropic, 429, Problem{}, `{"type":"error","error":{"type":"rate_limit_error","message":""}}`},
		{llm.Anthropic, 502, Problem{}, `{"type":"error","error":{"type":"api_error","message":""}}`},
		{llm.Anthropic, 503, Problem{}, `{"type":"error","error":{"type":"overloaded_error","message":""}}`},
	} {
		w := httptest.NewRecorder()
		WriteError(w, tt.d, tt.status, tt.e)
		if w.Code != tt.status || w.Body.String() != tt.want+"\n" {
			t.Errorf("%d %swant %d %s", w.Code, w.Body, tt.status, tt.want)
		}
	}
}

// TestCallersCannotInjectHeaders through a key, a name or an id.
func TestCallersCannotInjectHeaders(t *testing.T) {
	const evil = "a\r\nSet-Cookie: x=1\x00\x7fé"
	l := client.LimitState{Name: evil, Dimension: evil, Scope: evil, Limit: 1, Capacity: 1, ResetAt: now, Window: time.Second}
	twin := l
	twin.Scope = "other"
	dec := client.Decision{Outcome: client.Denied, Reason: client.LimitExceeded, RequestID: evil, RetryAfter: 1, Binding: l, Limits: []client.LimitState{l, twin}}
	for _, d := range []Dialect{llm.OpenAI, llm.Anthropic} {
		w := httptest.NewRecorder()
		WriteDenial(w, d, &dec, evil, now)
		SetDegradedHeaders(w.Header(), 1, 1, l)
		for name, values := range w.Header() {
			for _, v := range values {
				if strings.ContainsFunc(v, func(r rune) bool { return r < ' ' || r > '~' }) {
					t.Errorf("%v: %s is %q", d, name, v)
				}
			}
		}
		if !json.Valid(w.Body.Bytes()) {
			t.Errorf("%v: body %q, want JSON", d, w.Body)
		}
	}
}

// A denial says how long the call might have waited: what the limit and the call allow.
func TestDenialsSayHowLongACallMayWait(t *testing.T) {
	l := tpm
	l.Exceeded, l.MaxWait = true, 5*time.Second
	dec := client.Decision{
		Outcome: client.Denied, Reason: client.LimitExceeded, RetryAfter: 12 * time.Second, WaitRefused: "too_late",
		Binding: l, Limits: []client.LimitState{l},
	}
	for want, own := range map[string]*time.Duration{"may wait for 5s.": nil, "may wait for 2s.": new(2 * time.Second)} {
		dec.MaxWait = own
		w := httptest.NewRecorder()
		WriteDenial(w, llm.OpenAI, &dec, "m", now)
		if message := Message(&dec, "m"); !strings.Contains(message, want) || !strings.Contains(w.Body.String(), want) {
			t.Errorf("Message() = %q, body %s, want %q in both", message, w.Body, want)
		}
	}
}
