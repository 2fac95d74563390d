// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
)

func withRESP(c *config.Config) { c.RESP = "127.0.0.1:0" }

// redis returns a client of the node, with the defaults of go-redis.
func (r *running) redis(change func(*redis.Options)) *redis.Client {
	o := &redis.Options{Addr: r.RESPAddr()}
	if change != nil {
		change(o)
	}
	c := redis.NewClient(o)
	r.t.Cleanup(func() { _ = c.Close() })
	return c
}

// asked is an answer as RESP3 has it.
type asked map[any]any

func (r *running) resp(c *redis.Client, args ...any) asked {
	r.t.Helper()
	answer, err := c.Do(waittest.Context(r.t, waittest.Limit), args...).Result()
	if err != nil {
		r.t.Fatalf("%v at %s = %v", args, r.Name(), err)
	}
	m, ok := answer.(map[any]any)
	if !ok {
		r.t.Fatalf("%v at %s = %v, want a map", args, r.Name(), answer)
	}
	return m
}

// remaining returns what is left of a limit.
func (a asked) remaining(name string) int64 {
	for _, l := range a["limits"].([]any) {
		if l := l.(map[any]any); l["name"] == name {
			return l["remaining"].(int64)
		}
	}
	return -1
}

// throttle asks for tokens of a bucket of 10 that is full again in 10 hours.
func (r *running) throttle(c *redis.Client, key string, quantity int) []int64 {
	r.t.Helper()
	answer, err := c.Do(waittest.Context(r.t, waittest.Limit), "CL.THROTTLE", key, 9, 10, 36_000, quantity).Int64Slice()
	if err != nil {
		r.t.Fatalf("CL.THROTTLE %s at %s = %v", key, r.Name(), err)
	}
	return answer
}

// TestRESPOfACluster: three nodes are one limiter for clients of the Redis protocol. Calls of
// others' keys are forwarded, pipelines with keys of all owners are answered in order, and
// buckets move with the keys that they belong to.
func TestRESPOfACluster(t *testing.T) {
	nodes := startCluster(t, 3, func(_ int, c *config.Config) { withRESP(c) })
	var clients []*redis.Client
	for _, n := range nodes {
		clients = append(clients, n.redis(nil))
	}
	for i, owner := range nodes {
		key := nodes[0].keyOf(owner.Name())
		for j, n := range nodes {
			a := n.resp(clients[j], "BR.CHECK", key, "tier", "free")
			route := "forward"
			if i == j {
				route = "local"
			}
			if a["owner"] != owner.Name() || a["route"] != route || a.remaining("requests") != int64(9-j) {
				t.Errorf("check of a key of %s at %s = %v", owner.Name(), n.Name(), a)
			}
		}
		reserved := nodes[0].resp(clients[0], "BR.RESERVE", key, "tier", "free", "max_output_tokens", 100)
		settled := nodes[1].resp(clients[1], "BR.SETTLE", key, reserved["request_id"], "output_tokens", 50)
		if settled["status"] != "settled" || settled.remaining("concurrent") != 2 {
			t.Errorf("settle at another node = %v", settled)
		}
	}

	var keys []string
	for _, n := range nodes {
		keys = append(keys, nodes[0].keyOf(n.Name()))
	}
	pipe := clients[0].Pipeline()
	var answers []*redis.Cmd
	for i := range 300 {
		answers = append(answers, pipe.Do(context.Background(), "CL.THROTTLE", fmt.Sprint(keys[i%3], "/pipe"), 999, 1, 3600, 1))
	}
	if _, err := pipe.Exec(waittest.Context(t, waittest.Limit)); err != nil {
		t.Fatal(err)
	}
	for i, a := range answers {
		if got, err := a.Int64Slice(); err != nil || got[0] != 0 || got[2] != int64(1000-i/3-1) {
			t.Errorf("answer %d of a pipeline = %v, %v", i, got, err)
		}
	}

	key := keys[1] + "/moves"
	for range 2 {
		if got := nodes[0].throttle(clients[0], key, 4); got[0] != 0 {
			t.Errorf("throttle = %v", got)
		}
	}
	nodes[1].config.ShutdownTimeout, nodes[1].skipLeave = waittest.Limit, false
	if err := nodes[1].ended(); err != nil {
		t.Errorf("the owner ended with %v", err)
	}
	agree(t, nodes[0], nodes[2])
	for _, i := range []int{0, 2} {
		if got := nodes[i].throttle(clients[i], key, 4); got[0] != 1 || got[2] != 2 {
			t.Errorf("after the move, at %s: %v, want it limited with 2 left", nodes[i].Name(), got)
		}
	}
}

// TestRESPKeepsBuckets: a bucket is in the journal.
func TestRESPKeepsBuckets(t *testing.T) {
	dir := t.TempDir()
	configured := func(c *config.Config) { withRESP(c); c.Data = dir }
	first := start(t, configured)
	if got := first.throttle(first.redis(nil), "k", 7); got[0] != 0 || got[2] != 3 {
		t.Errorf("throttle = %v", got)
	}
	if err := first.ended(); err != nil {
		t.Fatal(err)
	}
	second := start(t, configured)
	if got := second.throttle(second.redis(nil), "k", 4); got[0] != 1 || got[2] != 3 {
		t.Errorf("throttle after a restart = %v, want it limited with 3 left", got)
	}
}

// TestRESPWithAuth: a token is the password, scopes and roots are those of every interface,
// and a token that is revoked ends what its connections may do.
func TestRESPWithAuth(t *testing.T) {
	t.Parallel()
	f := newAuthFile(t)
	n := start(t, func(c *config.Config) { withRESP(c); c.Auth = f.path })
	ctx := waittest.Context(t, waittest.Limit)
	do := func(c *redis.Client, args ...any) string {
		_, err := c.Do(ctx, args...).Result()
		if err != nil {
			return err.Error()
		}
		return ""
	}
	with := func(user, token string) *redis.Client {
		return n.redis(func(o *redis.Options) { o.Username, o.Password, o.MaxRetries, o.PoolSize = user, token, -1, 1 })
	}
	for _, tt := range []struct {
		user, caller string
		command      []any
		want         string // begins the error
	}{
		{"", "", []any{"PING"}, "NOAUTH "},
		{"", "", []any{"BR.CHECK", "acme/a", "tier", "free"}, "NOAUTH "},
		{"", "", []any{"CL.THROTTLE", "acme/a", 1, 1, 1}, "NOAUTH "},
		{"", "stranger", []any{"PING"}, "WRONGPASS the token is unknown or revoked"},
		{"", "gateway", []any{"BR.CHECK", "acme/a", "tier", "free"}, ""},
		{"default", "gateway", []any{"CL.THROTTLE", "acme/a", 1, 1, 1}, ""},
		{"gateway", "gateway", []any{"PING"}, ""},
		{"team", "gateway", []any{"PING"}, "WRONGPASS the token is not of the caller"},
		{"", "prometheus", []any{"PING"}, "NOPERM this connection needs the scope call or read"},
		{"", "team", []any{"BR.CHECK", "acme/a", "tier", "free"}, ""},
		{"", "team", []any{"BR.CHECK", "globex/a", "tier", "free"}, `NOPERM caller team may not call keys under the root "globex"`},
		{"", "team", []any{"CL.THROTTLE", "globex/a", 1, 1, 1}, "NOPERM "},
		{"", "ops", []any{"BR.LIMITS", "acme/a", "tier", "free"}, ""},
		{"", "ops", []any{"BR.CHECK", "acme/a", "tier", "free"}, "NOPERM the scope call is needed"},
	} {
		token := ""
		if tt.caller != "" {
			token = f.token(tt.caller)
		}
		if got := do(with(tt.user, token), tt.command...); tt.want == "" && got != "" || !strings.HasPrefix(got, tt.want) {
			t.Errorf("%v by %q as %q = %q, want %q", tt.command, tt.caller, tt.user, got, tt.want)
		}
	}
	raw, err := net.DialTimeout("tcp", n.RESPAddr(), waittest.Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_ = raw.SetDeadline(time.Now().Add(waittest.Limit))
	_, _ = raw.Write([]byte("*2\r\n$4\r\nECHO\r\n$60000\r\n" + strings.Repeat("x", 20_000)))
	answer := make([]byte, 200)
	if size, _ := raw.Read(answer); !strings.HasPrefix(string(answer[:size]), "-ERR Protocol error: a command without credentials must have at most ") {
		t.Errorf("a long command without credentials = %q", answer[:size])
	}
	c := with("", f.token("gateway"))
	if got := do(c, "PING"); got != "" {
		t.Fatalf("PING = %s", got)
	}
	f.write("team")
	waittest.Until(t, "the token to be revoked", func() bool { return strings.HasPrefix(do(c, "BR.CHECK", "acme/a", "tier", "free"), "NOAUTH ") })
}

// TestRESPWithTLS: the connection has the TLS of the node, a client certificate is who calls,
// and who speaks plaintext where TLS is required is told so.
func TestRESPWithTLS(t *testing.T) {
	for _, mode := range []string{"optional", "required"} {
		t.Run(mode, func(t *testing.T) {
			ca, f := newAuthority(t, "ours"), newAuthFile(t)
			replaceFile(t, f.path, "callers:\n- {name: alice, scopes: [call], roots: [acme], certificates: ['cn:alice']}\n")
			settings := ca.settings(mode, "request")
			nodes, _ := secureCluster(t, 1, ca, nil, func(i int, c *config.Config) {
				settings(i, c)
				withRESP(c)
				c.Auth = f.path
			})
			n, ctx := nodes[0], waittest.Context(t, waittest.Limit)
			ask := func(who *tls.Config, key string) string {
				c := n.redis(func(o *redis.Options) { o.TLSConfig, o.MaxRetries = who, -1 })
				if err := c.Do(ctx, "BR.CHECK", key, "tier", "free").Err(); err != nil {
					return err.Error()
				}
				return ""
			}
			of := func(who string) *tls.Config { return ca.store(who, false).Client("localhost") }
			if got := ask(of("alice"), "acme/x"); got != "" {
				t.Errorf("alice = %s", got)
			}
			if got := ask(of("alice"), "globex/x"); !strings.HasPrefix(got, "NOPERM ") {
				t.Errorf("alice with another root = %q", got)
			}
			if got := ask(of("bob"), "acme/x"); !strings.HasPrefix(got, "NOAUTH ") {
				t.Errorf("bob = %q", got)
			}
			raw, err := net.DialTimeout("tcp", n.RESPAddr(), waittest.Limit)
			if err != nil {
				t.Fatal(err)
			}
			defer raw.Close()
			_ = raw.SetDeadline(time.Now().Add(waittest.Limit))
			_, _ = raw.Write([]byte("PING\r\n"))
			answer := make([]byte, 200)
			read, _ := raw.Read(answer)
			want := map[string]string{"optional": "-NOAUTH ", "required": "-ERR this address needs TLS"}[mode]
			if got := string(answer[:read]); !strings.HasPrefix(got, want) {
				t.Errorf("plaintext = %q, want %q", got, want)
			}
		})
	}
}

// TestRESPWaits: a call of the Redis protocol waits for its limit, while other connections are
// answered, and leaves the line when its client goes.
func TestRESPWaits(t *testing.T) {
	const text = `{ tiers: { t: { limits: [ { name: slots, dimension: concurrent, limit: 1, queue: { max_wait: 1m } } ] } }, default_tier: t }`
	n := start(t, func(c *config.Config) {
		withRESP(c)
		c.Policy = filepath.Join(t.TempDir(), "policy.yaml")
		replaceFile(t, c.Policy, text)
	})
	waiting := func() int { return int(n.Status().Waiting.Standard) }
	c := n.redis(nil)
	if first := n.resp(c, "BR.RESERVE", "a/b", "request_id", "first"); first["outcome"] != "allowed" {
		t.Fatalf("first = %v", first)
	}
	raw, err := net.DialTimeout("tcp", n.RESPAddr(), waittest.Limit)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	_, _ = raw.Write([]byte("BR.RESERVE a/b request_id gone\r\n"))
	waittest.Until(t, "the call to wait", func() bool { return waiting() == 1 })
	if a := n.resp(c, "BR.RESERVE", "a/b", "request_id", "not", "max_wait_seconds", 0); a["outcome"] != "denied" {
		t.Errorf("a call that does not wait = %v", a)
	}
	_ = raw.Close()
	waittest.Until(t, "the call of the client that has gone to leave", func() bool { return waiting() == 0 })

	admitted := make(chan asked, 1)
	second := n.redis(nil)
	go func() {
		answer, _ := second.Do(waittest.Context(t, waittest.Limit), "BR.RESERVE", "a/b", "max_wait_seconds", 50).Result()
		m, _ := answer.(map[any]any)
		admitted <- m
	}()
	waittest.Until(t, "the second call to wait", func() bool { return waiting() == 1 })
	n.resp(c, "BR.CANCEL", "a/b", "first")
	if a := <-admitted; a["outcome"] != "allowed" || a["place"] != int64(1) {
		t.Errorf("the call that waited = %v", a)
	}
}
