// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
)

func TestOpenNamesItsTargets(t *testing.T) {
	for spec, want := range map[string]string{
		"client:127.0.0.1:6471,127.0.0.1:6481": "client:127.0.0.1:6471,127.0.0.1:6481",
		"client:localhost":                     "client:localhost:6471",
		"client:unix:/run/bucketring.sock":     "client:unix:/run/bucketring.sock",
		"client://localhost":                   "client:localhost:6471",
		"grpc:[::1]:7000":                      "grpc:[::1]:7000",
		"grpc:::1":                             "grpc:[::1]:6471",
		"grpc:[::1]":                           "grpc:[::1]:6471",
		"http://127.0.0.1/":                    "http://127.0.0.1:6470",
		"http://127.0.0.1:80":                  "http://127.0.0.1:80",
		"https://limits.example":               "https://limits.example:6470",
		"redis://127.0.0.1":                    "redis://127.0.0.1:6379",
		"redis://:secret@127.0.0.1:6380/2":     "redis://127.0.0.1:6380/2",
		"redis-lua://me:se%40cret@127.0.0.1/":  "redis-lua://127.0.0.1:6379",
		"rls:127.0.0.1":                        "rls:127.0.0.1:8081",
		"gubernator:127.0.0.1":                 "gubernator:127.0.0.1:1051",
		"openai:http://127.0.0.1:8080/":        "openai:http://127.0.0.1:8080",
		"openai:https://models.example":        "openai:https://models.example:443",
		"anthropic:http://localhost":           "anthropic:http://localhost:80",
		"null:":                                "null:",
		"echo:":                                "echo:",
		"echo:127.0.0.1":                       "echo:127.0.0.1:6471",
		"resp://:secret@127.0.0.1":             "resp://127.0.0.1:6379",
		"throttle://127.0.0.1:7000":            "throttle://127.0.0.1:7000",
		"null:5ms":                             "null:5ms",
	} {
		target, err := Open(spec, Options{})
		if err != nil {
			t.Errorf("Open(%q) = %v", spec, err)
			continue
		}
		if got := target.Name(); got != want {
			t.Errorf("Open(%q).Name() = %q, want %q", spec, got, want)
		}
		if Describe(target) == "" {
			t.Errorf("Describe(%q) is empty", spec)
		}
		if err := target.Close(); err != nil {
			t.Errorf("Open(%q).Close() = %v", spec, err)
		}
	}
}

func TestOpenRejects(t *testing.T) {
	hour := Limit{Requests, 10, time.Hour}
	for _, c := range []struct {
		spec    string
		options Options
		want    string
	}{
		{"", Options{}, "must be one of client:HOST:PORT,…, grpc:HOST:PORT, http://HOST:PORT, "},
		{"localhost:6471", Options{}, "did you mean client:localhost:6471?"},
		{"null", Options{}, "did you mean null:?"},
		{"memcached://127.0.0.1", Options{}, "must be one of"},
		{"redis://:secret@127.0.0.1", Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, "use rediss://"},
		{"redis-lua://127.0.0.1", Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, "use rediss-lua://"},
		{"client:", Options{}, "must be client:HOST:PORT, got no address"},
		{"client:127.0.0.1,,x y", Options{}, "got no address"},
		{"client:127.0.0.1,10.0.0.1", Options{}, "10.0.0.1:6471 is not a loopback address: set TLS, or Insecure"},
		{"client:me:secret@127.0.0.1", Options{}, "without a user or a password"},
		{"grpc:127.0.0.1,127.0.0.2", Options{}, "must have one address"},
		{"grpc:127.0.0.1:0", Options{}, `port: must be a number from 1 to 65535, got "0"`},
		{"grpc:127.0.0.1:http", Options{}, `got "http"`},
		{"grpc:node/1", Options{}, `must be grpc:HOST:PORT, got address "node/1"`},
		{"rls:limits.example", Options{}, "is not a loopback address"},
		{"echo:limits.example", Options{}, "is not a loopback address"},
		{"resp://limits.example", Options{}, "is not a loopback address"},
		{"resp://127.0.0.1/x", Options{}, "database: must be a number"},
		{"throttle://127.0.0.1", Options{Limits: []Limit{{Tokens, 10, time.Minute}}}, "limits[0].dimension: must be requests, got tokens"},
		{"throttle://127.0.0.1", Options{Limits: []Limit{{Requests, 10, time.Millisecond}}}, "limits[0].window: must be whole seconds, got 1ms"},
		{"http://127.0.0.1/v1/check", Options{}, "must be http:HOST:PORT"},
		{"http://limits.example", Options{}, "is not a loopback address"},
		{"http://127.0.0.1", Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, "use https://"},
		{"redis://", Options{}, "got no address"},
		{"redis://10.0.0.1", Options{}, "is not a loopback address"},
		{"redis://secret@127.0.0.1", Options{}, "must have USER:PASSWORD or :PASSWORD"},
		{"redis://:secret%@127.0.0.1", Options{}, "write %25 for %"},
		{"redis://:secret@127.0.0.1/x", Options{}, `database: must be a number of at least 0, got "x"`},
		{"redis://127.0.0.1?db=1", Options{}, "must not have URL parameters"},
		{"redis://127.0.0.1", Options{Limits: []Limit{hour, hour}}, "must be one limit on requests, got 2"},
		{"redis://127.0.0.1", Options{Limits: []Limit{{Tokens, 10, time.Hour}}}, "must be requests, got tokens"},
		{"redis://127.0.0.1", Options{Limits: []Limit{{Requests, 10, time.Millisecond}}}, "must be whole seconds, got 1ms"},
		{"redis-lua://127.0.0.1", Options{Limits: []Limit{hour, hour}}, "limits[1].dimension: must be unique, got requests twice"},
		{"redis-lua://127.0.0.1", Options{Limits: []Limit{{Requests, 10, time.Microsecond}}}, "must be whole milliseconds, got 1µs"},
		{"redis-lua://127.0.0.1", Options{Limits: []Limit{{Tokens, 1 << 40, time.Hour}}}, "limits[0].amount: must be at most 1250999896 for a window of 1h0m0s, got 1099511627776"},
		{"openai:127.0.0.1:8080", Options{}, "must be openai:http://HOST:PORT"},
		{"openai:http://127.0.0.1/v1", Options{}, "must be openai:http:HOST:PORT"},
		{"openai:http://models.example", Options{}, "is not a loopback address"},
		{"anthropic:http://127.0.0.1", Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}}, "use anthropic:https://"},
		{"openai:http://127.0.0.1", Options{KeyHeader: "X Key"}, `key_header: must be the name of a header, got "X Key"`},
		{"null:soon", Options{}, `such as null:5ms, got duration "soon"`},
		{"null:-5ms", Options{}, `got duration "-5ms"`},
		{"null:", Options{Timeout: -1}, "timeout: must not be negative, got -1ns"},
		{"null:", Options{Connections: -1}, "connections: must not be negative, got -1"},
		{"null:", Options{TLS: &tls.Config{MinVersion: tls.VersionTLS13}, Insecure: true}, "insecure: must not be set together with TLS"},
		{"null:", Options{Limits: []Limit{{"spend", 0, 0}}}, `limits[0].dimension: must be one of requests, tokens, input_tokens, output_tokens, got "spend"`},
		{"null:", Options{Limits: []Limit{{Requests, 0, 0}}}, "limits[0].amount: must be positive, got 0\nlimits[0].window: must be positive, got 0s"},
	} {
		target, err := Open(c.spec, c.options)
		if err == nil {
			_ = target.Close()
			t.Errorf("Open(%q, %+v) = nil, want an error with %q", c.spec, c.options, c.want)
			continue
		}
		if !strings.Contains(err.Error(), c.want) {
			t.Errorf("Open(%q) = %v, want %q in it", c.spec, err, c.want)
		}
		if strings.Contains(err.Error(), "secret") {
			t.Errorf("Open(%q) = %v shows the password", c.spec, err)
		}
	}
}

func TestKinds(t *testing.T) {
	seen := map[string]bool{}
	for _, k := range Kinds() {
		if seen[k.Name] || !strings.HasPrefix(k.Syntax, k.Name+":") {
			t.Errorf("kind %q has syntax %q", k.Name, k.Syntax)
		}
		seen[k.Name] = true
		for _, text := range []string{k.Measures, k.Limitations} {
			if !strings.HasSuffix(text, ".") {
				t.Errorf("kind %s: %q is not a sentence", k.Name, text)
			}
		}
	}
	Kinds()[0].Name = "changed"
	if Kinds()[0].Name != "client" {
		t.Error("Kinds() can be changed from outside")
	}
}

func TestNull(t *testing.T) {
	target := open(t, "null:", Options{})
	if got := storm(t, target, 10_000, bench.Call{Key: "acme"}); got != 10_000 {
		t.Errorf("allowed %d, want 10,000", got)
	}
	a, err := target.Reserve(t.Context(), &bench.Call{ID: "r", MaxOutputTokens: 800})
	if want := (bench.Answer{Outcome: bench.Allowed, ID: "r", GrantedOutputTokens: 800}); err != nil || a != want {
		t.Errorf("Reserve = %+v, %v, want %+v", a, err, want)
	}
	if _, err := target.Settle(t.Context(), bench.Usage{ID: "r", Final: true}); err != nil {
		t.Errorf("Settle = %v", err)
	}
}

func TestNullDelay(t *testing.T) {
	target := open(t, "null:5ms", Options{})
	start := time.Now()
	check(t, target, bench.Call{Key: "acme"})
	if took := time.Since(start); took < 5*time.Millisecond {
		t.Errorf("took %v, want at least 5ms", took)
	}
	slow := open(t, "null:1h", Options{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := slow.Check(ctx, &bench.Call{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Check = %v, want context.Canceled", err)
	}
	if _, err := slow.Settle(ctx, bench.Usage{}); !errors.Is(err, context.Canceled) {
		t.Errorf("Settle = %v, want context.Canceled", err)
	}
}

func TestDeadlines(t *testing.T) {
	at := silence(t)
	for _, kind := range []string{"client:", "grpc:", "http://", "redis://", "redis-lua://", "rls:", "gubernator:", "openai:http://", "anthropic:http://"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			wantLate(t, kind+at, Options{Timeout: 100 * time.Millisecond})
		})
	}
}

func TestReadyReportsTheLastError(t *testing.T) {
	at := silence(t)
	for _, kind := range []string{"client:", "grpc:", "http://", "redis://", "redis-lua://", "rls:", "gubernator:", "openai:http://", "anthropic:http://"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			target, err := Open(kind+at, Options{Timeout: 20 * time.Millisecond})
			if err != nil {
				t.Fatal(err)
			}
			defer target.Close()
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			defer cancel()
			err = Ready(ctx, target)
			if err == nil || !strings.Contains(err.Error(), "does not answer: ") || !strings.Contains(err.Error(), at) {
				t.Errorf("Ready = %v, want that %s does not answer", err, at)
			}
		})
	}
}

type foreign struct{ bench.Target }

func TestTargetsOfOtherPackages(t *testing.T) {
	if err := Ready(t.Context(), foreign{}); err != nil {
		t.Errorf("Ready = %v, want nil", err)
	}
	if got := Describe(foreign{}); got != "" {
		t.Errorf("Describe = %q, want nothing", got)
	}
}

func TestLease(t *testing.T) {
	for _, c := range []struct {
		hold    time.Duration
		reports int
		want    int64
	}{
		{0, 0, 0},
		{15 * time.Second, 0, 0},
		{15*time.Second + 1, 0, 31},
		{time.Minute, 0, 120},
		{time.Minute, 3, 0},
		{100 * time.Hour, 0, 3600},
	} {
		if got := leaseSeconds(&bench.Call{Duration: c.hold, ProgressReports: c.reports}); got != c.want {
			t.Errorf("lease of %v with %d reports = %d s, want %d", c.hold, c.reports, got, c.want)
		}
	}
}

// Errors of the client library must not contain the key.
func TestErrorsHaveNoKey(t *testing.T) {
	cause := errors.New("unknown reservation")
	if got := withoutKey(fmt.Errorf("settle %s: %w", "acme/alice", cause), "acme/alice"); got.Error() != cause.Error() || !errors.Is(got, cause) {
		t.Errorf("withoutKey = %q, want the cause", got)
	}
	if other := fmt.Errorf("no key: %w", cause); withoutKey(other, "acme/alice").Error() != other.Error() {
		t.Error("withoutKey takes apart an error that says something else")
	}
	if withoutKey(nil, "acme/alice") != nil {
		t.Error("withoutKey makes an error of nothing")
	}
}
