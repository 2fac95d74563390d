// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// logged returns the lines of a log in JSON with a message.
func logged(t testing.TB, log *syncBuffer, message string) (lines []map[string]any) {
	t.Helper()
	for line := range strings.Lines(log.String()) {
		var m map[string]any
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if m["msg"] == message {
			lines = append(lines, m)
		}
	}
	return lines
}

func TestAccessLog(t *testing.T) {
	for _, plain := range []bool{false, true} {
		n, c := start(t)
		log := &syncBuffer{}
		identify := func(r *http.Request) (middleware.Identity, error) {
			if r.Header.Get("Authorization") == "" {
				return middleware.Identity{}, fmt.Errorf("no key was sent")
			}
			return middleware.Identity{Key: "acme/alice", Tier: "free"}, nil
		}
		s := serve(t, middleware.Options{
			Client: c, Identify: identify, AccessLog: middleware.AccessLogOn, AccessLogPlainKeys: plain,
			Logger: slog.New(slog.NewJSONHandler(log, nil)),
		}, whole(200, completion("Because.", usage40)))
		s.post(t, chat, ask(""), "Authorization", "a")
		s.post(t, chat, ask(`,"max_tokens":20000`), "Authorization", "a")
		s.post(t, chat, "{", "Authorization", "a")
		s.post(t, chat, ask(""))
		n.fail("Reserve")
		s.post(t, chat, ask(""), "Authorization", "a")
		var lines []map[string]any
		waittest.Until(t, "5 lines", func() bool { lines = logged(t, log, "call"); return len(lines) == 5 })
		for i, want := range []map[string]any{
			{"outcome": "allowed", "status": 200., "model": "m", "tier": "free", "input_tokens": 40., "output_tokens": 7., "source": "reported", "method": "chat_completions"},
			{"outcome": "denied", "status": 429., "model": "m", "tier": "free", "input_tokens": 0., "source": nil},
			{"outcome": "rejected", "status": 400., "model": nil, "reason": "invalid_value"},
			{"outcome": "rejected", "status": 401., "reason": "invalid_api_key", "key": nil, "key_hash": nil},
			{"outcome": "unreachable", "status": 503., "model": "m", "reason": "limiter_unreachable"},
		} {
			line := lines[i]
			for name, value := range want {
				if line[name] != value {
					t.Errorf("line %d: %s = %v, want %v: %v", i, name, line[name], value, line)
				}
			}
			if key, hash := line["key"], line["key_hash"]; i != 3 && (plain && key != "acme/alice" || !plain && (key != nil || hash != "cb023568eca578b5")) {
				t.Errorf("line %d: key %v, hash %v", i, key, hash)
			}
			first, _ := line["first_byte_ms"].(float64)
			if whole, _ := line["duration_ms"].(float64); first <= 0 || whole < first || whole > float64(waittest.Limit.Milliseconds()) {
				t.Errorf("line %d: first_byte_ms %v, duration_ms %v", i, first, whole)
			}
		}
	}
}

// A sampled log has fewer lines than calls, and off has none.
func TestAccessLogIsSampled(t *testing.T) {
	for _, mode := range []middleware.AccessLog{middleware.AccessLogOff, middleware.AccessLogSampled} {
		log := &syncBuffer{}
		s := serve(t, middleware.Options{
			Client: failingLimiter{}, AccessLog: mode, Logger: slog.New(slog.NewJSONHandler(log, nil)),
			Identify: func(*http.Request) (middleware.Identity, error) { return middleware.Identity{}, fmt.Errorf("unknown") },
		}, nil)
		for range 100 {
			s.post(t, chat, "{}")
		}
		if n := len(logged(t, log, "call")); n > 30 || mode == middleware.AccessLogOff && n > 0 { // 1 is expected; 31 and more happen once in 10^30
			t.Errorf("%v: %d lines for 100 calls", mode, n)
		}
	}
}

func TestTimesByOutcome(t *testing.T) {
	_, c := start(t)
	reg := prometheus.NewRegistry()
	s := serve(t, middleware.Options{Client: c, Registerer: reg}, whole(200, completion("Because.", usage40)))
	s.post(t, chat, ask(""))
	s.post(t, chat, ask(`,"max_tokens":20000`))
	s.post(t, chat, "{")
	for range 2 {
		if r := s.result(t); r.FirstByte <= 0 || r.FirstByte > r.Duration {
			t.Errorf("OnDone(%+v), want the time to the first byte", r)
		}
	}
	lines := samples(reg)
	for _, outcome := range []string{"allowed", "denied", "rejected"} {
		for _, name := range []string{"call", "first_byte"} {
			if want := fmt.Sprintf("bucketring_middleware_%s_seconds_count{outcome=%q} 1", name, outcome); !slices.Contains(lines, want) {
				t.Errorf("metrics lack %s", want)
			}
		}
	}
}

// Charges are counted by tier and model. Models beyond the first 50, and those of calls
// that were charged nothing, have no label of their own.
func TestChargesByTierAndModel(t *testing.T) {
	_, c := start(t)
	reg := prometheus.NewRegistry()
	status, tier := 404, "big"
	s := serve(t, middleware.Options{Client: c, Identify: func(*http.Request) (middleware.Identity, error) {
		return middleware.Identity{Key: "acme/alice", Tier: tier}, nil
	}, Registerer: reg}, func(w http.ResponseWriter, r *http.Request) {
		if status != 200 {
			whole(status, `{}`)(w, r)
			return
		}
		whole(status, completion("Because.", usage40))(w, r)
	})
	call := func(model string) {
		t.Helper()
		s.post(t, chat, strings.Replace(ask(""), `"m"`, fmt.Sprintf("%q", model), 1))
		s.result(t)
	}
	call("no-model")
	status = 200
	for i := range 60 {
		call(fmt.Sprint("model-", i))
	}
	call("model-0")
	tier = "paid" // 40 tokens of input at $1 for a million, and 7 of output at $3
	call("model-0")
	lines := samples(reg)
	for _, want := range []string{
		`bucketring_middleware_charged_tokens_total{kind="input",model="model-0",tier="big"} 20`,
		`bucketring_middleware_charged_tokens_total{kind="output",model="model-0",tier="big"} 14`,
		`bucketring_middleware_charged_tokens_total{kind="cached_input",model="model-49",tier="big"} 30`,
		`bucketring_middleware_charged_tokens_total{kind="input",model="other",tier="big"} 100`,
		`bucketring_middleware_charged_dollars_total{model="model-0",tier="big"} 0`,
		`bucketring_middleware_charged_dollars_total{model="model-0",tier="paid"} 6.1e-05`,
	} {
		if !slices.Contains(lines, want) {
			t.Errorf("metrics lack %s", want)
		}
	}
	if t.Failed() {
		t.Log(strings.Join(slices.DeleteFunc(lines, func(l string) bool { return !strings.Contains(l, "_charged_") }), "\n"))
	}
	if slices.ContainsFunc(lines, func(l string) bool { return strings.Contains(l, "model-50") || strings.Contains(l, "no-model") }) {
		t.Error("the 51st model, or one that was charged nothing, has a label of its own")
	}
}

// syncBuffer is a log that can be read while it is written.
type syncBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}
