// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"net"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/internal/waittest"
)

// program returns the path of a program that the tests with real clients need. Without it the
// test is skipped, but not in CI.
func program(t *testing.T, name, debianPackage string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	if err != nil {
		missing(t, name, debianPackage)
	}
	return path
}

func missing(t *testing.T, what, debianPackage string) {
	t.Helper()
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not installed: install the package %s", what, debianPackage)
	}
	t.Skipf("%s is not installed: install the package %s", what, debianPackage)
}

// runProgram runs a program and returns what it prints.
func runProgram(t *testing.T, stdin, path string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(waittest.Context(t, waittest.Limit), path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", path, args, err, out)
	}
	return string(out)
}

// TestRedisCLI: redis-cli talks to a node with its defaults, with RESP2 and RESP3.
func TestRedisCLI(t *testing.T) {
	path := program(t, "redis-cli", "redis-tools")
	_, port, _ := net.SplitHostPort(start(t, withRESP).RESPAddr())
	for _, tt := range []struct {
		args, stdin string
		want        []string
	}{
		{"PING", "", []string{"PONG"}},
		{"BR.CHECK acme/alice TIER free INPUT_TOKENS 900", "", []string{"outcome\nallowed\n", "limits\nname\nrequests\nlimit\n10\nremaining\n9\n"}},
		{"-3 BR.CHECK acme/alice TIER free", "", []string{"outcome allowed\n", "limits name requests\nlimit 10\nremaining 8\n"}},
		{"--json BR.LIMITS acme/alice TIER free", "", []string{`"limits":[{"name":"requests","limit":10,`}},
		{"CL.THROTTLE user123 15 30 60 1", "", []string{"0\n16\n15\n-1\n2\n"}},
		{"BR.CHECK acme/alice FOO 1", "", []string{"ERR \"FOO\": unknown field"}},
		{"", "HELLO 3\nCLIENT SETNAME x\nBR.RESERVE a TIER free REQUEST_ID r\nBR.CANCEL a r\nINFO\nCOMMAND DOCS\n", []string{"server bucketring\n", "outcome allowed\n", "status cancelled\n", "redis_version:", "br.check summary charges"}},
	} {
		got := runProgram(t, tt.stdin, path, append([]string{"-p", port}, strings.Fields(tt.args)...)...)
		for _, want := range tt.want {
			if !strings.Contains(got, want) {
				t.Errorf("redis-cli %s prints\n%s\nwant %q", tt.args, got, want)
			}
		}
	}
}

// TestRedisBenchmark: redis-benchmark measures a node, with and without pipelines.
func TestRedisBenchmark(t *testing.T) {
	path := program(t, "redis-benchmark", "redis-tools")
	n := start(t, withRESP)
	_, port, _ := net.SplitHostPort(n.RESPAddr())
	for _, args := range []string{
		"-n 2000 -c 8 BR.CHECK acme/alice TIER free",
		"-n 2000 -c 8 -P 16 CL.THROTTLE key 100000 1 3600",
		"-n 2000 -c 8 -3 BR.CHECK acme/alice",
		"-n 2000 -c 8 -t ping -q",
	} {
		got := runProgram(t, "", path, append([]string{"-p", port}, strings.Fields(args)...)...)
		if !strings.Contains(got, "requests per second") || strings.Contains(got, "Error") {
			t.Errorf("redis-benchmark %s prints\n%s", args, got)
		}
	}
	if got := n.throttleOf("key", 100_000); got != 100_001-2000 {
		t.Errorf("%d tokens are left, want all but 2000", got)
	}
}

// throttleOf returns what is left of a bucket that is refilled once an hour, within a token.
func (r *running) throttleOf(key string, burst int) int64 {
	answer, err := r.redis(nil).Do(context.Background(), "CL.THROTTLE", key, burst, 1, 3600, 0).Int64Slice()
	if err != nil {
		r.t.Fatal(err)
	}
	return answer[2]
}

// TestRedisPy: redis-py talks to a node with its defaults, by single calls and by a pipeline.
func TestRedisPy(t *testing.T) {
	const python = "/usr/bin/python3" // that of the package; others may be in front of it
	if err := exec.CommandContext(t.Context(), python, "-c", "import redis").Run(); err != nil {
		missing(t, "redis-py", "python3-redis")
	}
	host, port, _ := net.SplitHostPort(start(t, withRESP).RESPAddr())
	const script = `
import redis, sys
r = redis.Redis(host=sys.argv[1], port=int(sys.argv[2]), decode_responses=True)
def fields(flat):
    return dict(zip(flat[::2], flat[1::2]))
assert r.ping()
d = fields(r.execute_command("BR.CHECK", "acme/alice", "TIER", "free", "INPUT_TOKENS", 900))
assert d["outcome"] == "allowed", d
assert fields(d["limits"][0])["remaining"] == 9, d
d = fields(r.execute_command("BR.RESERVE", "acme/alice", "TIER", "free", "MAX_OUTPUT_TOKENS", 100))
s = fields(r.execute_command("BR.SETTLE", "acme/alice", d["request_id"], "OUTPUT_TOKENS", 50))
assert s["status"] == "settled", s
assert r.execute_command("CL.THROTTLE", "user123", 15, 30, 60) == [0, 16, 15, -1, 2]
p = r.pipeline(transaction=False)
for i in range(200):
    p.execute_command("CL.THROTTLE", "k", 99, 1, 3600)
answers = p.execute()
assert [a[0] for a in answers] == [0] * 100 + [1] * 100, answers
try:
    r.execute_command("BR.CHECK", "acme/alice", "REQUESTS", "many")
    assert False
except redis.ResponseError as e:
    assert str(e) == 'requests: must be a number, got "many"', e
print("done")
`
	if got := runProgram(t, "", python, "-c", script, host, port); got != "done\n" {
		t.Errorf("redis-py prints %q", got)
	}
	documented, err := os.ReadFile("../../docs/resp.md")
	if err != nil {
		t.Fatal(err)
	}
	_, example, _ := strings.Cut(string(documented), "```python\n")
	example, _, _ = strings.Cut(example, "```")
	if !strings.Contains(example, "port=6479") {
		t.Fatalf("docs/resp.md has no example in Python: %q", example)
	}
	if got := runProgram(t, strings.ReplaceAll(example, "6479", port), python, "-"); got != "" {
		t.Errorf("the example in docs/resp.md prints %q", got)
	}
}

// TestGoRedis: go-redis talks to a node with RESP2, too, and by a pipeline with errors in it.
func TestGoRedis(t *testing.T) {
	n := start(t, withRESP)
	c := n.redis(func(o *redis.Options) { o.Protocol, o.ClientName = 2, "test" })
	ctx := waittest.Context(t, waittest.Limit)
	flat, err := c.Do(ctx, "BR.CHECK", "acme/alice", "TIER", "free").Slice()
	if err != nil || len(flat) < 4 || flat[0] != "outcome" || flat[1] != "allowed" || flat[len(flat)-2] != "limits" {
		t.Errorf("check in RESP2 = %v, %v", flat, err)
	}
	pipe := c.Pipeline()
	good, bad := pipe.Do(ctx, "BR.CHECK", "acme/alice", "TIER", "free"), pipe.Do(ctx, "BR.CHECK", "acme/alice", "TIER")
	last := pipe.Do(ctx, "ECHO", "x")
	_, _ = pipe.Exec(ctx) // has the first error
	if good.Err() != nil || bad.Err() == nil || bad.Err().Error() != "ERR tier: must be followed by a value" || last.Val() != "x" {
		t.Errorf("pipeline: %v, %v, %v", good.Err(), bad.Err(), last.Val())
	}
	if name, err := c.ClientGetName(ctx).Result(); err != nil || name != "test" {
		t.Errorf("the name of the connection is %q, %v", name, err)
	}
}
