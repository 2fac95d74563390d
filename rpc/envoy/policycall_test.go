// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

func TestCallsUnderThePolicy(t *testing.T) {
	for name, steps := range map[string][]step{
		"all or nothing": {
			{"any bucketring.key=acme", "OK: OK 3/minute left 2 in 40s"},
			{"any bucketring.key=acme +3", "OVER: OVER 3/minute left 2 in 40s"},
			{"any bucketring.key=acme +2", "OK: OK 3/minute left 0 in 40s"}, // the denied 3 were not charged
		},
		"tokens": {
			{"any bucketring.key=a bucketring.dimension=tokens +70", "OK: OK 100/minute left 30 in 40s"},
			{"any bucketring.key=a bucketring.dimension=output_tokens +40", "OVER: OVER 100/minute left 30 in 40s"},
			{"any bucketring.key=a bucketring.dimension=output_tokens +30", "OK: OK 100/minute left 0 in 40s"},
			{"any bucketring.key=a +0", "OK: OK 100/minute left 0 in 40s"}, // exactly at the limit is within it
		},
		"own dimensions": {
			{"any bucketring.key=a bucketring.dimension=images +5", "OK: OK 5/day left 0 in 11h46m40s"},
			{"any bucketring.key=a bucketring.dimension=images", "OVER: OVER 5/day left 0 in 11h46m40s"},
		},
		"charge even beyond limits": {
			{"any bucketring.key=a bucketring.dimension=tokens bucketring.mode=charge +90", "OK: OK 100/minute left 10 in 40s"},
			{"any bucketring.key=a bucketring.dimension=output_tokens bucketring.mode=charge +90", "OVER: OVER 100/minute left 0 in 40s"},
			{"any bucketring.key=a bucketring.dimension=tokens +0", "OVER: OVER 100/minute left 0 in 40s"},
			{"any bucketring.key=a bucketring.dimension=images bucketring.mode=charge +2", "OVER: OVER 100/minute left 0 in 40s"},
			{"40s", ""},
			{"any bucketring.key=a bucketring.dimension=images bucketring.mode=charge +2", "OK: OK 5/day left 1 in 11h46m0s"},
		},
		"a key of segments": {
			{"any bucketring.key=acme bucketring.key=alice +3", "OK: OK 3/minute left 0 in 40s"},
			{"any bucketring.key=acme/alice", "OVER: OVER 3/minute left 0 in 40s"},
		},
		"other entries are ignored": {
			{"any path=/v1 bucketring.key=a +3", "OK: OK 3/minute left 0 in 40s"},
			{"any path=/v2 bucketring.key=a", "OVER: OVER 3/minute left 0 in 40s"},
		},
		"rules and policy in one request": {
			{"shop user=u; bucketring.key=a", "OK: OK 3/minute left 2 in 40s; OK 3/minute left 2 in 40s"},
			{"shop user=u +3; bucketring.key=a; user=u -1; bucketring.key=b", "OVER: OVER 3/minute left 0 in 40s; OK 3/minute left 1 in 40s; OK 3/minute left 0 in 40s; OK 3/minute left 2 in 40s"},
		},
		"a tier without limits that count": {
			{"any bucketring.key=a bucketring.tier=lone", "OK: OK"},
			{"any bucketring.key=a bucketring.tier=lone +0", "OK: OK"},
		},
	} {
		t.Run(name, func(t *testing.T) { newWorld(t, testRules, nil).run(steps) })
	}
}

// TestInvalidEntriesAreOverTheLimit: invalid values from Envoy's callers are no error,
// since Envoy lets a request pass if it gets an error.
func TestInvalidEntriesAreOverTheLimit(t *testing.T) {
	w := newWorld(t, testRules, func(o *Options) { o.Body = BodyOpenAI })
	for _, test := range []struct{ ask, problem string }{
		{"any bucketring.key=", "key: must not be empty"},
		{"any bucketring.key=/", "key: segments must not be empty"},
		{"any bucketring.key=a bucketring.key=b/c", "bucketring.key: one of several segments must not contain /"},
		{"any bucketring.key=\x01", "key: must be printable"},
		{"any bucketring.key=" + strings.Repeat("x", 257), "key: must be at most 256 bytes"},
		{"any bucketring.key=a bucketring.tier=gold", "tier"},
		{"any bucketring.key=a bucketring.dimension=spend", "must not be spend"},
		{"any bucketring.key=a bucketring.dimension=", "bucketring.dimension: must not be empty"},
		{"any bucketring.key=a bucketring.dimension=token", `bucketring.dimension: looks like a misspelled tokens, got "token"`},
		{"any bucketring.key=a bucketring.dimension=Output_Tokens bucketring.mode=charge", `bucketring.dimension: looks like a misspelled output_tokens, got "Output_Tokens"`},
		{"any bucketring.key=a bucketring.mode=free", `bucketring.mode: must be one of check, charge, got "free"`},
		{"any bucketring.key=a bucketring.mode=charge", "charge needs a dimension other than requests"},
		{"any bucketring.key=a bucketring.dialect=french", "bucketring.dialect: must be one of none, openai, anthropic"},
		{"any bucketring.key=a bucketring.kye=b", "bucketring.kye: unknown entry"},
		{"any bucketring.tier=free", "bucketring.key: must be present"},
		{"any bucketring.key=a 5/minute", "limit: must be absent"},
		{"any bucketring.key=a bucketring.key=b -5", "is_negative_hits: must be false"},
		{"any bucketring.key=a -5", "is_negative_hits: must be false"},
		{"any bucketring.key=a bucketring.dimension=tokens +18446744073709551615", "Token limit tpm exceeded"},
	} {
		r := w.ask(request(test.ask))
		if got := brief(r); !strings.HasPrefix(got, "OVER: OVER") {
			t.Errorf("%q = %s, want OVER", test.ask, got)
		}
		if body := strings.ReplaceAll(string(r.GetRawBody()), `\"`, `"`); !strings.Contains(body, test.problem) {
			t.Errorf("%q: body %s, want it to say %s", test.ask, body, test.problem)
		}
	}
}

// TestDenialsSayWhatRemains: the status, the header and the body of a denial have the same
// number, which is what a smaller call may still use.
func TestDenialsSayWhatRemains(t *testing.T) {
	for _, dialect := range []string{BodyOpenAI, BodyAnthropic} {
		w := newWorld(t, testRules, func(o *Options) { o.Headers, o.Body = "RateLimit", dialect })
		w.run([]step{{"any bucketring.key=a bucketring.dimension=tokens +70", "OK: OK 100/minute left 30 in 40s"}})
		for ask, want := range map[string]int64{
			"any bucketring.key=a bucketring.dimension=tokens +40":  30, // fits later
			"any bucketring.key=a bucketring.dimension=tokens +400": 30, // never fits
			"any bucketring.key=b bucketring.dimension=images +9":   5,
			"shop user=c +9": 0, // a counter counts what it denies
		} {
			r := w.ask(request(ask))
			var body struct {
				Error struct {
					Remaining *int64 `json:"remaining"`
				} `json:"error"`
			}
			if err := json.Unmarshal(r.GetRawBody(), &body); err != nil || body.Error.Remaining == nil {
				t.Fatalf("%s: body %s, want a number that remains", ask, r.GetRawBody())
			}
			status, header := int64(r.GetStatuses()[0].GetLimitRemaining()), headers(r)["RateLimit-Remaining"]
			if status != want || header != fmt.Sprint(want) || *body.Error.Remaining != want {
				t.Errorf("%s: %d in the status, %s in the header, %d in the body remain, want %d", ask, status, header, *body.Error.Remaining, want)
			}
		}
	}
}

// TestHiddenLimits checks that Envoy, which makes headers of statuses, gets no number of a
// hidden limit, and that the limit decides.
func TestHiddenLimits(t *testing.T) {
	w := newWorld(t, testRules, func(o *Options) { o.Headers = "RateLimit" })
	w.run([]step{
		// The tightest limit that is shown is rpm, of which nothing was taken.
		{"any bucketring.key=h bucketring.dimension=art", "OK: OK 3/minute left 3 in 40s"},
		{"any bucketring.key=h +0", "OK: OK 3/minute left 3 in 40s"},
		{"any bucketring.key=h bucketring.dimension=art", "OVER: OVER in 11h46m40s"},
		{"any bucketring.key=h bucketring.dimension=art bucketring.mode=charge +8", "OVER: OVER in 11h46m40s"}, // in debt
		{"any bucketring.key=h +0", "OVER: OVER in 11h46m40s"},
	})
	got := headers(w.ask(request("any bucketring.key=h bucketring.dimension=art")))
	if d := cmp.Diff(map[string]string{"Retry-After": "42400"}, got); d != "" {
		t.Errorf("headers (-want +got):\n%s", d)
	}
}

// TestChargeWithoutASlot: usage is charged even if no slot is free. Envoy ignores the
// answer when a stream has ended.
func TestChargeWithoutASlot(t *testing.T) {
	w := newWorld(t, testRules, nil)
	_, err := w.options.Policy.(*server.Service).Reserve(t.Context(), &pb.ReserveRequest{Key: "a", RequestId: "r", Requests: new(int64(0)), MaxOutputTokens: new(int64(0))})
	if err != nil {
		t.Fatal(err)
	}
	w.run([]step{
		{"any bucketring.key=a bucketring.dimension=images bucketring.mode=charge +2", "OK: OK 5/day left 3 in 11h46m40s"},
		{
			"any bucketring.key=a bucketring.dimension=tokens bucketring.mode=charge +150; bucketring.key=b bucketring.dimension=images bucketring.mode=charge +1",
			"OVER: OVER 100/minute left 0 in 40s; OK 5/day left 4 in 11h46m40s",
		},
		{"any bucketring.key=a bucketring.dimension=images bucketring.mode=charge +1", "OVER: OVER 100/minute left 0 in 40s"},
		{"40s", ""},
		{"any bucketring.key=a +0", "OK: OK 5/day left 2 in 11h46m0s"},
		// The same with a limit of 0.
		{"any bucketring.key=z bucketring.tier=shut bucketring.dimension=images bucketring.mode=charge +1", "OVER: OVER 0/day left 0 in 11h46m0s"},
	})
}

func TestPrefix(t *testing.T) {
	w := newWorld(t, testRules, func(o *Options) { o.Prefix = "x-llm-" })
	w.run([]step{
		{"any x-llm-key=a x-llm-dimension=tokens +100", "OK: OK 100/minute left 0 in 40s"},
		{"any bucketring.key=a +100", "OK: OK"}, // an entry like any other
	})
}

func TestWindowOf(t *testing.T) {
	const day = 24 * time.Hour
	for _, test := range []struct {
		length time.Duration
		want   limiter.Window
	}{
		{time.Second, limiter.Window{Unit: limiter.UnitSecond, Multiple: 1}},
		{90 * time.Second, limiter.Window{Unit: limiter.UnitSecond, Multiple: 90}},
		{10 * time.Minute, limiter.Window{Unit: limiter.UnitMinute, Multiple: 10}},
		{23 * time.Hour, limiter.Window{Unit: limiter.UnitHour, Multiple: 23}},
		{day, limiter.Window{Unit: limiter.UnitDay, Multiple: 1}},
		{7 * day, limiter.Window{Unit: limiter.UnitWeek, Multiple: 1}},
		{28 * day, limiter.Window{Unit: limiter.UnitMonth, Multiple: 1}},
		{31*day + time.Hour, limiter.Window{Unit: limiter.UnitMonth, Multiple: 1}},
		{366 * day, limiter.Window{Unit: limiter.UnitYear, Multiple: 1}},
		{1500 * time.Millisecond, limiter.Window{}},
	} {
		if got := windowOf(test.length); got != test.want {
			t.Errorf("windowOf(%s) = %v, want %v", test.length, got, test.want)
		}
	}
}
