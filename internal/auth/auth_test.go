// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	grpcstatus "google.golang.org/grpc/status"
)

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
