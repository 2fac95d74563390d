// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"bytes"
	"context"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
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
	http, grpc string   // addresses of the first node
	addresses  []string // of all: what the documents say, what it is here, in pairs
	node       *exec.Cmd
	printed    *buffer
}

func newSession(t *testing.T, bin string) *session {
	t.Helper()
	s := &session{bin: bin, dir: t.TempDir()}
	base := freePorts(t)
	for i, documented := range documentedPorts {
		here := "127.0.0.1:" + strconv.Itoa(base+i)
		s.addresses = append(s.addresses, "127.0.0.1:"+strconv.Itoa(documented), here)
	}
	s.http, s.grpc = s.addresses[1], s.addresses[3]
	t.Cleanup(func() { s.stop(t) })
	return s
}

// documentedPorts are those of a cluster as the documents have it: HTTP, gRPC and
// gossip of each node. A session has the same with another first one.
var documentedPorts = func() (ports []int) {
	for port := 6470; port <= 6492; port++ {
		ports = append(ports, port)
	}
	return ports
}()

// freePorts returns the first of as many ports in a row as documentedPorts has,
// which were free a moment ago.
func freePorts(t *testing.T) int {
	t.Helper()
	for range 100 {
		base := 20_000 + rand.IntN(10_000) // below those that the system gives to clients
		if !slices.ContainsFunc(documentedPorts, func(port int) bool {
			l, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:"+strconv.Itoa(base+port-documentedPorts[0]))
			if err != nil {
				return true
			}
			return l.Close() != nil
		}) {
			return base
		}
	}
	t.Fatal("no ports are free")
	return 0
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
		"DOCSTEST_ADDRESSES="+strings.Join(s.addresses, " "),
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
	s.node = s.shell(context.WithoutCancel(t.Context()), "exec bucketring "+verb+flags+" --http "+s.http+" --grpc "+s.grpc+" --gossip "+s.addresses[5])
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
	for pair := range slices.Chunk(s.addresses, 2) {
		text = strings.ReplaceAll(text, pair[1], pair[0])
	}
	return text
}
