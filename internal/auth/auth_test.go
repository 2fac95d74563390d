// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	grpccredentials "google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/waittest"
)

const jwtSecret = "0123456789abcdef0123456789abcdef"

// world is an authority, its file and its clock.
type world struct {
	*Authority
	t        *testing.T
	path     string
	registry *prometheus.Registry
	now      time.Time
}

func newWorld(t *testing.T, text string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{t: t, path: filepath.Join(dir, "auth.yaml"), registry: prometheus.NewRegistry(), now: time.Now()}
	w.write(text)
	if err := os.WriteFile(filepath.Join(dir, "secret"), []byte(jwtSecret), 0o600); err != nil {
		t.Fatal(err)
	}
	var err error
	w.Authority, err = New(Options{Path: w.path, Registry: w.registry, Now: func() time.Time { return w.now }, Debounce: time.Millisecond})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func (w *world) write(text string) {
	w.t.Helper()
	next := w.path + ".next"
	if err := os.WriteFile(next, []byte(text), 0o600); err != nil {
		w.t.Fatal(err)
	}
	if err := os.Rename(next, w.path); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) reload(text string) {
	w.t.Helper()
	w.write(text)
	if err := w.Reload(); err != nil {
		w.t.Fatal(err)
	}
}

// from is the context of a gRPC call from an address.
func from(address string, state *tls.ConnectionState) context.Context {
	p := &peer.Peer{Addr: net.TCPAddrFromAddrPort(netip.MustParseAddrPort(address))}
	if state != nil {
		p.AuthInfo = grpccredentials.TLSInfo{State: *state}
	}
	return peer.NewContext(context.Background(), p)
}

const (
	somewhere = "192.0.2.1:1000"
	check     = "/bucketring.v1.RateLimiter/Check"
	hotKeys   = "/bucketring.v1.RateLimiter/HotKeys"
	exchange  = "/bucketring.v1.RateLimiter/Exchange"
)

func bearerOf(token string) metadata.MD {
	if token == "" {
		return nil
	}
	return metadata.Pairs("authorization", "Bearer "+token)
}

// call returns who calls a method, or why not.
func (w *world) call(ctx context.Context, method, token string) string {
	ctx = w.GRPC(ctx, method, bearerOf(token))
	if err := w.Check(ctx); err != nil {
		return fmt.Sprintf("%s: %s", grpcstatus.Code(err), grpcstatus.Convert(err).Message())
	}
	return From(ctx).Caller()
}

func (w *world) want(what, got, want string) {
	w.t.Helper()
	if !strings.HasPrefix(got, want) || want == "" && got != "" {
		w.t.Errorf("%s = %q, want %q", what, got, want)
	}
}

func hashOf(token string) string { return secret.Of(token).String() }

func callersText() string {
	return `callers:
- {name: gateway, scopes: [call], tokens: [` + hashOf("gate-1") + `, ` + hashOf("gate-2") + `]}
- {name: team, scopes: [call], roots: [acme, 'team-*'], tokens: [` + hashOf("team") + `]}
- {name: ops, scopes: [read, admin], tokens: [` + hashOf("ops") + `]}
- {name: prometheus, scopes: [metrics], tokens: [` + hashOf("prom") + `]}
- {name: envoy, scopes: [call], certificates: ['spiffe://x/envoy', envoy.example, 'cn:old-envoy']}
- {name: batch, scopes: [call], claims: {sub: [batch-1, batch-2], groups: writers}}
jwt: {secret_file: secret, issuer: 'https://issuer', audience: nodes}
`
}

func TestTokens(t *testing.T) {
	w := newWorld(t, callersText())
	ctx := from(somewhere, nil)
	for _, test := range []struct{ method, token, want string }{
		{check, "gate-1", "gateway"},
		{check, "gate-2", "gateway"},
		{check, "", "Unauthenticated: credentials are missing: send a token"},
		{check, "gate-3", "Unauthenticated: the token is unknown or revoked"},
		{check, hashOf("gate-1"), "Unauthenticated: the token is unknown"}, // whoever reads the file cannot use it
		{check, "ops", "PermissionDenied: bucketring.v1.RateLimiter/Check needs the scope call; caller ops has read, admin; add it in the file of --auth"},
		{hotKeys, "gate-1", "PermissionDenied: bucketring.v1.RateLimiter/HotKeys needs the scope read"},
		{hotKeys, "ops", "ops"},
		{"/bucketring.v1.RateLimiter/Peek", "ops", "ops"},
		{"/bucketring.v1.RateLimiter/Peek", "gate-1", "gateway"},
		{"/bucketring.v1.RateLimiter/Peek", "prom", "PermissionDenied"},
		{"/bucketring.v1.Any/Thing", "gate-1", "PermissionDenied: bucketring.v1.Any/Thing needs the scope admin"},
		{"/bucketring.v1.Any/Thing", "ops", "ops"},
		{"/grpc.health.v1.Health/Check", "", ""},
		{"/grpc.health.v1.Health/Check", "wrong", ""},
		{"/bucketring.v1.Peer/Exchange", "", ""}, // its handshake proves who it is
		{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "", "Unauthenticated"},
		{"/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", "prom", "prometheus"},
		{"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", "gate-1", "gateway"},
		{"/envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit", "team", "PermissionDenied: envoy.service.ratelimit.v3.RateLimitService/ShouldRateLimit needs the scope call for all roots; caller team has it for acme, team-* only"},
	} {
		w.want(test.method+" with "+test.token, w.call(ctx, test.method, test.token), test.want)
	}
	two := metadata.Pairs("authorization", "Bearer gate-1", "authorization", "Bearer gate-2")
	if err := w.Check(w.GRPC(ctx, check, two)); grpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("two tokens: %v, want Unauthenticated", err)
	}
	if err := w.Check(ctx); grpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("a call that was not looked at: %v, want Unauthenticated", err)
	}
	if err := (*Authority)(nil).Check(ctx); err != nil {
		t.Errorf("without auth: %v", err)
	}
}

func TestMembersNeedKeys(t *testing.T) {
	w := newWorld(t, callersText())
	keys := [][]byte{[]byte("0123456789abcdef")}
	w.options.NodeKeys = func() [][]byte { return keys }
	w.options.PeersProve = func() bool { return len(keys) > 0 }
	ctx := from(somewhere, nil)
	w.want("a member", w.call(ctx, "/bucketring.v1.Peer/Exchange", ""), "")
	w.want("the proxy of a member", w.call(ctx, check, NodeToken(keys[0])), "node")
	w.want("the proxy of a member", w.call(ctx, hotKeys, NodeToken(keys[0])), "PermissionDenied")
	w.want("another cluster", w.call(ctx, check, NodeToken([]byte("another"))), "Unauthenticated")
	keys = nil
	w.want("a member", w.call(ctx, "/bucketring.v1.Peer/Control", "gate-1"), "Unauthenticated: this node has --auth and no cluster key")
}

func TestForKey(t *testing.T) {
	w := newWorld(t, callersText())
	grant := func(token string) *Grant {
		return From(w.GRPC(from(somewhere, nil), "/bucketring.v1.RateLimiter/Peek", bearerOf(token)))
	}
	for _, test := range []struct {
		token, key string
		peek       bool
		want       string
	}{
		{"gate-1", "acme/alice", false, ""},
		{"gate-1", "", false, ""},
		{"team", "acme", false, ""},
		{"team", "acme/alice", false, ""},
		{"team", "team-x/bob", false, ""},
		{"team", "acme2/alice", false, `caller team may not call keys under the root "acme2": its roots are acme, team-*`},
		{"team", "", false, `root ""`},
		{"team", "/acme", false, `root ""`},
		{"team", "globex", true, `root "globex"`},
		{"ops", "globex", true, ""},
		{"ops", "globex", false, `the scope call is needed for the key "globex"; caller ops has read, admin`},
	} {
		err := grant(test.token).ForKey(test.key, test.peek)
		switch {
		case test.want == "" && err != nil:
			t.Errorf("%s for %q: %v", test.token, test.key, err)
		case test.want != "" && (grpcstatus.Code(err) != codes.PermissionDenied || !strings.Contains(err.Error(), test.want)):
			t.Errorf("%s for %q: %v, want PermissionDenied with %q", test.token, test.key, err, test.want)
		}
	}
	if err := (*Grant)(nil).ForKey("x", false); err != nil {
		t.Errorf("without auth: %v", err)
	}
	if err := open.ForKey("x", false); err == nil {
		t.Error("a grant without caller is for a key, want for none")
	}
	team := grant("team")
	if n := testing.AllocsPerRun(100, func() { _ = team.ForKey("team-blue/bob", false) }); n > 0 {
		t.Errorf("ForKey allocates %v times, want 0", n)
	}
}

// certificate returns the state of a connection with a verified client certificate.
func certificate(names ...string) *tls.ConnectionState {
	leaf := &x509.Certificate{Signature: []byte(strings.Join(names, ",") + "12345678"), NotAfter: time.Now().Add(time.Hour)}
	for _, name := range names {
		if common, ok := strings.CutPrefix(name, "cn:"); ok {
			leaf.Subject = pkix.Name{CommonName: common}
		} else if u, err := url.Parse(name); err == nil && u.Scheme != "" {
			leaf.URIs = append(leaf.URIs, u)
		} else {
			leaf.DNSNames = append(leaf.DNSNames, name)
		}
	}
	return &tls.ConnectionState{PeerCertificates: []*x509.Certificate{leaf}, VerifiedChains: [][]*x509.Certificate{{leaf}}}
}

func TestCertificates(t *testing.T) {
	w := newWorld(t, callersText())
	for _, test := range []struct {
		names []string
		want  string
	}{
		{[]string{"spiffe://x/envoy"}, "envoy"},
		{[]string{"other.example", "ENVOY.example"}, "envoy"},
		{[]string{"cn:old-envoy"}, "envoy"},
		{[]string{"old-envoy"}, `Unauthenticated: the client certificate is of no caller: list one of its names ("old-envoy")`},
		{[]string{"cn:envoy.example"}, "Unauthenticated: the client certificate is of no caller"},
		{[]string{"spiffe://x/envoy2"}, "Unauthenticated: the client certificate is of no caller"},
	} {
		w.want(fmt.Sprint(test.names), w.call(from(somewhere, certificate(test.names...)), check, ""), test.want)
	}
	good := certificate("envoy.example")
	w.want("twice", w.call(from(somewhere, good), check, ""), "envoy")
	w.want("twice", w.call(from(somewhere, good), check, ""), "envoy")
	w.want("a token decides", w.call(from(somewhere, good), check, "wrong"), "Unauthenticated")
	unverified := *good
	unverified.VerifiedChains = nil
	w.want("unverified", w.call(from(somewhere, &unverified), check, ""), "Unauthenticated: credentials are missing")
	w.now = w.now.Add(2 * time.Hour)
	w.want("expired", w.call(from(somewhere, good), check, ""), "Unauthenticated: the client certificate has expired")
}

func signed(t *testing.T, key string, claims jwt.MapClaims) string {
	t.Helper()
	token, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(key))
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func jwtClaims(change map[string]any) jwt.MapClaims {
	c := jwt.MapClaims{"iss": "https://issuer", "aud": "nodes", "sub": "batch-1", "groups": []string{"readers", "writers"}, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(c, change)
	return c
}

func TestJWTs(t *testing.T) {
	w := newWorld(t, callersText())
	ctx := from(somewhere, nil)
	for name, test := range map[string]struct{ token, want string }{
		"valid":      {signed(t, jwtSecret, jwtClaims(nil)), "batch"},
		"other sub":  {signed(t, jwtSecret, jwtClaims(map[string]any{"sub": "batch-2"})), "batch"},
		"no caller":  {signed(t, jwtSecret, jwtClaims(map[string]any{"sub": "batch-3"})), "Unauthenticated: the token is valid, but no caller in the file of --auth has its claims"},
		"no group":   {signed(t, jwtSecret, jwtClaims(map[string]any{"groups": []string{"readers"}})), "Unauthenticated: the token is valid, but"},
		"nested":     {signed(t, jwtSecret, jwtClaims(map[string]any{"groups": [][]string{{"writers"}}})), "Unauthenticated: the token is valid, but"},
		"expired":    {signed(t, jwtSecret, jwtClaims(map[string]any{"exp": time.Now().Add(-time.Hour).Unix()})), "Unauthenticated: the token has expired."},
		"wrong key":  {signed(t, strings.Repeat("x", 32), jwtClaims(nil)), "Unauthenticated: the token is not valid: it must be signed by a key that is known here"},
		"issuer":     {signed(t, jwtSecret, jwtClaims(map[string]any{"iss": "https://other"})), `Unauthenticated: the token is not valid: its iss must be "https://issuer"`},
		"audience":   {signed(t, jwtSecret, jwtClaims(map[string]any{"aud": "others"})), `Unauthenticated: the token is not valid: its aud must contain "nodes"`},
		"two points": {"a.b.c", "Unauthenticated: the token is not valid"},
		"too long":   {strings.Repeat("x", 20<<10), "Unauthenticated: the token has more than"},
	} {
		w.want(name, w.call(ctx, check, test.token), test.want)
	}
	token := signed(t, jwtSecret, jwtClaims(nil))
	w.want("the first time", w.call(ctx, check, token), "batch")
	md := bearerOf(token)
	if n := testing.AllocsPerRun(100, func() { w.GRPC(ctx, check, md) }); n > 2 {
		t.Errorf("a JWT that was seen costs %v allocations, want that of the context and one for its hash", n)
	}
	w.reload(strings.ReplaceAll(callersText(), "batch-1, ", ""))
	w.want("after its claims are those of no caller", w.call(ctx, check, token), "Unauthenticated: the token is valid, but")
}

// The keys of JWTs may be replaced without a change of the file.
func TestJWTKeysAreWatched(t *testing.T) {
	w := newWorld(t, callersText())
	ctx, stop := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); w.Run(ctx) }()
	defer func() { stop(); <-done }()
	other := strings.Repeat("o", 32)
	token := signed(t, other, jwtClaims(nil))
	w.want("before", w.call(from(somewhere, nil), check, token), "Unauthenticated")
	path := filepath.Join(filepath.Dir(w.path), "secret")
	if err := os.WriteFile(path+".next", []byte(other), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
	asked := 0
	waittest.Until(t, "the new key", func() bool {
		asked++ // each time from another address, which has had no failures
		return w.call(from(fmt.Sprintf("10.0.%d.%d:1", asked>>8&255, asked&255), nil), check, token) == "batch"
	})
}

func TestHTTP(t *testing.T) {
	w := newWorld(t, callersText())
	request := func(path, header, value string) error {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		r.RemoteAddr = somewhere
		if header != "" {
			r.Header.Set(header, value)
		}
		_, err := w.HTTP(r)
		return err
	}
	basic := func(password string) string {
		r := httptest.NewRequest(http.MethodGet, "/", nil)
		r.SetBasicAuth("anybody", password)
		return r.Header.Get("Authorization")
	}
	for _, test := range []struct{ path, authorization, want string }{
		{"/livez", "", ""},
		{"/readyz", "Bearer wrong", ""},
		{"/safez", "", ""},
		{"/metrics", "", "Unauthenticated"},
		{"/metrics", "Bearer prom", ""},
		{"/metrics", "Bearer ops", ""},
		{"/metrics", "Bearer gate-1", "PermissionDenied"},
		{"/status", "Bearer ops", ""},
		{"/status", "bearer ops", ""},
		{"/status", basic("ops"), ""},
		{"/status", basic("wrong"), "Unauthenticated"},
		{"/", "", ""},
		{"/v1/limits", basic("ops"), ""}, // the page asks for them
		{"/v1/limits", basic("wrong"), "Unauthenticated"},
		{"/v1/owner", basic("ops"), "Unauthenticated"},
		{"/v1/check", basic("gate-1"), "Unauthenticated"}, // browsers send it by themselves
		{"/v1/check", "Bearer gate-1", ""},
		{"/v1/check", "gate-1", "Unauthenticated"},
		{"/v1/forget", "Bearer gate-1", "PermissionDenied"},
		{"/v1/forget", "Bearer ops", ""},
		{"/debug/pprof/", "Bearer gate-1", "PermissionDenied"},
		{"/debug/pprof/", "Bearer ops", ""},
		{"/json", "Bearer team", "PermissionDenied"},
	} {
		got := ""
		if err := request(test.path, "Authorization", test.authorization); err != nil {
			got = grpcstatus.Code(err).String()
		}
		if got != test.want {
			t.Errorf("%s with %q = %q, want %q", test.path, test.authorization, got, test.want)
		}
	}
	post := httptest.NewRequest(http.MethodPost, "/v1/limits", nil)
	post.SetBasicAuth("anybody", "ops")
	if _, err := w.HTTP(post); grpcstatus.Code(err).String() != "Unauthenticated" {
		t.Errorf("POST with a password: %v, want Unauthenticated", err)
	}
	refused, _ := errors.AsType[*Error](request("/v1/check", "", ""))
	if refused == nil || !slices.Equal(refused.Challenges, bearerChallenges) {
		t.Errorf("challenge = %+v, want Bearer", refused)
	}
	if refused, _ = errors.AsType[*Error](request("/status", "", "")); refused == nil || !slices.Equal(refused.Challenges, []string{bearerChallenges[0], passwordChallenge}) {
		t.Errorf("challenge of the page = %+v, want Basic", refused)
	}
}

// metric returns the value of a metric with a label, "" for none.
func (w *world) metric(name, label string) float64 {
	w.t.Helper()
	families, err := w.registry.Gather()
	if err != nil {
		w.t.Fatal(err)
	}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			if f.GetName() == name && (label == "" || m.GetLabel()[0].GetValue() == label) {
				return m.GetCounter().GetValue() + m.GetGauge().GetValue()
			}
		}
	}
	w.t.Fatalf("there is no metric %s %s", name, label)
	return 0
}

// Failures of an address are refused at once when they are too many, and valid credentials
// from there pass all the same.
func TestTooManyFailures(t *testing.T) {
	w := newWorld(t, callersText())
	ctx, valid := from(somewhere, nil), signed(t, jwtSecret, jwtClaims(nil))
	for range maxFailures {
		w.want("a failure", w.call(ctx, check, "wrong"), "Unauthenticated")
	}
	w.want("one more", w.call(ctx, check, "wrong"), "ResourceExhausted: this address has sent too many calls without valid credentials")
	w.want("a valid token", w.call(ctx, check, "gate-1"), "gateway")
	w.want("a valid certificate", w.call(from(somewhere, certificate("envoy.example")), check, ""), "envoy")
	w.want("another address", w.call(from("192.0.2.2:1", nil), check, "wrong"), "Unauthenticated")
	w.want("a valid JWT", w.call(ctx, check, valid), "batch")
	w.want("a JWT that was seen", w.call(ctx, check, valid), "batch")
	w.want("a JWT at the same instant is not verified", w.call(ctx, check, signed(t, jwtSecret, jwtClaims(map[string]any{"n": 1}))), "ResourceExhausted")
	w.now = w.now.Add(suspectEvery)
	w.want("but soon after", w.call(ctx, check, signed(t, jwtSecret, jwtClaims(map[string]any{"n": 1}))), "batch")
	w.now = w.now.Add(window)
	w.want("a minute later", w.call(ctx, check, "wrong"), "Unauthenticated")
	for reason, want := range map[Reason]float64{UnknownToken: maxFailures + 2, TooMany: 2, Missing: 0} {
		if got := w.metric("bucketring_auth_failures_total", reason.String()); got != want {
			t.Errorf("failures %s = %v, want %v", reason, got, want)
		}
	}
}

// A flood from a hundred thousand addresses needs no more memory than one from a few thousand.
func TestFloodIsBounded(t *testing.T) {
	w := newWorld(t, callersText())
	addresses := func() (n int) {
		for i := range w.failures.shards {
			n += len(w.failures.shards[i].addresses)
		}
		return n
	}
	var before, after runtime.MemStats
	flood := func(first, n int) {
		for i := first; i < first+n; i++ {
			w.failures.fail(netip.AddrFrom4([4]byte{10, byte(i >> 16), byte(i >> 8), byte(i)}))
		}
	}
	flood(0, 20_000)
	runtime.GC()
	runtime.ReadMemStats(&before)
	flood(20_000, 100_000)
	runtime.GC()
	runtime.ReadMemStats(&after)
	if n := addresses(); n > shards*maxPerShard {
		t.Errorf("%d addresses are kept, want %d at most", n, shards*maxPerShard)
	}
	if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 1<<20 {
		t.Errorf("the heap has grown by %d bytes in the flood, want less than 1 MiB", grown)
	}
}

// An invalid file changes nothing but the status and the metric.
func TestInvalidFileChangesNothing(t *testing.T) {
	w := newWorld(t, callersText())
	w.write("callers: []")
	if err := w.Reload(); err == nil {
		t.Fatal("Reload of an invalid file = nil, want an error")
	}
	w.want("a caller", w.call(from(somewhere, nil), check, "gate-1"), "gateway")
	s := w.Status()
	if s.Failures != 1 || !strings.Contains(s.LastError, "callers must list at least one caller") || s.Callers != 6 {
		t.Errorf("Status = %+v, want the failure, and 6 callers", s)
	}
	if got := w.metric("bucketring_auth_last_reload_successful", ""); got != 0 {
		t.Errorf("last_reload_successful = %v, want 0", got)
	}
	w.reload(callersText())
	if s := w.Status(); s.LastError != "" || s.Reloads != 1 {
		t.Errorf("Status = %+v, want one reload", s)
	}
}

func (w *world) session(token string) *Session {
	w.t.Helper()
	ctx := w.GRPC(from(somewhere, nil), exchange, bearerOf(token))
	if err := w.Check(ctx); err != nil {
		w.t.Fatal(err)
	}
	ctx, s := w.Open(ctx, exchange)
	if SessionOf(ctx) != s {
		w.t.Error("the context has another session")
	}
	w.t.Cleanup(s.Close)
	return s
}

// A stream ends when its caller may not have it any more, and only then.
func TestSessions(t *testing.T) {
	w := newWorld(t, callersText())
	first, second, team, byJWT := w.session("gate-1"), w.session("gate-2"), w.session("team"), w.session(signed(t, jwtSecret, jwtClaims(nil)))
	ended := func() (list []bool) {
		for _, s := range []*Session{first, second, team, byJWT} {
			list = append(list, s.Err() != nil)
		}
		return list
	}
	want := func(what string, first, second, team, byJWT bool) {
		t.Helper()
		if got, want := fmt.Sprint(ended()), fmt.Sprint([]bool{first, second, team, byJWT}); got != want {
			t.Errorf("%s: ended = %s, want %s", what, got, want)
		}
	}
	want("at first", false, false, false, false)
	w.reload(strings.Replace(callersText(), hashOf("gate-1")+", ", "", 1))
	want("one token revoked", true, false, false, false)
	w.reload(strings.Replace(callersText(), "[acme, 'team-*']", "[globex]", 1))
	want("other roots", true, false, false, false)
	if team.Grant().ForKey("acme/x", false) == nil || team.Grant().ForKey("globex/x", false) != nil {
		t.Error("the stream has its former roots, want the new ones")
	}
	w.reload(strings.Replace(callersText(), "name: team, scopes: [call], roots: [acme, 'team-*']", "name: team, scopes: [read]", 1))
	want("another scope", true, false, true, false)
	w.reload(strings.Replace(callersText(), "groups: writers", "groups: others", 1))
	want("other claims", true, false, true, true)
	if n := w.Status().Streams; n != 4 {
		t.Errorf("open streams = %d, want 4", n)
	}
	second.Close()
	if n := w.Status().Streams; n != 3 {
		t.Errorf("open streams = %d, want 3", n)
	}
}

// A stream does not outlive its JWT.
func TestSessionsExpire(t *testing.T) {
	w := newWorld(t, callersText())
	s := w.session(signed(t, jwtSecret, jwtClaims(nil)))
	if s.timer == nil {
		t.Fatal("the session of a JWT has no timer")
	}
	short := *s.Grant()
	short.expires = w.now.Add(time.Millisecond)
	_, s = w.Open(context.WithValue(context.Background(), grantKey{}, &short), exchange)
	defer s.Close()
	select {
	case <-s.Ended():
	case <-time.After(waittest.Limit):
		t.Fatal("the session has not ended")
	}
}

// A token costs no allocation but that of the context.
func TestGRPCAllocates(t *testing.T) {
	w := newWorld(t, callersText())
	token, hash := NewToken()
	w.reload(strings.Replace(callersText(), hashOf("gate-1"), hash.String(), 1))
	ctx, md := from(somewhere, nil), bearerOf(token)
	if n := testing.AllocsPerRun(100, func() { w.GRPC(ctx, check, md) }); n > 1 {
		t.Errorf("GRPC allocates %v times, want 1", n)
	}
	ctx = w.GRPC(ctx, check, md)
	if n := testing.AllocsPerRun(100, func() { _ = w.Check(ctx); From(ctx) }); n > 0 {
		t.Errorf("Check allocates %v times, want 0", n)
	}
}

func BenchmarkGRPC(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, "auth.yaml")
	token, hash := NewToken()
	if err := os.WriteFile(path, []byte("callers: [{name: a, scopes: [call], tokens: ["+hash.String()+"]}]"), 0o600); err != nil {
		b.Fatal(err)
	}
	a, err := New(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	ctx, md := from(somewhere, nil), bearerOf(token)
	b.ReportAllocs()
	for b.Loop() {
		if a.Check(a.GRPC(ctx, check, md)) != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkForKey(b *testing.B) {
	g := &Grant{caller: &caller{scopes: Call, roots: []pattern{"acme", "globex", "team-*"}}}
	b.ReportAllocs()
	for b.Loop() {
		if g.ForKey("team-blue/bob", false) != nil {
			b.Fatal("refused")
		}
	}
}
