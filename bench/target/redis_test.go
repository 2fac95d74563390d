// SPDX-License-Identifier: Apache-2.0

package target

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// redisServer is a Redis process without persistence.
type redisServer struct {
	addr string
	cmd  *exec.Cmd
	log  bytes.Buffer
}

// startRedis starts a server on a free port, with a password if it is not empty.
// Where the binary is missing the test is skipped, but in CI it fails.
func startRedis(t testing.TB, password string) *redisServer {
	t.Helper()
	binary, err := exec.LookPath("redis-server")
	if err != nil {
		const hint = "redis-server is not installed (Debian: apt-get install redis-server)"
		if os.Getenv("CI") != "" {
			t.Fatal(hint)
		}
		t.Skip(hint)
	}
	for range 5 { // somebody else may take the port in between
		s := &redisServer{addr: freeport.Test(t)}
		if s.start(t, binary, password) {
			t.Cleanup(s.stop)
			return s
		}
		s.stop()
		t.Logf("redis-server on %s did not start:\n%s", s.addr, &s.log)
	}
	t.Fatal("redis-server does not start")
	return nil
}

// start starts the process and reports whether it answers.
func (s *redisServer) start(t testing.TB, binary, password string) bool {
	t.Helper()
	_, port, _ := net.SplitHostPort(s.addr)
	args := []string{"--port", port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--daemonize", "no", "--dir", t.TempDir(), "--requirepass", password}
	s.cmd = exec.Command(binary, args...)
	s.cmd.Stdout = &s.log
	if err := s.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), waitFor/5)
	defer cancel()
	target, err := Open("redis://"+url.UserPassword("", password).String()+"@"+s.addr, Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer target.Close()
	return Ready(ctx, target) == nil
}

// stop ends the server. It may be called again.
func (s *redisServer) stop() {
	_ = s.cmd.Process.Kill() // it may have ended
	_ = s.cmd.Wait()
}

// admin is a connection of the test itself.
func (s *redisServer) admin(t testing.TB) *redis.Client {
	t.Helper()
	c := redis.NewClient(&redis.Options{Addr: s.addr})
	t.Cleanup(func() { _ = c.Close() })
	return c
}

// century is a window that does not end during a test.
const century = 100 * 365 * 24 * time.Hour

func TestRedisIsExact(t *testing.T) {
	s := startRedis(t, "")
	for _, c := range []struct {
		kind   string
		limits []Limit
		call   bench.Call
	}{
		{"redis", []Limit{{Requests, 1000, century}}, bench.Call{}},
		{"redis-lua", []Limit{{Requests, 1000, 24 * time.Hour}}, bench.Call{}},
		{"redis-lua", []Limit{{Requests, 5000, 24 * time.Hour}, {InputTokens, 70_000, 24 * time.Hour}, {OutputTokens, 5000, 24 * time.Hour}, {Tokens, 10_000, 24 * time.Hour}}, bench.Call{InputTokens: 7, OutputTokens: 3}},
	} {
		t.Run(fmt.Sprintf("%s with %d limits", c.kind, len(c.limits)), func(t *testing.T) {
			target := open(t, c.kind+"://"+s.addr, Options{Limits: c.limits})
			c.call.Key = "acme/alice"
			wantExactly(t, target, c.call)
			if len(c.limits) > 1 {
				wantUsed(t, target, c.call.Key, "", "tokens", 10_000, 10_000)
				wantUsed(t, target, c.call.Key, "", "requests", 1000, 5000)
				wantUsed(t, target, c.call.Key, "", "input_tokens", 7000, 70_000)
			}
		})
	}
}

// Two targets with the same prefix share their limits.
func TestRedisIsExactWithSeveralClients(t *testing.T) {
	s := startRedis(t, "")
	for _, kind := range []string{"redis", "redis-lua"} {
		o := Options{Limits: []Limit{{Requests, 1000, 1000 * time.Hour}}, Prefix: "shared:" + kind}
		if kind == "redis" {
			o.Limits[0].Window = century
		}
		one, two := open(t, kind+"://"+s.addr, o), open(t, kind+"://"+s.addr, o)
		var counts [2]int
		var wg sync.WaitGroup
		for i, target := range []bench.Target{one, two} {
			wg.Go(func() { counts[i] = storm(t, target, 1000, bench.Call{Key: "acme"}) })
		}
		wg.Wait()
		if sum := counts[0] + counts[1]; sum != 1000 {
			t.Errorf("%s: %v calls were allowed, want 1000 in all", kind, counts)
		}
		o.Prefix = ""
		if got := check(t, open(t, kind+"://"+s.addr, o), bench.Call{Key: "acme"}); got.Outcome != bench.Allowed {
			t.Errorf("%s: Check with a prefix of its own = %+v, want allowed", kind, got)
		}
	}
}

func TestRedisCountsInWindows(t *testing.T) {
	s := startRedis(t, "")
	now := time.Unix(1_800_000_000, 0)
	target := open(t, "redis://"+s.addr, Options{
		Limits: []Limit{{Requests, 10, time.Minute}}, Prefix: "bench", Now: func() time.Time { return now },
	})
	ask := func(requests int64, want bench.Outcome, reason string, used int64) {
		t.Helper()
		if got := check(t, target, bench.Call{Key: "acme", Requests: requests}); got.Outcome != want || got.Reason != reason {
			t.Errorf("Check of %d = %+v, want %d, %q", requests, got, want, reason)
		}
		wantUsed(t, target, "acme", "", "requests", used, 10)
	}
	wantUsed(t, target, "acme", "", "requests", 0, 10)
	ask(0, bench.Allowed, "", 1)
	ask(9, bench.Allowed, "", 10)
	ask(1, bench.Denied, "limit_exceeded", 11) // denied calls count
	now = now.Add(59 * time.Second)
	ask(1, bench.Denied, "limit_exceeded", 12)
	now = now.Add(time.Second)
	ask(11, bench.Denied, "exceeds_capacity", 11)
	ask(1, bench.Denied, "limit_exceeded", 12) // the large one used the window up
	now = now.Add(time.Minute)
	ask(10, bench.Allowed, "", 10)

	admin := s.admin(t)
	keys := admin.Keys(t.Context(), "*").Val()
	if len(keys) != 3 {
		t.Errorf("keys = %v, want one per window", keys)
	}
	for _, key := range keys {
		if ttl := admin.TTL(t.Context(), key).Val(); ttl <= 0 || ttl > time.Minute || !strings.HasPrefix(key, "bench:acme:") {
			t.Errorf("%s lives for %v, want at most a minute", key, ttl)
		}
	}
	wantNoReservations(t, target)
}

func TestLuaIsAllOrNothing(t *testing.T) {
	s := startRedis(t, "")
	const day = 24 * time.Hour
	target := open(t, "redis-lua://"+s.addr, Options{Limits: []Limit{{Requests, 10, day}, {Tokens, 1000, day}, {InputTokens, 800, day}, {OutputTokens, 500, day}}})
	used := func(requests, tokens, input, output int64) {
		t.Helper()
		wantUsed(t, target, "acme", "", "requests", requests, 10)
		wantUsed(t, target, "acme", "", "tokens", tokens, 1000)
		wantUsed(t, target, "acme", "", "input_tokens", input, 800)
		wantUsed(t, target, "acme", "", "output_tokens", output, 500)
	}
	ask := func(requests, input, output int64, want bench.Outcome, reason string) {
		t.Helper()
		c := bench.Call{Key: "acme", Requests: requests, InputTokens: input, OutputTokens: output}
		if got := check(t, target, c); got.Outcome != want || got.Reason != reason {
			t.Errorf("Check(%+v) = %+v, want %d, %q", c, got, want, reason)
		}
	}
	used(0, 0, 0, 0)
	ask(1, 700, 200, bench.Allowed, "")
	used(1, 900, 700, 200)
	ask(1, 50, 60, bench.Denied, "limit_exceeded") // by tokens
	ask(1, 101, 0, bench.Denied, "limit_exceeded") // by tokens, and then by input
	ask(1, 0, 501, bench.Denied, "exceeds_capacity")
	ask(11, 0, 0, bench.Denied, "exceeds_capacity")
	used(1, 900, 700, 200)
	ask(1, 50, 50, bench.Allowed, "")
	used(2, 1000, 750, 250)
	ask(8, 0, 0, bench.Allowed, "") // what costs nothing fits in what is full
	used(10, 1000, 750, 250)
	ask(1, 0, 0, bench.Denied, "limit_exceeded")

	admin := s.admin(t)
	keys := admin.Keys(t.Context(), "*").Val()
	if len(keys) != 1 {
		t.Fatalf("keys = %v, want one", keys)
	}
	if ttl := admin.PTTL(t.Context(), keys[0]).Val(); ttl <= day-time.Minute || ttl > day {
		t.Errorf("%s lives for %v, want a day", keys[0], ttl)
	}
	wantNoReservations(t, target)
}

// A bucket fills again, never beyond its rate.
func TestLuaRefills(t *testing.T) {
	s := startRedis(t, "")
	const amount, window = 20, 200 * time.Millisecond
	target := open(t, "redis-lua://"+s.addr, Options{Limits: []Limit{{Requests, amount, window}}})
	start, allowed := time.Now(), int64(0)
	for allowed < 5*amount {
		if check(t, target, bench.Call{Key: "acme"}).Outcome == bench.Allowed {
			allowed++
		}
		if time.Since(start) > waitFor {
			t.Fatalf("only %d calls were allowed in %v", allowed, waitFor)
		}
	}
	// The server's clock is cut to milliseconds.
	elapsed := time.Since(start) + time.Millisecond
	if most := amount + amount*int64(elapsed)/int64(window); allowed > most {
		t.Errorf("%d calls were allowed in %v, want at most %d", allowed, elapsed, most)
	}
}

// Unused time beyond the capacity is not saved up, and a clock that goes backwards
// refills nothing.
func TestLuaAndTheClock(t *testing.T) {
	s := startRedis(t, "")
	admin := s.admin(t)
	const day = 24 * time.Hour
	target := open(t, "redis-lua://"+s.addr, Options{Limits: []Limit{{Requests, 10, day}}, Prefix: "bench"})
	pass := func(d time.Duration) { // by the state, not by the clock
		t.Helper()
		if err := admin.HIncrBy(t.Context(), "bench:acme", "at", -d.Milliseconds()).Err(); err != nil {
			t.Fatal(err)
		}
	}
	take := func(requests int64, want bench.Outcome) {
		t.Helper()
		if got := check(t, target, bench.Call{Key: "acme", Requests: requests}); got.Outcome != want {
			t.Errorf("Check of %d = %+v, want %d", requests, got, want)
		}
	}
	take(1, bench.Allowed)
	pass(day / 2) // gives back 5, of which 4 were not missing
	wantUsed(t, target, "acme", "", "requests", 0, 10)
	take(10, bench.Allowed)
	take(1, bench.Denied)
	pass(100 * day)
	take(9, bench.Allowed)
	take(2, bench.Denied)
	pass(-100 * day) // the next call comes before this one
	wantUsed(t, target, "acme", "", "requests", 9, 10)
	take(2, bench.Denied)
	take(1, bench.Allowed)
	take(1, bench.Denied)
	wantUsed(t, target, "acme", "", "requests", 10, 10)
}

// The largest amounts are exact.
func TestLuaIsExactWithLargeNumbers(t *testing.T) {
	s := startRedis(t, "")
	const window = 1000 * time.Hour
	most := int64(maxExactInt) / window.Milliseconds() / 2
	target := open(t, "redis-lua://"+s.addr, Options{Limits: []Limit{{InputTokens, most, window}}})
	check(t, target, bench.Call{Key: "acme", InputTokens: most - 2})
	for i, want := range []bench.Outcome{bench.Allowed, bench.Allowed, bench.Denied} {
		// An amount of a million in 1,000 hours gives one back in 3 s.
		if got := check(t, target, bench.Call{Key: "acme", InputTokens: 1}); got.Outcome != want {
			t.Errorf("Check %d = %+v, want %d", i, got, want)
		}
	}
}

func TestRedisLosesItsScripts(t *testing.T) {
	s := startRedis(t, "")
	target := open(t, "redis-lua://"+s.addr, Options{Limits: []Limit{{Requests, 2, time.Hour}}})
	check(t, target, bench.Call{Key: "acme"})
	if err := s.admin(t).ScriptFlush(t.Context()).Err(); err != nil {
		t.Fatal(err)
	}
	check(t, target, bench.Call{Key: "acme"})
	wantUsed(t, target, "acme", "", "requests", 2, 2)
}

func TestRedisWithAPasswordAndADatabase(t *testing.T) {
	s := startRedis(t, "se@cr/et")
	limits := []Limit{{Requests, 1, century}}
	for _, kind := range []string{"redis", "redis-lua"} {
		if kind == "redis-lua" {
			limits[0].Window = time.Hour
		}
		target := open(t, kind+"://:se%40cr%2Fet@"+s.addr+"/3", Options{Limits: limits})
		check(t, target, bench.Call{Key: "acme"})
		wrong, err := Open(kind+"://:wrong@"+s.addr, Options{Limits: limits})
		if err != nil {
			t.Fatal(err)
		}
		a, err := wrong.Check(t.Context(), &bench.Call{Key: "acme"})
		if err == nil || !strings.Contains(err.Error(), "WRONGPASS") || strings.Contains(err.Error(), ":wrong") {
			t.Errorf("%s: Check with a wrong password = %+v, %v, want WRONGPASS", kind, a, err)
		}
		_ = wrong.Close()
	}
	admin := redis.NewClient(&redis.Options{Addr: s.addr, Password: "se@cr/et", DB: 3})
	defer admin.Close()
	if n := admin.DBSize(t.Context()).Val(); n != 2 {
		t.Errorf("database 3 has %d keys, want 2", n)
	}
}

// A stopped server causes errors at once, and answers again after a restart.
func TestRedisRestart(t *testing.T) {
	s := startRedis(t, "")
	for _, kind := range []string{"redis", "redis-lua"} {
		target := open(t, kind+"://"+s.addr, Options{})
		check(t, target, bench.Call{Key: "acme"})
		s.stop()
		if a, err := target.Check(t.Context(), &bench.Call{Key: "acme"}); err == nil {
			t.Errorf("%s: Check without a server = %+v, want an error", kind, a)
		}
		again := &redisServer{addr: s.addr}
		if !again.start(t, s.cmd.Path, "") {
			again.stop()
			t.Fatalf("redis-server does not start again on %s:\n%s", s.addr, &again.log)
		}
		t.Cleanup(again.stop)
		waittest.Until(t, "an answer", func() bool {
			_, err := target.Check(t.Context(), &bench.Call{Key: "acme"})
			return err == nil
		})
		s = again
	}
}

// A stalled server makes a request fail at its deadline, and its late response is not
// taken for that of the next request.
func TestRedisStalls(t *testing.T) {
	s := startRedis(t, "")
	for _, kind := range []string{"redis", "redis-lua"} {
		target := open(t, kind+"://"+s.addr, Options{Limits: []Limit{{Requests, 1, time.Hour}}, Now: func() time.Time { return time.Unix(0, 0) }})
		check(t, target, bench.Call{Key: "acme/one"})
		s.signal(t, syscall.SIGSTOP)
		n := 0
		waittest.Until(t, "silence", func() bool { // it may answer for a moment
			n++
			ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
			defer cancel()
			_, err := target.Check(ctx, &bench.Call{Key: fmt.Sprintf("acme/lost%d", n)})
			if err != nil && !errors.Is(err, context.DeadlineExceeded) {
				t.Errorf("%s: Check of a server that stands still = %v, want context.DeadlineExceeded", kind, err)
			}
			return err != nil
		})
		s.signal(t, syscall.SIGCONT)
		for i := range 50 {
			key := fmt.Sprintf("acme/fresh%d", i)
			if got := check(t, target, bench.Call{Key: key}); got.Outcome != bench.Allowed {
				t.Errorf("%s: Check(%s) = %+v, want allowed", kind, key, got)
			}
		}
		if got := check(t, target, bench.Call{Key: "acme/one"}); got.Outcome != bench.Denied {
			t.Errorf("%s: Check = %+v, want denied", kind, got)
		}
	}
}

// signal sends a signal to the process.
func (s *redisServer) signal(t *testing.T, what syscall.Signal) {
	t.Helper()
	if err := s.cmd.Process.Signal(what); err != nil {
		t.Fatal(err)
	}
}

func TestVersions(t *testing.T) {
	s := startRedis(t, "")
	if got := Version(t.Context(), open(t, "redis://"+s.addr, Options{})); !strings.HasPrefix(got, "Redis ") || len(got) < len("Redis 1.0") {
		t.Errorf("Version of redis = %q, want Redis and a number", got)
	}
	if got := Version(t.Context(), open(t, "null:", Options{})); got != "" {
		t.Errorf("Version of null = %q, want none", got)
	}
}
