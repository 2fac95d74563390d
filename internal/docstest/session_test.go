// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"bytes"
	"context"
	"io"
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

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/internal/waittest"
)

// buildBinary builds bucketring into a directory, next to a symbolic link that
// makes this test's binary act as curl.
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

// session runs the console blocks of one document in order, in a new directory.
type session struct {
	bin, dir   string
	http, grpc string   // addresses of the first node
	addresses  []string // of all nodes, in pairs: in the documents, in this session
	node       *exec.Cmd
	output     *buffer // of node
}

func newSession(t *testing.T, bin string) *session {
	t.Helper()
	s := &session{bin: bin, dir: t.TempDir()}
	offsets := make([]int, len(documentedPorts))
	for i := range offsets {
		offsets[i] = i
	}
	base, err := freeport.Pick(offsets...)
	if err != nil {
		t.Fatal(err)
	}
	for i, documented := range documentedPorts {
		actual := freeport.Address(base + i)
		s.addresses = append(s.addresses, "127.0.0.1:"+strconv.Itoa(documented), actual)
	}
	s.http, s.grpc = s.addresses[1], s.addresses[3]
	t.Cleanup(func() { s.stop(t) })
	return s
}

// documentedPorts are the ports of a cluster in the documents: HTTP, gRPC and
// gossip of each node. A session shifts them to another first port.
var documentedPorts = func() (ports []int) {
	for port := 6470; port <= 6492; port++ {
		ports = append(ports, port)
	}
	return ports
}()

var startsNode = regexp.MustCompile(`^(go run \./cmd/bucketring|bucketring) (dev|serve)\b(.*?)( &)?( +#.*)?$`)

// tlsFiles are the flags with which a command calls a node that is started with them.
var tlsFiles = regexp.MustCompile(`--tls-\w+-file \S+`)

// run runs a command and returns its output.
func (s *session) run(t *testing.T, command string) string {
	t.Helper()
	if m := startsNode.FindStringSubmatch(command); m != nil {
		return s.documented(s.start(t, m[2], m[3]))
	}
	command = strings.ReplaceAll(command, "go run ./cmd/bucketring", "bucketring")
	command = strings.ReplaceAll(command, "redis-cli -p 6479", "redis-cli -p "+strings.TrimPrefix(s.actual("127.0.0.1:6479"), "127.0.0.1:"))
	before := s.policyVersion()
	out, _ := s.shell(t.Context(), command).CombinedOutput() // the exit code is not checked: 3 is a denial
	if strings.Contains(command, "policy.yaml") && s.node != nil {
		s.awaitReload(t, before)
	}
	return s.documented(string(out))
}

func (s *session) shell(ctx context.Context, command string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = s.dir
	cmd.Env = append(os.Environ(),
		"PATH="+s.bin+string(os.PathListSeparator)+os.Getenv("PATH"),
		"DOCSTEST_ADDRESSES="+strings.Join(s.addresses, " "),
		"BUCKETRING_HTTP="+s.http, "BUCKETRING_SERVER="+s.grpc,
		"NO_COLOR=1",
		"GORACE=atexit_sleep_ms=0") // otherwise curl takes a second under the race detector
	cmd.WaitDelay = time.Second
	return cmd
}

// start runs a node until the session ends, and returns its output until it is
// ready.
func (s *session) start(t *testing.T, verb, flags string) string {
	t.Helper()
	s.stop(t)
	s.node = s.shell(context.WithoutCancel(t.Context()), "exec bucketring "+verb+s.actual(flags)+" --http "+s.http+" --grpc "+s.grpc+" --gossip "+s.addresses[5])
	s.output = &buffer{}
	s.node.Stdout, s.node.Stderr = s.output, s.output
	if err := s.node.Start(); err != nil {
		t.Fatal(err)
	}
	health := "bucketring health --ready " + strings.Join(tlsFiles.FindAllString(flags, -1), " ")
	waittest.Until(t, "the node to be ready", func() bool {
		if strings.Contains(flags, "--tls required") {
			return s.shell(t.Context(), health).Run() == nil
		}
		return s.get("/readyz") != ""
	})
	return s.output.String()
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
		t.Errorf("the node ended with %v:\n%s", err, s.output)
	}
	s.node = nil
}

// get returns the body of an answer of the node, or "" after an error.
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

// awaitReload waits until the node has reloaded its policy.
func (s *session) awaitReload(t *testing.T, before string) {
	t.Helper()
	waittest.Until(t, "the policy to be reloaded", func() bool { return s.policyVersion() != before })
}

// buffer is a bytes.Buffer for concurrent use.
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

// actual replaces the addresses of the documents in the flags of a node by those of the session.
func (s *session) actual(flags string) string {
	for pair := range slices.Chunk(s.addresses, 2) {
		flags = strings.ReplaceAll(flags, pair[0], pair[1])
	}
	return flags
}

// documented replaces the addresses of the session by those of the documents.
func (s *session) documented(text string) string {
	for pair := range slices.Chunk(s.addresses, 2) {
		text = strings.ReplaceAll(text, pair[1], pair[0])
	}
	return text
}
