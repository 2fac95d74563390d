// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"
)

// patience bounds every wait.
const patience = 20 * time.Second

// buildBinary builds bucketring into a directory where its tests' sessions
// find it, next to the curl of this package.
func buildBinary(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	build := exec.CommandContext(t.Context(), "go", "build", "-o", dir, "./cmd/bucketring")
	build.Dir = root
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(self, filepath.Join(dir, "curl")); err != nil {
		t.Fatal(err)
	}
	return dir
}

// session runs the console blocks of one document, in order, in a directory of
// their own.
type session struct {
	bin, dir   string
	http, grpc string // addresses of the node
	node       *exec.Cmd
	printed    *buffer
}

func newSession(t *testing.T, bin string) *session {
	t.Helper()
	s := &session{bin: bin, dir: t.TempDir(), http: freeAddress(t), grpc: freeAddress(t)}
	t.Cleanup(func() { s.stop(t) })
	return s
}

// freeAddress returns a loopback address that was free a moment ago.
func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

var startsNode = regexp.MustCompile(`^(go run \./cmd/bucketring|bucketring) (dev|serve)\b(.*?)( &)?( +#.*)?$`)

// run does a step and returns what it printed.
func (s *session) run(t *testing.T, command string) string {
	t.Helper()
	if m := startsNode.FindStringSubmatch(command); m != nil {
		return s.public(s.start(t, m[2], m[3]))
	}
	command = strings.ReplaceAll(command, "go run ./cmd/bucketring", "bucketring")
	before := s.policyVersion()
	out, _ := s.shell(t.Context(), command).CombinedOutput() // a denial exits with 3, and its output says so
	if strings.Contains(command, "policy.yaml") && s.node != nil {
		s.awaitReload(t, before)
	}
	return s.public(string(out))
}

func (s *session) shell(ctx context.Context, command string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(),
		"PATH="+s.bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"DOCSTEST_HTTP="+s.http,
		"BUCKETRING_HTTP="+s.http, "BUCKETRING_SERVER="+s.grpc,
		"NO_COLOR=1",
		"GORACE=atexit_sleep_ms=0") // else a curl under the race detector takes a second
	cmd.WaitDelay = time.Second
	return cmd
}

// start runs a node until the session ends, and returns what it says when it
// is ready.
func (s *session) start(t *testing.T, verb, flags string) string {
	t.Helper()
	s.stop(t)
	s.node = s.shell(context.WithoutCancel(t.Context()), "exec bucketring "+verb+flags+" --http "+s.http+" --grpc "+s.grpc)
	s.printed = &buffer{}
	s.node.Stdout, s.node.Stderr = s.printed, s.printed
	if err := s.node.Start(); err != nil {
		t.Fatal(err)
	}
	await(t, "the node is ready", func() bool { return s.get("/readyz") != "" })
	return s.printed.String()
}

func (s *session) stop(t *testing.T) {
	t.Helper()
	if s.node == nil {
		return
	}
	if err := s.node.Process.Signal(os.Interrupt); err != nil {
		t.Error(err)
	}
	if err := s.node.Wait(); err != nil {
		t.Errorf("the node ended with %v:\n%s", err, s.printed)
	}
	s.node = nil
}

// get returns the body of a path of the node, "" if there is none.
func (s *session) get(path string) string {
	answer, err := http.Get("http://" + s.http + path)
	if err != nil {
		return ""
	}
	defer answer.Body.Close()
	body, err := io.ReadAll(answer.Body)
	if err != nil || answer.StatusCode != http.StatusOK {
		return ""
	}
	return string(body)
}

var policyVersion = regexp.MustCompile(`"policy_version":\s*"[^"]*"`)

func (s *session) policyVersion() string {
	return policyVersion.FindString(s.get("/v1/limits?key=docs"))
}

// awaitReload waits until the node has seen an edit of its policy.
func (s *session) awaitReload(t *testing.T, before string) {
	t.Helper()
	await(t, "the policy is reloaded", func() bool { return s.policyVersion() != before })
}

func await(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !done(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited %s, and not yet: %s", patience, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
}

// buffer is a bytes.Buffer that a process may write while a test reads.
type buffer struct {
	mu struct {
		sync.Mutex
		text bytes.Buffer
	}
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.mu.text.String()
}

// public names the addresses that the documentation names.
func (s *session) public(text string) string {
	text = strings.ReplaceAll(text, s.http, "127.0.0.1:6470")
	return strings.ReplaceAll(text, s.grpc, "127.0.0.1:6471")
}
