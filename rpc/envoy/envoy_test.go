// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"encoding/json"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/server"
)

const testRules = `
domain: shop
descriptors:
  - { key: user, rate_limit: { unit: minute, requests_per_unit: 3 } }
  - { key: user, value: root, rate_limit: { unlimited: true } }
  - { key: user, value: none, rate_limit: { unit: hour, requests_per_unit: 0 } }
  - { key: tenant, rate_limit: { unit: day, requests_per_unit: 10_000_000_000 } }
  - { key: soft, shadow_mode: true, rate_limit: { unit: minute, requests_per_unit: 1 } }
  - { key: quota, quota_mode: true, rate_limit: { unit: minute, requests_per_unit: 1 } }
  - { key: daily, quota_mode: true, rate_limit: { unit: day, requests_per_unit: 1 } }
  - { key: file, value: "docs/*", share_threshold: true, rate_limit: { unit: hour, requests_per_unit: 2 } }
  - { key: file, value: "own/*", rate_limit: { unit: hour, requests_per_unit: 2 } }
  - { key: read, rate_limit: { name: reads, unit: minute, requests_per_unit: 1 } }
  - { key: write, rate_limit: { unit: minute, requests_per_unit: 5, replaces: [{ name: reads }] } }
  - { key: month, rate_limit: { unit: month, requests_per_unit: 5 } }
  - { key: week, rate_limit: { unit: week, requests_per_unit: 5 } }
  - { key: year, rate_limit: { unit: year, requests_per_unit: 5, unit_multiplier: 10 } }
`

// step is a request and the answer in brief or, without an answer, a time that passes.
type step struct{ ask, want string }

func (w *world) run(steps []step) {
	w.t.Helper()
	for i, s := range steps {
		if s.want == "" {
			d, err := time.ParseDuration(s.ask)
			if err != nil {
				w.t.Fatal(err)
			}
			w.now = w.now.Add(d)
			continue
		}
		if got := brief(w.ask(request(s.ask))); got != s.want {
			w.t.Errorf("step %d: %s = %s, want %s", i+1, s.ask, got, s.want)
		}
	}
}

func TestSemantics(t *testing.T) {
	for name, steps := range map[string][]step{
		"over means more than the limit": {
			{"shop user=a", "OK: OK 3/minute left 2 in 40s"},
			{"shop user=a +2", "OK: OK 3/minute left 0 in 40s"},
			{"shop user=a +0", "OK: OK 3/minute left 0 in 40s"}, // without hits, exactly at the limit is within it
			{"shop user=a", "OVER: OVER 3/minute left 0 in 40s"},
			{"shop user=a +0", "OVER: OVER 3/minute left 0 in 40s"},
			{"shop user=b", "OK: OK 3/minute left 2 in 40s"},
		},
		"the end of a stream is charged even when over": {
			{"shop user=s +3; user=s +0", "OK: OK 3/minute left 0 in 40s; OK 3/minute left 0 in 40s"},
			{"shop user=s +900", "OVER: OVER 3/minute left 0 in 40s"}, // of calls that began before
			{"shop user=s +900", "OVER: OVER 3/minute left 0 in 40s"},
			{"shop user=s -1800", "OK: OK 3/minute left 0 in 40s"}, // all of it was counted
			{"shop user=s -1", "OK: OK 3/minute left 1 in 40s"},
		},
		"hits are charged even when over": {
			{"shop user=a +10", "OVER: OVER 3/minute left 0 in 40s"},
			{"shop user=a -7", "OK: OK 3/minute left 0 in 40s"}, // 10 - 7 = 3
			{"shop user=a +1", "OVER: OVER 3/minute left 0 in 40s"},
		},
		"giving back is answered with OK": {
			{"shop user=a +10; quota=q +9; soft=s +9", "OVER: OVER 3/minute left 0 in 40s; OVER 1/minute left 0 in 40s; OK 1/minute left 0 in 40s"},
			{"shop user=a -1", "OK: OK 3/minute left 0 in 40s"}, // 9 are still more than 3
			{"shop user=a -1; quota=q -1", "OK: OK 3/minute left 0 in 40s; OK 1/minute left 0 in 40s"},
			{"shop user=a -0", "OK: OK 3/minute left 0 in 40s"},
			{"shop user=none -5", "OK: OK 0/hour left 0 in 46m40s"},
			{"shop user=a -1; user=a +0", "OVER: OK 3/minute left 0 in 40s; OVER 3/minute left 0 in 40s"}, // the other descriptor is asked
		},
		"giving back stops at nothing used": {
			{"shop user=a", "OK: OK 3/minute left 2 in 40s"},
			{"shop user=a -50", "OK: OK 3/minute left 3 in 40s"},
			{"shop user=new -5", "OK: OK 3/minute left 3 in 40s"},
			{"shop user=a +3", "OK: OK 3/minute left 0 in 40s"},
		},
		"a window ends": {
			{"shop user=a +9", "OVER: OVER 3/minute left 0 in 40s"},
			{"39.5s", ""},
			{"shop user=a +0", "OVER: OVER 3/minute left 0 in 1s"}, // rounded up
			{"500ms", ""},
			{"shop user=a", "OK: OK 3/minute left 2 in 1m0s"},
		},
		"no rule is no limit": {
			{"shop other=1", "OK: OK"},
			{"ship user=a", "OK: OK"},
			{"shop user=a more=b", "OK: OK"},
			{"shop", "OK: OK"}, // a descriptor without entries
		},
		"unlimited": {
			{"shop user=root +1000000", "OK: OK left 4294967295"},
			{"shop user=root", "OK: OK left 4294967295"},
		},
		"a limit of 0 denies every hit": {
			{"shop user=none", "OVER: OVER 0/hour left 0 in 46m40s"},
			{"shop user=nobody +0", "OK: OK 3/minute left 3 in 40s"},
		},
		"64 bits inside, saturated outside": {
			{"shop tenant=t +4000000000", "OK: OK 4294967295/day left 4294967295 in 11h46m40s"},
			{"shop tenant=t +4000000000", "OK: OK 4294967295/day left 2000000000 in 11h46m40s"},
			{"shop tenant=t +4000000000", "OVER: OVER 4294967295/day left 0 in 11h46m40s"},
			{"shop tenant=t -2000000001", "OK: OK 4294967295/day left 1 in 11h46m40s"},
			{"shop tenant=t +18446744073709551615", "OVER: OVER 4294967295/day left 0 in 11h46m40s"},
		},
		"each descriptor on its own, in order": {
			{"shop user=a +4; user=b; other=1; user=root", "OVER: OVER 3/minute left 0 in 40s; OK 3/minute left 2 in 40s; OK; OK left 4294967295"},
			{"shop user=b +2; user=c", "OK: OK 3/minute left 0 in 40s; OK 3/minute left 2 in 40s"}, // b was charged
			{"shop user=d; user=d", "OK: OK 3/minute left 2 in 40s; OK 3/minute left 1 in 40s"},
		},
		"a rule in shadow counts and passes": {
			{"shop soft=a", "OK: OK 1/minute left 0 in 40s"},
			{"shop soft=a", "OK: OK 1/minute left 0 in 40s"},
			{"shop soft=a; user=x +4", "OVER: OK 1/minute left 0 in 40s; OVER 3/minute left 0 in 40s"},
		},
		"quotas deny if all of them are exhausted": {
			{"shop quota=a; quota=b", "OK: OK 1/minute left 0 in 40s; OK 1/minute left 0 in 40s"},
			{"shop quota=a; quota=c", "OK: OVER 1/minute left 0 in 40s; OK 1/minute left 0 in 40s"},
			{"shop quota=a; quota=b", "OVER: OVER 1/minute left 0 in 40s; OVER 1/minute left 0 in 40s"},
			{"shop quota=a; user=q", "OVER: OVER 1/minute left 0 in 40s; OK 3/minute left 2 in 40s"}, // all quotas there are
			{"shop quota=d; user=q +9", "OVER: OK 1/minute left 0 in 40s; OVER 3/minute left 0 in 40s"},
		},
		"what a wildcard shares": {
			{"shop file=docs/a", "OK: OK 2/hour left 1 in 46m40s"},
			{"shop file=docs/b", "OK: OK 2/hour left 0 in 46m40s"},
			{"shop file=docs/c", "OVER: OVER 2/hour left 0 in 46m40s"},
			{"shop file=docs/*", "OVER: OVER 2/hour left 0 in 46m40s"}, // the wildcard itself shares the counter
			{"shop file=own/a +2", "OK: OK 2/hour left 0 in 46m40s"},
			{"shop file=own/b +2", "OK: OK 2/hour left 0 in 46m40s"},
		},
		"a replaced rule does not count": {
			{"shop read=r", "OK: OK 1/minute left 0 in 40s"},
			{"shop read=s; write=w", "OK: OK; OK 5/minute left 4 in 40s"},
			{"shop read=s", "OK: OK 1/minute left 0 in 40s"},
			{"shop write=w; read=r", "OK: OK 5/minute left 3 in 40s; OK"}, // whatever the order
		},
		"an override": {
			{"shop user=a 5/minute", "OK: OK 5/minute left 4 in 40s"},
			{"shop user=a", "OK: OK 3/minute left 1 in 40s"}, // the same window: what was used stays
			{"shop user=a 1/minute", "OVER: OVER 1/minute left 0 in 40s"},
			{"shop user=a 1/hour", "OK: OK 1/hour left 0 in 46m40s"}, // another one
			{"shop user=a 9/10xminute", "OK: OK 9/10xminute left 8 in 6m40s"},
			{"shop unheard=of 1/day", "OK: OK 1/day left 0 in 11h46m40s"},
			{"shop 5/minute", "OK: OK 5/minute left 4 in 40s"}, // without entries
			{"shop soft=z 1/minute", "OK: OK 1/minute left 0 in 40s"},
			{"shop soft=z 1/minute", "OVER: OVER 1/minute left 0 in 40s"}, // shadow mode belongs to the rule
			{"shop user=a 1/unknown", "OVER: OVER"},
			{"shop user=a 1/200xyear", "OVER: OVER"},
			{"shop user=a 1/0xyear", "OVER: OVER"},
		},
		"months, weeks and decades": {
			{"shop month=a +5", "OK: OK 5/month left 0 in 251h46m40s"}, // until 1 March
			{"shop week=a", "OK: OK 5/week left 4 in 107h46m40s"},      // until Monday
			{"shop year=a", "OK: OK 5/10xyear left 4 in 33899h46m40s"}, // until 2030
			{"251h46m40s", ""},
			{"shop month=a", "OK: OK 5/month left 4 in 744h0m0s"},
		},
	} {
		t.Run(name, func(t *testing.T) { newWorld(t, testRules, nil).run(steps) })
	}
}

func TestAddendOfTheRequest(t *testing.T) {
	for _, test := range []struct {
		of   uint32
		own  *wrapperspb.UInt64Value
		want int64
	}{
		{0, nil, 1},
		{7, nil, 7},
		{math.MaxUint32, nil, math.MaxUint32},
		{7, wrapperspb.UInt64(0), 0},
		{0, wrapperspb.UInt64(3), 3},
		{7, wrapperspb.UInt64(math.MaxUint64), limiter.MaxAmount},
	} {
		got := addend(&rls.RateLimitRequest{HitsAddend: test.of}, &common.RateLimitDescriptor{HitsAddend: test.own})
		if got != test.want {
			t.Errorf("addend(%d, %v) = %d, want %d", test.of, test.own, got, test.want)
		}
	}
}

func TestErrors(t *testing.T) {
	w := newWorld(t, testRules, nil)
	many := request("shop" + strings.Repeat(" user=a;", 1024) + " user=a")
	for name, test := range map[string]struct {
		ask  *rls.RateLimitRequest
		code codes.Code
		text string
	}{
		"no domain":      {request(" user=a"), codes.InvalidArgument, "domain: must not be empty"},
		"no descriptors": {&rls.RateLimitRequest{Domain: "shop"}, codes.InvalidArgument, "descriptors: must not be empty"},
		"too many":       {many, codes.InvalidArgument, "descriptors: must be at most 1024, got 1025"},
	} {
		_, err := w.ShouldRateLimit(t.Context(), test.ask)
		if st := grpcstatus.Convert(err); st.Code() != test.code || st.Message() != test.text {
			t.Errorf("%s: ShouldRateLimit = %v, want %s %q", name, err, test.code, test.text)
		}
	}
	if _, err := newWorld(t, "", nil).ShouldRateLimit(t.Context(), request("shop user=a")); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("without rules: ShouldRateLimit = %v, want Unavailable", err)
	}
	// If a counter cannot be asked, the request fails, and Envoy applies its
	// failure mode.
	w.err = grpcstatus.Error(codes.DeadlineExceeded, "late")
	if _, err := w.ShouldRateLimit(t.Context(), request("shop user=a")); grpcstatus.Code(err) != codes.DeadlineExceeded {
		t.Errorf("ShouldRateLimit = %v, want the counter's error", err)
	}
	w.err, w.counterErr = nil, grpcstatus.Error(codes.Unavailable, "away")
	if _, err := w.ShouldRateLimit(t.Context(), request("shop user=a; bucketring.key=k")); grpcstatus.Code(err) != codes.Unavailable {
		t.Errorf("ShouldRateLimit = %v, want the counter's error", err)
	}
	// If a counter rejects the hits, the descriptor is over its limit.
	w.counterErr = grpcstatus.Error(codes.InvalidArgument, "too much")
	if got := brief(w.ask(request("shop user=a; other=b"))); got != "OVER: OVER; OK" {
		t.Errorf("a counter that rejects the hits = %s, want OVER", got)
	}
}

func TestRulesChange(t *testing.T) {
	w := newWorld(t, "domain: d\ndescriptors: [{ key: k, rate_limit: { unit: hour, requests_per_unit: 5 } }]\n", nil)
	w.run([]step{{"d k=a +4", "OK: OK 5/hour left 1 in 46m40s"}})
	w.SetRules(mustParse(t, "domain: d\ndescriptors: [{ key: k, value: a, rate_limit: { unit: hour, requests_per_unit: 3 } }]\n"))
	w.run([]step{{"d k=a +0", "OVER: OVER 3/hour left 0 in 46m40s"}, {"d k=b", "OK: OK"}})
	w.SetRules(mustParse(t, "domain: d\ndescriptors: [{ key: k, value: a*, rate_limit: { unit: hour, requests_per_unit: 9 } }]\n"))
	w.run([]step{{"d k=a", "OK: OK 9/hour left 4 in 46m40s"}})
}

func TestGlobalShadow(t *testing.T) {
	w := newWorld(t, testRules, func(o *Options) { o.Shadow, o.Headers, o.Body = true, "RateLimit", BodyOpenAI })
	r := w.ask(request("shop user=a +4; bucketring.key=k +9"))
	if got, want := brief(r), "OK: OVER 3/minute left 0 in 40s; OVER 3/minute left 3"; got != want {
		t.Errorf("answer = %s, want %s", got, want)
	}
	if len(r.GetRawBody()) > 0 || headers(r)["Retry-After"] != "" {
		t.Errorf("an answer in shadow has body %q and headers %v, want neither body nor Retry-After", r.GetRawBody(), headers(r))
	}
	w.run([]step{{"shop user=a -1", "OK: OK 3/minute left 0 in 40s"}}) // it was counted
}

func TestHeaders(t *testing.T) {
	w := newWorld(t, testRules, func(o *Options) { o.Headers = "X-RateLimit" })
	for _, test := range []struct {
		ask  string
		want map[string]string
	}{
		{"shop other=1", map[string]string{}},
		{"shop user=a; user=b +2", map[string]string{"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "1", "X-RateLimit-Reset": "40"}},
		{"shop user=b +9; user=none; user=c", map[string]string{"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2800", "Retry-After": "2800"}},
		// An exhausted quota beside one that is not is no cause, however long it lasts.
		{"shop daily=a", map[string]string{"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "42400"}},
		{"shop daily=a; quota=a; user=d +9", map[string]string{"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "40", "Retry-After": "40"}},
		{"shop daily=a; quota=b", map[string]string{"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "42400"}},
		// If all quotas are exhausted, the first to reset is enough.
		{"shop daily=a; quota=b", map[string]string{"X-RateLimit-Limit": "1", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "40", "Retry-After": "40"}},
		{"shop daily=a; quota=b; user=none", map[string]string{"X-RateLimit-Limit": "0", "X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "2800", "Retry-After": "2800"}},
		// The call is larger than the limit: waiting does not help.
		{"shop bucketring.key=k +9", map[string]string{"X-RateLimit-Limit": "3", "X-RateLimit-Remaining": "3", "X-RateLimit-Reset": "0"}},
	} {
		if d := cmp.Diff(test.want, headers(w.ask(request(test.ask)))); d != "" {
			t.Errorf("%s: headers (-want +got):\n%s", test.ask, d)
		}
	}
	if got := headers(newWorld(t, testRules, nil).ask(request("shop user=a +9"))); len(got) > 0 {
		t.Errorf("headers without the option: %v, want none", got)
	}
}

func TestBody(t *testing.T) {
	w := newWorld(t, testRules, func(o *Options) { o.Body = BodyOpenAI })
	if r := w.ask(request("shop user=a")); len(r.GetRawBody()) > 0 {
		t.Errorf("a request within its limit has the body %s, want none", r.GetRawBody())
	}
	w.ask(request("shop bucketring.key=tokens bucketring.dimension=tokens +60"))
	w.ask(request("shop bucketring.key=big bucketring.model=llama-3-405b"))
	w.ask(request("shop bucketring.key=art bucketring.dimension=art"))
	w.ask(request("shop daily=a"))
	for _, test := range []struct {
		ask, want string
		headers   map[string]string
	}{
		{
			"shop user=a +9",
			`{"error":{"message":"Rate limit user of shop exceeded: 3 requests per minute. Try again in 40 s.","type":"requests","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":40,"limit":3,"remaining":0,"dimension":"requests","name":"user","scope":"shop"}}`,
			map[string]string{"Content-Type": "application/json", "Retry-After": "40", "x-should-retry": "true"},
		},
		{
			"shop bucketring.key=tokens bucketring.dimension=tokens +60",
			`{"error":{"message":"Token limit tpm exceeded: 60 of 100 tokens used this minute by tokens.","type":"tokens","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":40,"limit":100,"remaining":40,"reset_at":"2026-02-18T12:14:00Z","dimension":"tokens","name":"tpm","scope":"tokens"}}`,
			map[string]string{"Content-Type": "application/json", "Retry-After": "40", "x-should-retry": "true"},
		},
		{
			"shop bucketring.key=big bucketring.model=llama-3-405b",
			`{"error":{"message":"Request limit big-model of llama-3-405b exceeded: 1 of 1 request used this minute by big.","type":"requests","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":40,"limit":1,"remaining":0,"reset_at":"2026-02-18T12:14:00Z","dimension":"requests","name":"big-model","scope":"big","model":"llama-3-405b"}}`,
			map[string]string{"Content-Type": "application/json", "Retry-After": "40", "x-should-retry": "true"},
		},
		{ // tomorrow, and hidden
			"shop bucketring.key=art bucketring.dimension=art",
			`{"error":{"message":"Art limit of art exceeded.","type":"art","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":42400,"dimension":"art","name":"art","scope":"art"}}`,
			map[string]string{"Content-Type": "application/json", "Retry-After": "42400", "x-should-retry": "false"},
		},
		{
			"shop daily=a; daily=b +2",
			`{"error":{"message":"Rate limit daily of shop exceeded: 1 requests per day. Try again in 42400 s.","type":"requests","param":null,"code":"rate_limit_exceeded","reason":"limit_exceeded","retry_after_seconds":42400,"limit":1,"remaining":0,"dimension":"requests","name":"daily","scope":"shop"}}`,
			map[string]string{"Content-Type": "application/json", "Retry-After": "42400", "x-should-retry": "false"},
		},
		{
			"shop bucketring.key=k//k bucketring.dialect=anthropic",
			`{"type":"error","error":{"type":"rate_limit_error","message":"The request is invalid: key: segments must not be empty, got \"k//k\"."}}`,
			map[string]string{"Content-Type": "application/json", "x-should-retry": "false"},
		},
		{"shop bucketring.key=k bucketring.dialect=none +9", "", map[string]string{}},
	} {
		r := w.ask(request(test.ask))
		if got := string(r.GetRawBody()); got != test.want {
			t.Errorf("%s: body\n%s\nwant\n%s", test.ask, got, test.want)
		}
		if test.want != "" && !json.Valid(r.GetRawBody()) {
			t.Errorf("%s: the body is not JSON", test.ask)
		}
		if d := cmp.Diff(test.headers, headers(r)); d != "" {
			t.Errorf("%s: headers (-want +got):\n%s", test.ask, d)
		}
	}
}

func TestMetadata(t *testing.T) {
	w := newWorld(t, `
domain: d
descriptors:
  - { key: a, rate_limit: { unit: day, requests_per_unit: 1 }, metadata: { plan: gold, deep: { x: 1 } } }
  - { key: b, rate_limit: { unit: day, requests_per_unit: 1 }, metadata: { plan: tin, deep: { x: 2, y: 3 }, only: b } }
`, func(o *Options) { o.Metadata = true })
	r := request("d a=1; b=2 7/hour; b=2")
	r.HitsAddend = 1
	want := map[string]any{
		"domain": "d",
		"descriptors": []any{
			map[string]any{"entries": []any{"a=1"}},
			map[string]any{"entries": []any{"b=2"}, "limit": r.GetDescriptors()[1].GetLimit().String()},
			map[string]any{"entries": []any{"b=2"}},
		},
		"hitsAddend": 1.0,
		"metadata":   map[string]any{"plan": "gold", "deep": map[string]any{"x": 1.0, "y": 3.0}, "only": "b"},
	}
	if d := cmp.Diff(want, w.ask(r).GetDynamicMetadata().AsMap()); d != "" {
		t.Errorf("metadata (-want +got):\n%s", d)
	}
	// Now a is over its limit, so only the metadata of b is there. Merging has not
	// changed the rules.
	last := w.ask(request("d a=1 +5; b=9 +1")).GetDynamicMetadata().AsMap()
	want = map[string]any{"plan": "tin", "deep": map[string]any{"x": 2.0, "y": 3.0}, "only": "b"}
	if d := cmp.Diff(want, last["metadata"]); d != "" {
		t.Errorf("metadata of b alone (-want +got):\n%s", d)
	}
	if d := cmp.Diff([]any{map[string]any{"entries": []any{"a=1"}, "hitsAddend": 5.0}, map[string]any{"entries": []any{"b=9"}, "hitsAddend": 1.0}}, last["descriptors"]); d != "" {
		t.Errorf("descriptors (-want +got):\n%s", d)
	}
}

// TestOverloaded: an overloaded node refuses a request, unless it corrects what was used.
func TestOverloaded(t *testing.T) {
	admission := server.NewAdmission(nil)
	w := newWorld(t, "domain: any\ndescriptors: [{key: a, rate_limit: {unit: minute, requests_per_unit: 5}}]", func(o *Options) { o.Admission = admission })
	w.ask(request("any a=b +2"))
	admission.Refuse(overload.Whole)
	for _, text := range []string{"any a=b", "any bucketring.key=k", "any a=b +1; c=d"} {
		if _, err := w.ShouldRateLimit(t.Context(), request(text)); grpcstatus.Code(err) != codes.ResourceExhausted || server.Describe(err).GetRetryAfterMs() == 0 {
			t.Errorf("%q = %v, want an overloaded node", text, err)
		}
	}
	for text, want := range map[string]string{
		"any a=b -1": "OK: OK 5/minute left 4 in 40s",
		"any bucketring.key=k bucketring.dimension=tokens bucketring.mode=charge +90": "OK: OK 100/minute left 10 in 40s",
	} {
		if got := brief(w.ask(request(text))); got != want {
			t.Errorf("%q = %s, want %s", text, got, want)
		}
	}
	answer := httptest.NewRecorder()
	w.HTTP(func() error { return nil }).ServeHTTP(answer, httptest.NewRequest(http.MethodPost, "/json", strings.NewReader(`{"domain":"any","descriptors":[{"entries":[{"key":"a","value":"b"}]}]}`)))
	if answer.Code != http.StatusServiceUnavailable || answer.Header().Get("Retry-After") != "1" {
		t.Errorf("/json = %d, Retry-After %q, want 503 and 1", answer.Code, answer.Header().Get("Retry-After"))
	}
	if got := admission.Refused(); got != 4 {
		t.Errorf("%d refused, want 4", got)
	}
}
