// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	common "github.com/envoyproxy/go-control-plane/envoy/extensions/common/ratelimit/v3"
	rls "github.com/envoyproxy/go-control-plane/envoy/service/ratelimit/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

const envoyRulesText = `
domain: shop
descriptors:
  - key: user
    rate_limit: { unit: day, requests_per_unit: 3 }
  - key: user
    value: banned
    rate_limit: { unit: second, requests_per_unit: 0 }
  - key: user
    value: staff
    rate_limit: { unlimited: true }
  - key: kind
    value: marketing
    descriptors:
      - key: to
        rate_limit: { unit: day, requests_per_unit: 1 }
  - key: trial
    shadow_mode: true
    rate_limit: { unit: hour, requests_per_unit: 1 }
  - key: share
    quota_mode: true
    rate_limit: { unit: hour, requests_per_unit: 1 }
  - key: path
    value: /files/*
    share_threshold: true
    rate_limit: { unit: hour, requests_per_unit: 2 }
  - key: path
    value: /api/*/action
    rate_limit: { unit: hour, requests_per_unit: 1 }
  - key: reads
    rate_limit: { name: reads, unit: hour, requests_per_unit: 1 }
  - key: special
    rate_limit: { unit: hour, requests_per_unit: 2, replaces: [{ name: reads }] }
  - key: tokens
    rate_limit: { unit: month, requests_per_unit: 10_000_000_000 }
`

// midday is in the middle of a day and of an hour, so that no window ends.
func midday() limiter.Time {
	t := time.Date(2026, 2, 18, 12, 30, 0, 0, time.UTC).UnixNano()
	return limiter.Time{Mono: t, Wall: t}
}

// withEnvoy turns Envoy's service on.
func withEnvoy(t *testing.T, rules string) func(*config.Config) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "shop.yaml")
	writeRules(t, path, rules)
	return func(c *config.Config) { c.EnvoyConfig = path }
}

// writeRules replaces a file in one step.
func writeRules(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".new", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".new", path); err != nil {
		t.Fatal(err)
	}
}

// of makes a descriptor: of("k", "v", "k", "v").
func of(entries ...string) *common.RateLimitDescriptor {
	d := &common.RateLimitDescriptor{}
	for i := 0; i < len(entries); i += 2 {
		d.Entries = append(d.Entries, &common.RateLimitDescriptor_Entry{Key: entries[i], Value: entries[i+1]})
	}
	return d
}

// hits sets the hits of a descriptor.
func hits(n uint64, d *common.RateLimitDescriptor) *common.RateLimitDescriptor {
	d.HitsAddend = wrapperspb.UInt64(n)
	return d
}

// giveBack sets negative hits.
func giveBack(n uint64, d *common.RateLimitDescriptor) *common.RateLimitDescriptor {
	d.IsNegativeHits = true
	return hits(n, d)
}

type descriptors = []*common.RateLimitDescriptor

// codesOf formats an answer as "OVER_LIMIT: OK OVER_LIMIT".
func codesOf(r *rls.RateLimitResponse) string {
	text := r.GetOverallCode().String() + ":"
	for _, s := range r.GetStatuses() {
		text += " " + s.GetCode().String()
	}
	return text
}

// TestEnvoyConformance compares the service with envoyproxy/ratelimit, at one node
// and, call by call, at three nodes of a cluster.
func TestEnvoyConformance(t *testing.T) {
	t.Parallel()
	type call struct {
		addend uint32
		ask    descriptors
		want   string
		left   []uint32 // of each descriptor
	}
	const over, ok = "OVER_LIMIT: OVER_LIMIT", "OK: OK"
	cases := []struct {
		name  string
		calls []call
	}{
		{"the limit itself is within the limit", []call{
			{0, descriptors{of("user", "a")}, ok, []uint32{2}},
			{0, descriptors{of("user", "a")}, ok, []uint32{1}},
			{0, descriptors{of("user", "a")}, ok, []uint32{0}},
			{0, descriptors{of("user", "a")}, over, []uint32{0}},
			{0, descriptors{of("user", "other")}, ok, []uint32{2}},
		}},
		{"hits of the request, 0 being 1", []call{
			{2, descriptors{of("user", "b")}, ok, []uint32{1}},
			{0, descriptors{of("user", "b")}, ok, []uint32{0}},
		}},
		{"hits of the descriptor win, and 0 is a look", []call{
			{9, descriptors{hits(3, of("user", "c"))}, ok, []uint32{0}},
			{9, descriptors{hits(0, of("user", "c"))}, ok, []uint32{0}},
			{0, descriptors{hits(1, of("user", "c"))}, over, []uint32{0}},
			{9, descriptors{hits(0, of("user", "c"))}, over, []uint32{0}},
		}},
		{"charged even when over; given back with OK, clamped", []call{
			{0, descriptors{hits(10, of("user", "d"))}, over, []uint32{0}},
			{0, descriptors{giveBack(6, of("user", "d"))}, ok, []uint32{0}}, // 4 are left, more than 3
			{0, descriptors{giveBack(1, of("user", "d"))}, ok, []uint32{0}},
			{0, descriptors{giveBack(99, of("user", "d"))}, ok, []uint32{3}},
		}},
		{"the most special value first", []call{
			{0, descriptors{of("user", "banned")}, over, []uint32{0}},
			{7, descriptors{of("user", "staff")}, ok, []uint32{1<<32 - 1}},
		}},
		{"depth must be the same", []call{
			{0, descriptors{of("kind", "marketing")}, ok, []uint32{0}},
			{0, descriptors{of("kind", "marketing", "to", "1")}, ok, []uint32{0}},
			{0, descriptors{of("kind", "marketing", "to", "1")}, over, []uint32{0}},
			{0, descriptors{of("kind", "marketing", "to", "2")}, ok, []uint32{0}},
			{0, descriptors{of("user", "a", "more", "b")}, ok, []uint32{0}},
		}},
		{"all descriptors are counted, in order; one over is over", []call{
			{0, descriptors{of("user", "e"), hits(4, of("user", "f")), of("nothing", "")}, "OVER_LIMIT: OK OVER_LIMIT OK", []uint32{2, 0, 0}},
			{0, descriptors{of("user", "e"), of("user", "g")}, "OK: OK OK", []uint32{1, 2}},
		}},
		{"shadow", []call{
			{5, descriptors{of("trial", "x")}, ok, []uint32{0}},
			{1, descriptors{of("trial", "x"), of("user", "banned")}, "OVER_LIMIT: OK OVER_LIMIT", []uint32{0, 0}},
		}},
		{"quotas", []call{
			{1, descriptors{of("share", "x"), of("share", "y")}, "OK: OK OK", []uint32{0, 0}},
			{1, descriptors{of("share", "x"), of("share", "z")}, "OK: OVER_LIMIT OK", []uint32{0, 0}},
			{1, descriptors{of("share", "x"), of("share", "z")}, "OVER_LIMIT: OVER_LIMIT OVER_LIMIT", []uint32{0, 0}},
		}},
		{"wildcards", []call{
			{0, descriptors{of("path", "/files/a")}, ok, []uint32{1}},
			{0, descriptors{of("path", "/files/b")}, ok, []uint32{0}},
			{0, descriptors{of("path", "/files/c")}, over, []uint32{0}},
			{0, descriptors{of("path", "/api/1/action")}, ok, []uint32{0}},
			{0, descriptors{of("path", "/api/2/action")}, ok, []uint32{0}},
			{0, descriptors{of("path", "/api/1/action")}, over, []uint32{0}},
			{0, descriptors{of("path", "/api/1/other")}, ok, []uint32{0}},
		}},
		{"replaces", []call{
			{0, descriptors{of("reads", "u"), of("special", "u")}, "OK: OK OK", []uint32{0, 1}},
			{0, descriptors{of("reads", "u")}, ok, []uint32{0}},
			{0, descriptors{of("reads", "u"), of("special", "u")}, "OK: OK OK", []uint32{0, 0}},
		}},
		{"more than 32 bits", []call{
			{0, descriptors{hits(5_000_000_000, of("tokens", "t"))}, ok, []uint32{1<<32 - 1}},
			{0, descriptors{hits(4_000_000_000, of("tokens", "t"))}, ok, []uint32{1_000_000_000}},
			{0, descriptors{hits(4_000_000_000, of("tokens", "t"))}, over, []uint32{0}},
		}},
		{"the policy of the cluster", []call{
			{0, descriptors{of("bucketring.key", "acme", "bucketring.key", "ann"), of("user", "h")}, "OK: OK OK", []uint32{9, 2}},
			{0, descriptors{hits(10, of("bucketring.key", "acme/ann"))}, over, []uint32{9}},
			{0, descriptors{hits(9, of("bucketring.key", "acme/ann"))}, ok, []uint32{0}},
			{0, descriptors{of("bucketring.key", "not//a key")}, over, []uint32{0}},
		}},
	}
	fixed := func(o *Options) { o.Now = midday }
	one := startWith(t, withEnvoy(t, envoyRulesText), fixed)
	three := startEnvoyCluster(t, 3, withEnvoy(t, envoyRulesText), fixed)
	for name, nodes := range map[string][]*running{"one node": {one}, "three nodes": three} {
		var clients []rls.RateLimitServiceClient
		for _, n := range nodes {
			clients = append(clients, rls.NewRateLimitServiceClient(n.dial()))
		}
		asked := 0
		for _, test := range cases {
			for i, c := range test.calls {
				got, err := clients[asked%len(clients)].ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: c.ask, HitsAddend: c.addend})
				asked++
				if err != nil {
					t.Fatalf("%s: %s, call %d: %v", name, test.name, i+1, err)
				}
				if codesOf(got) != c.want {
					t.Errorf("%s: %s, call %d = %s, want %s", name, test.name, i+1, codesOf(got), c.want)
				}
				for j, s := range got.GetStatuses() {
					if s.GetLimitRemaining() != c.left[j] {
						t.Errorf("%s: %s, call %d: descriptor %d has %d left, want %d", name, test.name, i+1, j, s.GetLimitRemaining(), c.left[j])
					}
				}
			}
		}
	}
}

// startEnvoyCluster is startCluster with further options.
func startEnvoyCluster(t *testing.T, n int, edit func(*config.Config), change func(*Options)) []*running {
	t.Helper()
	var nodes []*running
	for i := range n {
		nodes = append(nodes, startWith(t, func(c *config.Config) {
			edit(c)
			c.Name = fmt.Sprintf("n%d", i+1)
			if i > 0 {
				c.Join = []string{nodes[0].GossipAddr()}
			}
		}, change))
	}
	agree(t, nodes...)
	return nodes
}

// TestEnvoyIsExactUnderLoad checks that three nodes under concurrent load admit
// exactly the limit of each counter.
func TestEnvoyIsExactUnderLoad(t *testing.T) {
	t.Parallel()
	nodes := startEnvoyCluster(t, 3, withEnvoy(t, "domain: d\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: 50 } }]\n"), func(o *Options) { o.Now = midday })
	const keys, workers, calls = 8, 9, 60
	var passed [keys]atomic.Int64
	var asking sync.WaitGroup
	for w := range workers {
		client := rls.NewRateLimitServiceClient(nodes[w%len(nodes)].dial())
		asking.Go(func() {
			for i := range calls {
				a, b := i%keys, (i+w+1)%keys
				r, err := client.ShouldRateLimit(t.Context(), &rls.RateLimitRequest{
					Domain: "d", Descriptors: descriptors{of("k", fmt.Sprint(a)), of("k", fmt.Sprint(b))},
				})
				if err != nil {
					t.Error(err)
					return
				}
				for j, key := range []int{a, b} {
					if r.GetStatuses()[j].GetCode() == rls.RateLimitResponse_OK {
						passed[key].Add(1)
					}
				}
			}
		})
	}
	asking.Wait()
	for k := range passed {
		if got := passed[k].Load(); got != 50 {
			t.Errorf("counter %d let %d hits pass, want its limit of 50", k, got)
		}
	}
	owners := 0
	for _, n := range nodes {
		if n.Status().State.Keys > 0 {
			owners++
		}
	}
	if owners < 2 {
		t.Errorf("the counters of one domain are at %d members, want them spread", owners)
	}
}

// rawCodec passes bytes.
type rawCodec struct{}

func (rawCodec) Name() string                  { return "proto" }
func (rawCodec) Marshal(v any) ([]byte, error) { return v.([]byte), nil }
func (rawCodec) Unmarshal(data []byte, v any) error {
	return proto.Unmarshal(data, v.(proto.Message))
}

// TestEnvoyAndTextThatIsNotUTF8 checks that invalid UTF-8 in a header does not bypass
// a limit: Envoy admits a request if the service returns an error.
func TestEnvoyAndTextThatIsNotUTF8(t *testing.T) {
	t.Parallel()
	r := start(t, withEnvoy(t, envoyRulesText))
	entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "user")
	entry = protowire.AppendBytes(protowire.AppendTag(entry, 2, protowire.BytesType), []byte{0xff, 0xfe})
	descriptor := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), entry)
	request := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "shop")
	request = protowire.AppendBytes(protowire.AppendTag(request, 2, protowire.BytesType), descriptor)
	var answer rls.RateLimitResponse
	conn := r.dial()
	if err := conn.Invoke(t.Context(), rls.RateLimitService_ShouldRateLimit_FullMethodName, request, &answer, grpc.ForceCodec(rawCodec{})); err != nil {
		t.Fatalf("ShouldRateLimit = %v, want an answer", err)
	}
	if answer.GetOverallCode() != rls.RateLimitResponse_OVER_LIMIT {
		t.Errorf("ShouldRateLimit = %s, want OVER_LIMIT", answer.GetOverallCode())
	}
	err := conn.Invoke(t.Context(), rls.RateLimitService_ShouldRateLimit_FullMethodName, []byte{0xff}, &answer, grpc.ForceCodec(rawCodec{}))
	if grpcstatus.Code(err) != codes.InvalidArgument {
		t.Errorf("ShouldRateLimit with no message at all = %v, want InvalidArgument", err)
	}
}

func (r *running) envoyHealth(conn *grpc.ClientConn) string {
	r.t.Helper()
	got, err := healthpb.NewHealthClient(conn).Check(r.t.Context(), &healthpb.HealthCheckRequest{Service: envoyHealth})
	if err != nil {
		return err.Error()
	}
	return got.GetStatus().String()
}

func TestEnvoyRulesReload(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "shop.yaml")
	rules := func(limit int) string {
		return fmt.Sprintf("domain: shop\ndescriptors: [{ key: user, rate_limit: { unit: day, requests_per_unit: %d } }]\n", limit)
	}
	writeRules(t, path, rules(5))
	r := startWith(t, func(c *config.Config) { c.EnvoyConfig = path }, func(o *Options) { o.Now = midday })
	conn := r.dial()
	if got := r.envoyHealth(conn); got != "SERVING" {
		t.Errorf("health of the service is %s, want SERVING", got)
	}
	ask := func(n uint64) string {
		got, err := rls.NewRateLimitServiceClient(conn).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors{hits(n, of("user", "a"))}})
		if err != nil {
			return err.Error()
		}
		return codesOf(got)
	}
	if got := ask(5); got != "OK: OK" {
		t.Errorf("5 of 5 hits = %s, want OK", got)
	}
	writeRules(t, path, rules(4))
	waittest.Until(t, "the new rules", func() bool { return ask(0) == "OVER_LIMIT: OVER_LIMIT" }) // what was used stays
	first := r.Status().Envoy

	writeRules(t, path, rules(-1))
	waittest.Until(t, "the complaint", func() bool { return r.Status().Envoy.Files.LastError != "" })
	s := r.Status().Envoy
	if s.Digest != first.Digest || s.Rules != 1 || !strings.Contains(s.Files.LastError, "shop.yaml:2:") {
		t.Errorf("status after a bad file = %+v %+v, want the rules from before and the place of the problem", s, s.Files)
	}
	if list := r.statusPage().Problems; len(list) != 1 || list[0].What != "the rules for Envoy cannot be used, so the previous rules stay in force" || !strings.Contains(list[0].Why, "shop.yaml:2:") {
		t.Errorf("problems of the status page = %+v, want that of the rules", list)
	}
	if _, text := r.get("/metrics"); !strings.Contains(text, "bucketring_envoy_config_last_update_successful 0") {
		t.Error("the metrics do not say that the rules cannot be used")
	}
	failures := s.Files.Failures
	r.Reload() // SIGHUP
	if got := r.Status().Envoy.Files.Failures; got != failures+1 {
		t.Errorf("a reload made %d failures of %d, want one more", got, failures)
	}
	writeRules(t, path, rules(6))
	waittest.Until(t, "the good rules", func() bool { return ask(0) == "OK: OK" })
	if _, text := r.get("/status"); !json.Valid([]byte(text)) || !strings.Contains(text, `"domains":["shop"]`) {
		t.Errorf("/status does not name the domain: %s", text)
	}
}

func TestBadEnvoyRulesAtStart(t *testing.T) {
	t.Parallel()
	c := testConfig(withEnvoy(t, "domain: d\ndescriptor: []\n"))
	n, err := New(Options{Config: c})
	if err == nil {
		t.Fatal(n.Close())
	}
	if !strings.Contains(err.Error(), `did you mean "descriptors"?`) {
		t.Errorf("New = %v, want the problem of the rules", err)
	}
}

// TestNoEnvoyUnlessAsked wants no service where none was turned on: a proxy that
// asks all the same must see an error, and not a cluster without rules.
func TestNoEnvoyUnlessAsked(t *testing.T) {
	t.Parallel()
	r := start(t, nil)
	_, err := rls.NewRateLimitServiceClient(r.dial()).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "d", Descriptors: descriptors{of("k", "v")}})
	if grpcstatus.Code(err) != codes.Unimplemented || r.Status().Envoy != nil {
		t.Errorf("ShouldRateLimit = %v and status %+v, want Unimplemented and none", err, r.Status().Envoy)
	}
}

// TestEnvoyListen wants an address for Envoy alone: no other service is there.
func TestEnvoyListen(t *testing.T) {
	t.Parallel()
	edit := withEnvoy(t, envoyRulesText)
	r := startWith(t, func(c *config.Config) { edit(c); c.EnvoyListen = "127.0.0.1:0" }, func(o *Options) { o.Now = midday })
	conn := dialPlain(t, r.EnvoyAddr())
	for _, c := range []*grpc.ClientConn{conn, r.dial()} { // both doors lead to one counter
		got, err := rls.NewRateLimitServiceClient(c).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", HitsAddend: 2, Descriptors: descriptors{of("user", "a")}})
		if err != nil {
			t.Fatal(err)
		}
		if left := got.GetStatuses()[0].GetLimitRemaining(); (c == conn) != (left == 1) {
			t.Errorf("ShouldRateLimit = %v", got)
		}
	}
	if got := r.envoyHealth(conn); got != "SERVING" {
		t.Errorf("health is %s, want SERVING", got)
	}
	// Probes of the stock server have another name for it.
	if got, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{Service: "ratelimit"}); err != nil || got.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health of ratelimit = %v, %v, want SERVING", got.GetStatus(), err)
	}
	if err := conn.Invoke(context.Background(), "/bucketring.v1.RateLimiter/Check", &emptypb.Empty{}, &emptypb.Empty{}); grpcstatus.Code(err) != codes.Unimplemented {
		t.Errorf("Check at Envoy's address = %v, want Unimplemented", err)
	}
}

// TestEnvoyHTTP wants the HTTP side of the stock server, on the same counters as
// gRPC, and unhealthy before the node is gone.
func TestEnvoyHTTP(t *testing.T) {
	t.Parallel()
	edit := withEnvoy(t, envoyRulesText)
	r := startWith(t, func(c *config.Config) {
		edit(c)
		c.EnvoyHTTP, c.DrainDelay = "127.0.0.1:0", 3*time.Second
	}, func(o *Options) { o.Now = midday })
	visit := func(method, path, body string) (int, string) {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://"+r.EnvoyHTTPAddr()+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			return 0, err.Error()
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return 0, err.Error()
		}
		return resp.StatusCode, string(text)
	}
	const ask = `{"domain":"shop","descriptors":[{"entries":[{"key":"user","value":"http"}],"hitsAddend":"2"}]}`
	if status, text := visit(http.MethodPost, "/json", ask); status != http.StatusOK {
		t.Errorf("POST /json = %d %s, want 200", status, text)
	}
	got, err := rls.NewRateLimitServiceClient(r.dial()).ShouldRateLimit(t.Context(), &rls.RateLimitRequest{Domain: "shop", Descriptors: descriptors{of("user", "http")}})
	if err != nil || got.GetStatuses()[0].GetLimitRemaining() != 0 {
		t.Errorf("ShouldRateLimit after it = %v, %v, want nothing left", got, err)
	}
	if status, text := visit(http.MethodPost, "/json", ask); status != http.StatusTooManyRequests || !strings.Contains(text, "OVER_LIMIT") {
		t.Errorf("POST /json = %d %s, want 429", status, text)
	}
	if status, text := visit(http.MethodGet, "/rlconfig", ""); status != http.StatusOK || !strings.Contains(text, r.Status().Envoy.Digest) {
		t.Errorf("GET /rlconfig = %d %s, want the rules in force", status, text)
	}
	if s := r.Status().Envoy; s.HTTP != r.EnvoyHTTPAddr() || s.HTTP == "" {
		t.Errorf("status has the address %q, want %q", s.HTTP, r.EnvoyHTTPAddr())
	}
	if status, text := visit(http.MethodGet, "/healthcheck", ""); status != http.StatusOK || text != "OK" {
		t.Errorf("GET /healthcheck = %d %s, want 200 OK", status, text)
	}
	r.stop()
	waittest.Until(t, "a probe that is told", func() bool {
		status, text := visit(http.MethodGet, "/healthcheck", "")
		return status == http.StatusServiceUnavailable && strings.Contains(text, "draining")
	})
	if err := r.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
}

// TestEnvoySkewIsShown wants members with other rules to be seen, and not those
// without rules.
func TestEnvoySkewIsShown(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := func(i int) string { return filepath.Join(dir, fmt.Sprintf("rules%d.yaml", i)) }
	rules := func(limit int) string {
		return fmt.Sprintf("domain: d\ndescriptors: [{ key: k, rate_limit: { unit: day, requests_per_unit: %d } }]\n", limit)
	}
	for i := range 3 {
		writeRules(t, path(i), rules(5))
	}
	nodes := startCluster(t, 3, func(i int, c *config.Config) {
		if i < 2 {
			c.EnvoyConfig = path(i)
		}
	})
	digests := func(n *running) string {
		var all []string
		for _, m := range n.Status().Cluster.Members {
			all = append(all, m.EnvoyDigest.String())
		}
		return strings.Join(all, " ")
	}
	short := nodes[0].Status().Envoy.Digest[:16]
	for _, n := range nodes {
		waittest.Until(t, "the digests", func() bool { return digests(n) == short+" "+short+" 0000000000000000" })
		if got := n.Status().Cluster.EnvoySkew; got != nil {
			t.Errorf("%s: skew of the same rules = %v, want none", n.Name(), got)
		}
	}
	writeRules(t, path(1), rules(6))
	nodes[1].Reload()
	for _, n := range nodes {
		waittest.Until(t, "skew", func() bool { return len(n.Status().Cluster.EnvoySkew) == 2 })
	}
	if n := len(nodes[2].Status().Cluster.PolicySkew); n != 0 {
		t.Errorf("%d policies, want the same everywhere", n)
	}
	writeRules(t, path(1), rules(5))
	nodes[1].Reload()
	for _, n := range nodes {
		waittest.Until(t, "no skew", func() bool { return n.Status().Cluster.EnvoySkew == nil })
	}
}
