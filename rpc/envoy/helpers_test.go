// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	typev3 "github.com/envoyproxy/go-control-plane/envoy/type/v3"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/envoy/config"
	"github.com/bucketring/bucketring/rpc/server"
)

// epoch is on a Wednesday, in the middle of a month, 13 minutes and 20 seconds after
// the full hour.
const epoch = 1_771_416_800 // 2026-02-18T12:13:20Z

// world is a service on an engine, with a clock that the test sets.
type world struct {
	*Service
	t          *testing.T
	engine     *limiter.Engine
	now        time.Time
	last       []server.Count
	err        error // of Count
	counterErr error // of each counter
}

const testPolicy = `
tiers:
  free:
    limits:
      - { name: rpm, dimension: requests, limit: 3, window: 1m, algorithm: fixed_window }
      - { name: tpm, dimension: tokens, limit: 100, window: 1m, algorithm: fixed_window }
      - { name: images, dimension: images, limit: 5, window: day }
      - { name: slots, dimension: concurrent, limit: 1 }
      - { name: big-model, dimension: requests, limit: 1, window: 1m, algorithm: fixed_window, models: [llama-3-405b] }
      - { dimension: art, limit: 1, window: day, show: false }
  lone: { concurrent: 1 }
  shut:
    limits: [{ name: images, dimension: images, limit: 0, window: day }]
default_tier: free
`

func newWorld(t *testing.T, rules string, edit func(*Options)) *world {
	t.Helper()
	w := &world{t: t, now: time.Unix(epoch, 0).UTC()}
	catalog := limiter.NewCatalog()
	w.engine = limiter.New(limiter.Options{Catalog: catalog})
	p, err := policy.Parse("policy.yaml", []byte(testPolicy), catalog)
	if err != nil {
		t.Fatal(err)
	}
	clock := func() limiter.Time { return limiter.Time{Mono: w.now.UnixNano(), Wall: w.now.UnixNano()} }
	o := Options{
		Counter:  w,
		Policy:   server.New(server.Options{Engine: w.engine, Policy: func() server.Policy { return p }, Now: clock, Name: "n1"}),
		Registry: prometheus.NewRegistry(),
		Now:      func() time.Time { return w.now },
	}
	if edit != nil {
		edit(&o)
	}
	if w.Service, err = New(o); err != nil {
		t.Fatal(err)
	}
	if rules != "" {
		w.SetRules(mustParse(t, rules))
	}
	return w
}

func mustParse(t testing.TB, rules string) *config.Config {
	t.Helper()
	c, err := config.Parse("rules.yaml", []byte(rules))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Count implements Counter.
func (w *world) Count(_ context.Context, hits []server.Count) ([]server.Counted, error) {
	w.last = hits
	if w.err != nil {
		return nil, w.err
	}
	out := make([]server.Counted, len(hits))
	for i, h := range hits {
		if w.counterErr != nil {
			out[i].Err = w.counterErr
			continue
		}
		var got limiter.CountResult
		err := w.engine.Count(limiter.Time{Mono: w.now.UnixNano(), Wall: w.now.UnixNano()}, &limiter.CountRequest{
			Key: h.Key, Window: h.Window, Limit: h.Limit, Hits: h.Hits, GiveBack: h.GiveBack,
		}, &got)
		out[i] = server.Counted{
			Err: err, Over: got.Over, Full: got.Full, Limit: h.Limit, Used: got.Used,
			Remaining: max(h.Limit-got.Used, 0), Reset: time.Duration(got.Reset),
		}
	}
	return out, nil
}

// ask sends a request, which must get an answer.
func (w *world) ask(r *rls.RateLimitRequest) *rls.RateLimitResponse {
	w.t.Helper()
	out, err := w.ShouldRateLimit(w.t.Context(), r)
	if err != nil {
		w.t.Fatalf("ShouldRateLimit(%v) = %v, want an answer", r, err)
	}
	return out
}

// request parses "DOMAIN k=v k=v; k=v +5; k=v =0 5/minute": descriptors between
// semicolons, +N and -N for hits, N/UNIT or N/MxUNIT for a limit.
func request(text string) *rls.RateLimitRequest {
	domain, rest, _ := strings.Cut(text, " ")
	r := &rls.RateLimitRequest{Domain: domain}
	for part := range strings.SplitSeq(rest, ";") {
		d := &common.RateLimitDescriptor{}
		for f := range strings.FieldsSeq(part) {
			amount, unit, isLimit := strings.Cut(f, "/")
			n, err := strconv.ParseUint(strings.TrimLeft(f, "+-"), 10, 64)
			switch {
			case err == nil:
				d.HitsAddend, d.IsNegativeHits = wrapperspb.UInt64(n), f[0] == '-'
			case isLimit && !strings.Contains(f, "="):
				d.Limit = limit(amount, unit)
			default:
				k, v, _ := strings.Cut(f, "=")
				d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: k, Value: v})
			}
		}
		r.Descriptors = append(r.Descriptors, d)
	}
	return r
}

func limit(amount, unit string) *common.RateLimitDescriptor_RateLimitOverride {
	n, _ := strconv.ParseUint(amount, 10, 32)
	l := &common.RateLimitDescriptor_RateLimitOverride{RequestsPerUnit: uint32(n)}
	if times, name, ok := strings.Cut(unit, "x"); ok {
		m, _ := strconv.ParseUint(times, 10, 32)
		l.UnitMultiplier, unit = wrapperspb.UInt32(uint32(m)), name
	}
	l.Unit = typev3.RateLimitUnit(typev3.RateLimitUnit_value[strings.ToUpper(unit)])
	return l
}

// brief formats an answer as "OVER: OK 3/min left 1 in 40s; OVER 5/min left 0 in 40s".
func brief(r *rls.RateLimitResponse) string {
	code := func(c rls.RateLimitResponse_Code) string {
		if c == rls.RateLimitResponse_OVER_LIMIT {
			return "OVER"
		}
		return c.String()
	}
	var parts []string
	for _, s := range r.GetStatuses() {
		text := code(s.GetCode())
		if l := s.GetCurrentLimit(); l != nil {
			unit := strings.ToLower(l.GetUnit().String())
			if m := l.GetUnitMultiplier(); m != nil {
				unit = strconv.Itoa(int(m.GetValue())) + "x" + unit
			}
			text += " " + strconv.Itoa(int(l.GetRequestsPerUnit())) + "/" + unit
		}
		if n := s.GetLimitRemaining(); n > 0 || s.GetCurrentLimit() != nil {
			text += " left " + strconv.FormatUint(uint64(n), 10)
		}
		if d := s.GetDurationUntilReset(); d != nil {
			text += " in " + d.AsDuration().String()
		}
		parts = append(parts, text)
	}
	return code(r.GetOverallCode()) + ": " + strings.Join(parts, "; ")
}

// headers returns the headers of an answer by name.
func headers(r *rls.RateLimitResponse) map[string]string {
	m := map[string]string{}
	for _, h := range r.GetResponseHeadersToAdd() {
		m[h.GetKey()] = h.GetValue()
	}
	return m
}
