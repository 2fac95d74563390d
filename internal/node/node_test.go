// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

func TestMain(m *testing.M) {
	flag.Parse()
	if err := flag.Set("test.parallel", "3"); err != nil { // clusters mostly wait
		panic(err)
	}
	// A probe of memberlist ends up to its interval after the member was shut down.
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/hashicorp/memberlist.(*Memberlist).probeNode"))
}

// log is a buffer for concurrent use.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(b)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

// running is a node that answers.
type running struct {
	*Node
	t    *testing.T
	log  *log
	stop context.CancelFunc
	done chan struct{} // closed when Run has returned err
	err  error
}

func testConfig(edit func(*config.Config)) *config.Config {
	c := config.Default()
	c.Name, c.HTTP, c.GRPC, c.Gossip = "n1", "127.0.0.1:0", "127.0.0.1:0", "127.0.0.1:0"
	c.ForwardTimeout = waittest.Limit / 2 // long, so that a busy machine causes no fallback
	if edit != nil {
		edit(c)
	}
	return c
}

func start(t *testing.T, edit func(*config.Config)) *running {
	t.Helper()
	return startWith(t, edit, nil)
}

// startWith is start with further options. By default the node skips leaving the
// cluster.
func startWith(t *testing.T, edit func(*config.Config), change func(*Options)) *running {
	t.Helper()
	r := &running{t: t, log: &log{}, done: make(chan struct{})}
	up := make(chan struct{}) // closed when the node is ready
	o := Options{
		Config:    testConfig(edit),
		Logger:    slog.New(slog.NewTextHandler(r.log, nil)),
		OnReady:   func(*Node) { close(up) },
		SkipLeave: true,
	}
	if testing.Short() && len(o.Config.Join) > 0 {
		t.Skip("several members with all partitions in one process take too long under the race detector")
	}
	if change != nil {
		change(&o)
	}
	var err error
	if r.Node, err = New(o); err != nil {
		t.Fatal(err)
	}
	if err := r.Ready(); err == nil {
		t.Error("Ready before Run = nil, want an error")
	}
	var ctx context.Context
	ctx, r.stop = context.WithCancel(context.Background())
	go func() {
		defer close(r.done)
		r.err = r.Run(ctx)
	}()
	r.await("ready", up)
	t.Cleanup(func() {
		http.DefaultClient.CloseIdleConnections()
		_ = r.ended()
		if t.Failed() {
			t.Logf("log of %s:\n%s", r.Name(), r.log)
		}
	})
	return r
}

func (r *running) await(what string, done <-chan struct{}) {
	r.t.Helper()
	select {
	case <-done:
	case <-time.After(waittest.Limit):
		r.t.Fatalf("waited %s for %s; log:\n%s", waittest.Limit, what, r.log)
	}
}

// ended stops the node and returns the result of Run.
func (r *running) ended() error {
	r.t.Helper()
	r.stop()
	r.await("the end of Run", r.done)
	return r.err
}

func (r *running) get(path string) (int, string) {
	r.t.Helper()
	resp, err := http.Get("http://" + r.HTTPAddr() + path)
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		r.t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

// check posts a check and returns its status and the remaining tokens.
func (r *running) check(tokens int) (status int, left int64) {
	r.t.Helper()
	body := fmt.Sprintf(`{"key":"acme/alice","tier":"free","input_tokens":%d}`, tokens)
	resp, err := http.Post("http://"+r.HTTPAddr()+"/v1/check", "", strings.NewReader(body))
	if err != nil {
		r.t.Fatal(err)
	}
	defer resp.Body.Close()
	var answer struct {
		Limits []struct {
			Name      string
			Remaining int64
		}
	}
	if err := json.NewDecoder(resp.Body).Decode(&answer); err != nil {
		r.t.Fatal(err)
	}
	for _, l := range answer.Limits {
		if l.Name == "tokens" {
			left = l.Remaining
		}
	}
	return resp.StatusCode, left
}

func (r *running) dial() *grpc.ClientConn {
	r.t.Helper()
	return dialPlain(r.t, r.GRPCAddr())
}

func dialPlain(t *testing.T, address string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func TestHTTPAndGRPCShareOneEngine(t *testing.T) {
	r := start(t, nil)
	if status, left := r.check(6000); status != http.StatusOK || left != 4000 {
		t.Errorf("check over HTTP = %d, %d left, want 200, 4000", status, left)
	}
	d, err := pb.NewRateLimiterClient(r.dial()).Check(t.Context(), &pb.CheckRequest{Key: "acme/alice", Tier: "free", InputTokens: 6000})
	if err != nil || d.GetOutcome() != pb.Outcome_OUTCOME_DENIED || d.GetOwner() != "n1" {
		t.Errorf("check over gRPC = %v, %v, want denied by n1", d, err)
	}
	if err := r.Ready(); err != nil {
		t.Errorf("Ready = %v, want nil", err)
	}
	if status, body := r.get("/readyz"); status != http.StatusOK {
		t.Errorf("/readyz = %d %s, want 200", status, body)
	}
	_, text := r.get("/status")
	var got Status
	if err := json.Unmarshal([]byte(text), &got); err != nil || got.Name != "n1" || !got.Ready || got.State.Keys != 1 || got.Policy.Version == "" {
		t.Errorf("/status = %s (%v), want n1, ready, one key, a policy version", text, err)
	}
	if err := r.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if err := r.Ready(); err == nil {
		t.Error("Ready after Run = nil, want an error")
	}
}

func TestMetrics(t *testing.T) {
	r := start(t, func(c *config.Config) { c.Data = t.TempDir() })
	_, text := r.get("/metrics")
	for _, name := range []string{
		"go_goroutines ", "process_start_time_seconds ", "bucketring_build_info{", "bucketring_keys ",
		`bucketring_policy_info{digest="`, "bucketring_policy_last_reload_successful 1\n", `bucketring_policy_reloads_total{result="failure"} 0`,
		"bucketring_snapshot_size_bytes ",
	} {
		if !strings.Contains(text, "\n"+name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

func TestShutdownIsOrderlyAndLogged(t *testing.T) {
	r := startWith(t, func(c *config.Config) {
		c.DrainDelay = 300 * time.Millisecond
		c.Data = t.TempDir()
	}, func(o *Options) { o.SkipLeave = false })
	r.stop()
	waittest.Until(t, "draining", func() bool { return r.Ready() != nil })
	// Unready, but calls are still answered.
	if status, body := r.get("/readyz?verbose"); status != http.StatusServiceUnavailable || !strings.Contains(body, "draining") {
		t.Errorf("/readyz = %d %s, want 503 draining", status, body)
	}
	if status, _ := r.get("/livez"); status != http.StatusOK {
		t.Errorf("/livez = %d, want 200", status)
	}
	if status, _ := r.check(1); status != http.StatusOK {
		t.Errorf("check while draining = %d, want 200", status)
	}
	health, err := healthpb.NewHealthClient(r.dial()).Check(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil || health.GetStatus() != healthpb.HealthCheckResponse_NOT_SERVING {
		t.Errorf("gRPC health while draining = %v, %v, want NOT_SERVING", health, err)
	}
	if err := r.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	at := 0
	for _, step := range []string{
		"turn unready", "leave the ring", "wait for the drain delay", "return slices", "flush the outbox", "stop servers", "stop background work",
		"leave the cluster", "save state", "close ",
	} {
		next := strings.Index(r.log.String()[at:], `step="`+step)
		if next < 0 {
			t.Fatalf("log has no step %q after byte %d:\n%s", step, at, r.log)
		}
		at += next
	}
}

// A stream that never ends, such as a health watch, must not delay a shutdown.
func TestShutdownIsBounded(t *testing.T) {
	r := start(t, func(c *config.Config) { c.ShutdownTimeout = 50 * time.Millisecond })
	watch, err := healthpb.NewHealthClient(r.dial()).Watch(t.Context(), &healthpb.HealthCheckRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := watch.Recv(); err != nil {
		t.Fatal(err)
	}
	conn, err := net.Dial("tcp", r.HTTPAddr()) // for a request that is never complete
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := io.WriteString(conn, "POST /v1/check HTTP/1.1\r\nHost: n1\r\nContent-Length: 9\r\n\r\n{"); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	if err := r.ended(); err != nil {
		t.Errorf("Run = %v, want nil", err)
	}
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("shutdown took %s, want about 50ms", took)
	}
	if !strings.Contains(r.log.String(), "gRPC calls cancelled") {
		t.Errorf("log does not say that calls were cancelled:\n%s", r.log)
	}
}

func TestRestartOverHTTP(t *testing.T) {
	data := t.TempDir()
	first := start(t, func(c *config.Config) { c.Data = data })
	first.check(9000)
	if err := first.ended(); err != nil {
		t.Fatal(err)
	}
	second := start(t, func(c *config.Config) { c.Data = data })
	if status, _ := second.check(9000); status != http.StatusTooManyRequests {
		t.Errorf("check after a restart = %d, want 429", status)
	}
}

// Usage is on disk while the node runs, so a copy of the directory is as good as the
// directory after a crash.
func TestJournalWhileRunning(t *testing.T) {
	data, crashed := t.TempDir(), t.TempDir()
	r := start(t, func(c *config.Config) { c.Data = data })
	r.check(9000)
	checked := time.Now()
	waittest.Until(t, "an fsync", func() bool {
		last := r.Status().Journal.LastSync
		return last != nil && last.After(checked)
	})
	if err := os.CopyFS(filepath.Join(crashed, "data"), os.DirFS(data)); err != nil {
		t.Fatal(err)
	}
	second := start(t, func(c *config.Config) { c.Data = filepath.Join(crashed, "data") })
	if status, _ := second.check(9000); status != http.StatusTooManyRequests {
		t.Errorf("check after a crash = %d, want 429", status)
	}
	if _, text := second.get("/metrics"); !strings.Contains(text, "\nbucketring_journal_failing 0\n") {
		t.Error("/metrics does not show that the journal works")
	}
}

func TestPolicyIsReloaded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "policy.yaml")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("tiers: { free: { tokens: 100/min } }\n")
	r := start(t, func(c *config.Config) { c.Policy = path })
	if status, left := r.check(0); status != http.StatusOK || left != 100 {
		t.Errorf("check = %d, %d left, want 200, 100", status, left)
	}
	write("tiers: { free: { tokens: 200/min } }\n")
	r.Reload()
	if _, left := r.check(0); left != 200 {
		t.Errorf("after a reload %d are left, want 200", left)
	}
	write("tiers: { free: { tokens: 200/min, tokans: 1/min } }\n")
	r.Reload()
	if _, left := r.check(0); left != 200 {
		t.Errorf("after a bad reload %d are left, want 200", left)
	}
	if _, text := r.get("/metrics"); !strings.Contains(text, "\nbucketring_policy_last_reload_successful 0\n") {
		t.Error("/metrics does not show the bad reload")
	}
	if !strings.Contains(r.log.String(), "policy not reloaded") {
		t.Errorf("log does not show the bad reload:\n%s", r.log)
	}
}

func TestNewFailsCleanly(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for name, edit := range map[string]func(*config.Config){
		"port in use":        func(c *config.Config) { c.HTTP = taken.Addr().String() },
		"gossip port in use": func(c *config.Config) { c.Gossip = taken.Addr().String() },
		"no gossip host":     func(c *config.Config) { c.Gossip = "host.invalid:0" },
		"no advertised host": func(c *config.Config) { c.Advertise = "host.invalid" },
		"no keys":            func(c *config.Config) { c.ClusterKeyFile = filepath.Join(t.TempDir(), "none") },
		"no policy":          func(c *config.Config) { c.Policy = filepath.Join(t.TempDir(), "none.yaml") },
		"no data":            func(c *config.Config) { c.Data = "/dev/null/data" },
	} {
		n, err := New(Options{Config: testConfig(edit)})
		if err == nil {
			t.Errorf("%s: New = nil, want an error", name)
			_ = n.Close()
		}
	}
}

func TestCloseWithoutRun(t *testing.T) {
	n, err := New(Options{Config: testConfig(nil)})
	if err != nil {
		t.Fatal(err)
	}
	address := n.GRPCAddr()
	if err := n.Close(); err != nil {
		t.Errorf("Close = %v, want nil", err)
	}
	if err := n.Close(); err != nil {
		t.Errorf("Close again = %v, want nil", err)
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatalf("the port is not free after Close: %v", err)
	}
	_ = l.Close()
}
