// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
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

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	reflectionpb "google.golang.org/grpc/reflection/grpc_reflection_v1"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/internal/tokenfile"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

// authFile is a file of callers, and the tokens of them.
type authFile struct {
	t      *testing.T
	path   string
	tokens map[string]string
}

func newAuthFile(t *testing.T) *authFile {
	t.Helper()
	f := &authFile{t: t, path: filepath.Join(t.TempDir(), "auth.yaml"), tokens: map[string]string{}}
	f.write("gateway", "team", "ops", "prometheus")
	return f
}

// token returns the token of a caller with a name, which it makes.
func (f *authFile) token(name string) string {
	if f.tokens[name] == "" {
		f.tokens[name], _ = auth.NewToken()
	}
	return f.tokens[name]
}

var callerScopes = map[string]string{
	"gateway": "scopes: [call]", "gateway2": "scopes: [call]", "team": "scopes: [call], roots: [acme, 'team-*']", "ops": "scopes: [read, admin]", "prometheus": "scopes: [metrics]",
}

// write lists callers.
func (f *authFile) write(names ...string) {
	f.t.Helper()
	replaceFile(f.t, f.path, f.text(names...))
}

func (f *authFile) text(names ...string) string {
	text := "callers:\n"
	for _, name := range names {
		text += fmt.Sprintf("- {name: %s, %s, tokens: [%s]}\n", name, callerScopes[name], secret.Of(f.token(name)))
	}
	return text
}

func replaceFile(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path+".next", []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(path+".next", path); err != nil {
		t.Fatal(err)
	}
}

// dialWith connects to a node with a token, "" for none.
func (r *running) dialWith(token string) *grpc.ClientConn {
	r.t.Helper()
	options := []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())}
	if token != "" {
		source, err := tokenfile.Static(token)
		if err != nil {
			r.t.Fatal(err)
		}
		options = append(options, grpc.WithPerRPCCredentials(source))
	}
	conn, err := grpc.NewClient(r.GRPCAddr(), options...)
	if err != nil {
		r.t.Fatal(err)
	}
	r.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// ask sends an HTTP request with a token, "" for none.
func (r *running) ask(method, path, token, body string) (status int, header http.Header, text string) {
	r.t.Helper()
	q, err := http.NewRequest(method, "http://"+r.HTTPAddr()+path, strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	if token != "" {
		q.Header.Set("Authorization", "Bearer "+token)
	}
	resp, err := http.DefaultClient.Do(q)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	all, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(all)
}

// used returns how many requests of a key are charged.
func (f *authFile) used(r *running, key string) int64 {
	r.t.Helper()
	status, _, text := r.ask(http.MethodGet, "/v1/limits?tier=free&key="+key, f.token("ops"), "")
	if status != http.StatusOK {
		r.t.Fatalf("limits of %s = %d %s", key, status, text)
	}
	var answer struct {
		Limits []struct {
			Name             string
			Limit, Remaining int64
		}
	}
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		r.t.Fatal(err)
	}
	for _, l := range answer.Limits {
		if l.Name == "requests" {
			return l.Limit - l.Remaining
		}
	}
	r.t.Fatalf("no limit on requests in %s", text)
	return 0
}

// Each interface of a node refuses who may not call it, says what to do, and charges nothing.
func TestAuthAtEachInterface(t *testing.T) {
	t.Parallel()
	f := newAuthFile(t)
	n := start(t, func(c *config.Config) { c.Auth = f.path })
	for _, test := range []struct {
		method, path, caller, body string
		status                     int
		message                    string
	}{
		{"POST", "/v1/check", "", `{"key":"acme/a","tier":"free"}`, 401, "credentials are missing"},
		{"POST", "/v1/check", "stranger", `{"key":"acme/a","tier":"free"}`, 401, "the token is unknown or revoked"},
		{"POST", "/v1/check", "ops", `{"key":"acme/a","tier":"free"}`, 403, "/v1/check needs the scope call; caller ops has read, admin"},
		{"POST", "/v1/check", "team", `{"key":"globex/a","tier":"free"}`, 403, `caller team may not call keys under the root \"globex\": its roots are acme, team-*`},
		{"POST", "/v1/reserve", "team", `{"key":"globex/a","tier":"free"}`, 403, "globex"},
		{"GET", "/v1/limits?key=globex/a", "team", "", 403, "globex"},
		{"GET", "/status", "", "", 401, "credentials are missing"},
		{"GET", "/status", "gateway", "", 403, "/status needs the scope read"},
		{"GET", "/status", "ops", "", 200, ""},
		{"GET", "/metrics", "gateway", "", 403, "/metrics needs the scope read or metrics"},
		{"GET", "/metrics", "prometheus", "", 200, ""},
		{"GET", "/v1/hotkeys", "gateway", "", 403, "read"},
		{"GET", "/v1/owner?key=a", "gateway", "", 200, ""},
		{"POST", "/v1/forget", "gateway", `{"member":"x"}`, 403, "/v1/forget needs the scope admin"},
		{"POST", "/v1/forget", "ops", `{"member":"x"}`, 404, "no member has the name"},
		{"GET", "/debug/pprof/", "gateway", "", 403, "/debug/pprof/ needs the scope admin"},
		{"GET", "/debug/pprof/", "ops", "", 200, "goroutine"},
		{"POST", "/v1/admin/reset", "", `{"key":"acme/a","tier":"free"}`, 401, "credentials are missing"},
		{"POST", "/v1/admin/reset", "gateway", `{"key":"acme/a","tier":"free"}`, 403, "/v1/admin/reset needs the scope admin"},
		{"POST", "/v1/admin/reset", "ops", `{"key":"acme/a","tier":"free"}`, 200, `"limits":`},
		{"GET", "/livez", "", "", 200, ""},
		{"GET", "/readyz", "", "", 200, ""},
		{"GET", "/none", "", "", 404, "no such path"},
	} {
		token := ""
		if test.caller != "" {
			token = f.token(test.caller)
		}
		status, header, text := n.ask(test.method, test.path, token, test.body)
		if status != test.status || !strings.Contains(text, test.message) {
			t.Errorf("%s %s by %q = %d %s, want %d with %q", test.method, test.path, test.caller, status, text, test.status, test.message)
		}
		if challenge := header.Get("WWW-Authenticate"); (status == 401) != strings.HasPrefix(challenge, "Bearer") {
			t.Errorf("%s by %q: WWW-Authenticate = %q with status %d", test.path, test.caller, challenge, status)
		}
	}
	if used := f.used(n, "acme/a") + f.used(n, "globex/a"); used != 0 {
		t.Errorf("what was refused has charged %d requests, want 0", used)
	}

	ctx := t.Context()
	check := func(token, key string) error {
		_, err := pb.NewRateLimiterClient(n.dialWith(token)).Check(ctx, &pb.CheckRequest{Key: key, Tier: "free"})
		return err
	}
	for _, test := range []struct {
		token, key string
		want       codes.Code
	}{
		{"", "acme/b", codes.Unauthenticated},
		{"wrong", "acme/b", codes.Unauthenticated},
		{f.token("ops"), "acme/b", codes.PermissionDenied},
		{f.token("team"), "globex/b", codes.PermissionDenied},
		{f.token("team"), "acme/b", codes.OK},
		{f.token("gateway"), "acme/b", codes.OK},
	} {
		if err := check(test.token, test.key); grpcstatus.Code(err) != test.want {
			t.Errorf("Check of %s = %v, want %s", test.key, err, test.want)
		}
	}
	if used := f.used(n, "acme/b"); used != 2 {
		t.Errorf("the calls have charged %d requests, want 2", used)
	}
	if _, err := healthpb.NewHealthClient(n.dialWith("")).Check(ctx, &healthpb.HealthCheckRequest{}); err != nil {
		t.Errorf("health: %v", err)
	}
	reflect, err := reflectionpb.NewServerReflectionClient(n.dialWith("")).ServerReflectionInfo(ctx)
	if err == nil {
		_, err = reflect.Recv()
	}
	if grpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("reflection without a token: %v, want Unauthenticated", err)
	}
	if _, err := pb.NewRateLimiterClient(n.dialWith(f.token("gateway"))).HotKeys(ctx, &pb.HotKeysRequest{}); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("HotKeys by a gateway: %v, want PermissionDenied", err)
	}
	member, err := pb.NewPeerClient(n.dialWith(f.token("gateway"))).Exchange(ctx)
	if err == nil {
		_, err = member.Recv()
	}
	if grpcstatus.Code(err) != codes.Unauthenticated || !strings.Contains(err.Error(), "cluster key") {
		t.Errorf("a stream of members without a cluster key: %v, want Unauthenticated", err)
	}
	admin := func(token string) error {
		_, err := pb.NewAdminClient(n.dialWith(token)).ResetLimits(ctx, &pb.ResetLimitsRequest{Key: "acme/a", Tier: "free"})
		return err
	}
	if err := admin(f.token("gateway")); grpcstatus.Code(err) != codes.PermissionDenied {
		t.Errorf("a reset by a gateway: %v, want PermissionDenied", err)
	}
	if err := admin(f.token("ops")); err != nil {
		t.Errorf("a reset by an operator: %v", err)
	}
	if log := n.log.String(); !strings.Contains(log, `caller="ops at 127.0.0.1:`) {
		t.Errorf("the audit log does not name the operator:\n%s", log)
	}
	if log := n.log.String(); strings.Contains(log, f.token("gateway")) || strings.Contains(log, "brt_") {
		t.Error("the log has a token")
	}
}

// In a batch and in a stream, each item is judged by its own root.
func TestAuthOfItems(t *testing.T) {
	t.Parallel()
	f := newAuthFile(t)
	n := start(t, func(c *config.Config) { c.Auth = f.path })
	item := func(key string) *pb.Item {
		return &pb.Item{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: key, Tier: "free"}}}
	}
	items := []*pb.Item{
		item("acme/a"), item("globex/a"), item("team-x/a"), item("team/a"),
		{Call: &pb.Item_Peek{Peek: &pb.PeekRequest{Key: "globex/a"}}},
		{Call: &pb.Item_Settle{Settle: &pb.SettleRequest{Key: "globex/a", RequestId: "x"}}},
		{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: "globex/a", RequestId: "x"}}},
		{Call: &pb.Item_SliceReturn{SliceReturn: &pb.SliceReturn{Key: "globex/a", Slice: "x"}}},
	}
	want := []codes.Code{codes.OK, codes.PermissionDenied, codes.OK, codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied, codes.PermissionDenied}
	judge := func(what string, results []*pb.Result) {
		t.Helper()
		if len(results) != len(want) {
			t.Fatalf("%s has %d results, want %d", what, len(results), len(want))
		}
		for i, r := range results {
			if got := codes.Code(r.GetError().GetCode()); got != want[i] {
				t.Errorf("%s: item %d = %v, want %s", what, i, r, want[i])
			}
		}
	}
	api := pb.NewRateLimiterClient(n.dialWith(f.token("team")))
	batch, err := api.Batch(t.Context(), &pb.BatchRequest{Items: items})
	if err != nil {
		t.Fatal(err)
	}
	judge("batch", batch.GetResults())
	stream, err := api.Exchange(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Send(&pb.Batch{Sequence: 1, Items: items}); err != nil {
		t.Fatal(err)
	}
	answers, err := stream.Recv()
	if err != nil {
		t.Fatal(err)
	}
	judge("stream", answers.GetResults())
	if a, b := f.used(n, "acme/a"), f.used(n, "globex/a"); a != 2 || b != 0 {
		t.Errorf("charged: acme %d, globex %d, want 2 and 0", a, b)
	}
}

// A token that is revoked ends the streams of its caller, and those of others go on.
func TestRevokedToken(t *testing.T) {
	t.Parallel()
	f := newAuthFile(t)
	n := start(t, func(c *config.Config) { c.Auth = f.path })
	open := func(name string) pb.RateLimiter_ExchangeClient {
		stream, err := pb.NewRateLimiterClient(n.dialWith(f.token(name))).Exchange(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return stream
	}
	send := func(s pb.RateLimiter_ExchangeClient, sequence uint64) error {
		err := s.Send(&pb.Batch{Sequence: sequence, Items: []*pb.Item{{Call: &pb.Item_Check{Check: &pb.CheckRequest{Key: "acme/r", Tier: "free"}}}}})
		if err == nil || errors.Is(err, io.EOF) {
			_, err = s.Recv()
		}
		return err
	}
	gateway, team := open("gateway"), open("team")
	watch, err := pb.NewRateLimiterClient(n.dialWith(f.token("gateway"))).Watch(t.Context(), &pb.WatchRequest{})
	if err == nil {
		_, err = watch.Recv()
	}
	if err := errors.Join(err, send(gateway, 1), send(team, 1)); err != nil {
		t.Fatal(err)
	}
	f.write("team", "ops", "prometheus")
	waittest.Until(t, "the new callers", func() bool { return n.Status().Auth.Callers == 3 })
	if err := send(gateway, 2); err == nil {
		t.Error("an item of a revoked caller was answered")
	}
	if err := send(team, 2); err != nil {
		t.Errorf("an item of another caller: %v", err)
	}
	for err = error(nil); err == nil; {
		_, err = watch.Recv()
	}
	if grpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("watch of a revoked caller = %v, want Unauthenticated", err)
	}
	if err := send(open("gateway"), 1); grpcstatus.Code(err) != codes.Unauthenticated {
		t.Errorf("a new stream of a revoked caller = %v, want Unauthenticated", err)
	}
	if used := f.used(n, "acme/r"); used != 3 {
		t.Errorf("charged %d requests, want 3", used)
	}
	replaceFile(t, f.path, "callers: [{name: a}]\n")
	waittest.Until(t, "the problem in the status", func() bool {
		return strings.Contains(n.Status().Auth.LastError, "auth.yaml:1:11: a caller must have scopes")
	})
	if list := n.statusPage().Problems; len(list) != 1 || list[0].What != "the file of callers cannot be used, so the previous callers stay in force" || list[0].Why != text.OneLine(n.Status().Auth.LastError) || strings.Contains(list[0].Why, "^") {
		t.Errorf("problems of the status page = %+v, want that of the file of callers", list)
	}
	if err := send(team, 3); err != nil {
		t.Errorf("after an invalid file: %v", err)
	}
}

// clusterKey writes a cluster key file.
func clusterKey(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	replaceFile(t, path, base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))+"\n")
	return path
}

// Three members with auth: the client library finds the owners, calls are forwarded, and
// tokens are replaced under load without a failed call.
func TestRotationOfTokensInACluster(t *testing.T) {
	t.Parallel()
	f, key := newAuthFile(t), clusterKey(t)
	nodes := startCluster(t, 3, func(_ int, c *config.Config) { c.Auth, c.ClusterKeyFile = f.path, key })
	all := []string{"gateway", "team", "ops", "prometheus"}
	tokenPath := filepath.Join(t.TempDir(), "token")
	replaceFile(t, tokenPath, f.token("gateway"))
	c, err := client.Dial(client.Options{Addrs: []string{nodes[0].GRPCAddr()}, TokenFile: tokenPath, Timeout: waittest.Limit})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	waittest.Until(t, "the ring", func() bool { return c.Status().Following })

	ctx, stop := context.WithCancel(t.Context())
	var calls, failed atomic.Int64
	var first atomic.Pointer[error]
	var load sync.WaitGroup
	for worker := range 4 {
		load.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				_, err := c.Check(ctx, client.Call{Key: fmt.Sprintf("root%d/w%d", i%64, worker), Tier: "free"})
				if calls.Add(1); err != nil && ctx.Err() == nil {
					failed.Add(1)
					first.CompareAndSwap(nil, &err)
				}
			}
		})
	}
	more := func() {
		at := calls.Load()
		waittest.Until(t, "more calls", func() bool { return calls.Load() > at+200 })
	}
	inForce := func(callers int) {
		waittest.Until(t, "the callers", func() bool {
			for _, n := range nodes {
				if n.Status().Auth.Callers != callers {
					return false
				}
			}
			return true
		})
	}
	more()
	f.write(append(all, "gateway2")...) // the new token beside the old one
	inForce(5)
	more()
	replaceFile(t, tokenPath, f.token("gateway2")) // the caller changes over
	more()
	replaced := time.Now()
	waittest.Until(t, "the time after which the file is read again", func() bool { return time.Since(replaced) > time.Second })
	f.write(append(all[1:], "gateway2")...) // the old one is revoked
	inForce(4)
	more()
	more()
	stop()
	load.Wait()
	if n := failed.Load(); n > 0 {
		t.Errorf("%d of %d calls failed, the first with: %v", n, calls.Load(), *first.Load())
	}
	forwarded := pb.NewRateLimiterClient(nodes[0].dialWith(f.token("team")))
	for i := range 64 { // most keys have other owners, whom the node asks as a member
		if _, err := forwarded.Check(t.Context(), &pb.CheckRequest{Key: fmt.Sprintf("team-%d/x", i), Tier: "free"}); err != nil {
			t.Fatalf("a call through one node: %v", err)
		}
	}
}
