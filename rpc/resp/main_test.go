// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/server"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testPolicy = `
tiers:
  free:  { requests: 10/min, tokens: 10_000/min, concurrent: 2, spend: $1/day }
  one:   { requests: 1/min }
  shrink:
    limits:
      - { name: tpm, dimension: tokens, limit: 1_000, window: 1m, on_exceed: degrade }
  media:
    limits:
      - { name: pictures, dimension: images, limit: 3, window: 1h, algorithm: sliding_window }
      - { name: preview, dimension: requests, limit: 1, window: 1m, mode: shadow }
default_tier: free
prices:
  "*": { input: 1.00, output: 3.00 }
`

// testWait is far longer than anything that a test waits for takes.
const testWait = 20 * time.Second

// node serves the protocol on loopback, with a clock that the test advances.
type node struct {
	t       testing.TB
	server  *Server
	address string
	elapsed atomic.Int64
}

func (n *node) now() limiter.Time {
	const start = 1_767_268_800_000_000_000 // 2026-01-01T12:00:00Z
	return limiter.Time{Mono: n.elapsed.Load(), Wall: start + n.elapsed.Load()}
}

// service returns a service that decides by testPolicy.
func (n *node) service() *server.Service {
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("test.yaml", []byte(testPolicy), engine.Catalog())
	if err != nil {
		n.t.Fatalf("policy: %v", err)
	}
	var ids atomic.Int64
	return server.New(server.Options{
		Engine: engine, Policy: func() server.Policy { return p }, Now: n.now, Name: "node1",
		NewID: func() string { return fmt.Sprintf("made-%d", ids.Add(1)) },
	})
}

func newNode(t testing.TB, change ...func(*Options)) *node {
	t.Helper()
	n := &node{t: t}
	o := Options{Decider: n.service(), Now: func() time.Time { return time.Unix(0, n.now().Wall) }, Version: "v0"}
	for _, f := range change {
		f(&o)
	}
	n.server = New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.address = l.Addr().String()
	ended := make(chan error, 1)
	go func() { ended <- n.server.Serve(l) }()
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), testWait)
		defer cancel()
		if err := n.server.Shutdown(ctx); err != nil {
			t.Errorf("Shutdown() = %v", err)
		}
		if err := <-ended; !errors.Is(err, ErrServerClosed) {
			t.Errorf("Serve() = %v, want %v", err, ErrServerClosed)
		}
	})
	return n
}

// user is a client that speaks the protocol as a test wants it.
type user struct {
	net.Conn
	t testing.TB
	r *bufio.Reader
}

func (n *node) dial() *user {
	n.t.Helper()
	c, err := net.DialTimeout("tcp", n.address, testWait)
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(testWait))
	return &user{c, n.t, bufio.NewReader(c)}
}

// wire returns commands, each a line of words, as clients send them.
func wire(commands ...string) string {
	var b strings.Builder
	for _, c := range commands {
		words := strings.Fields(c)
		fmt.Fprintf(&b, "*%d\r\n", len(words))
		for _, w := range words {
			fmt.Fprintf(&b, "$%d\r\n%s\r\n", len(w), w)
		}
	}
	return b.String()
}

func (u *user) send(text string) {
	u.t.Helper()
	if _, err := io.WriteString(u.Conn, text); err != nil {
		u.t.Fatalf("send: %v", err)
	}
}

// ask sends commands and returns their answers.
func (u *user) ask(commands ...string) []string {
	u.t.Helper()
	u.send(wire(commands...))
	answers := make([]string, len(commands))
	for i := range answers {
		answers[i] = u.receive()
	}
	return answers
}

// do asks one command.
func (u *user) do(command string) string {
	u.t.Helper()
	return u.ask(command)[0]
}

func (u *user) receive() string {
	u.t.Helper()
	answer, err := readAnswer(u.r)
	if err != nil {
		u.t.Fatalf("no answer: %v", err)
	}
	return answer
}

// readAnswer reads an answer, and shows arrays as [a b] and maps as {a:b}.
func readAnswer(r *bufio.Reader) (string, error) {
	line, err := r.ReadString('\n')
	if err != nil {
		return "", err
	}
	kind, rest := line[0], strings.TrimSuffix(line[1:], "\r\n")
	switch kind {
	case '+', '-', ':':
		return string(kind) + rest, nil
	case '_':
		return "nil", nil
	}
	n, err := strconv.Atoi(rest)
	if err != nil {
		return "", fmt.Errorf("answer %q: %w", line, err)
	}
	if n < 0 {
		return "nil", nil
	}
	switch kind {
	case '$':
		text := make([]byte, n+2)
		_, err := io.ReadFull(r, text)
		return string(text[:n]), err
	case '*', '%':
		shown := []string{"[", " ", "]"}
		if kind == '%' {
			shown = []string{"{", " ", "}"}
			n *= 2
		}
		parts := make([]string, n)
		for i := range parts {
			if parts[i], err = readAnswer(r); err != nil {
				return "", err
			}
		}
		if kind == '%' {
			for i := range parts[:n/2] {
				parts[i] = parts[2*i] + "=" + parts[2*i+1]
			}
			parts = parts[:n/2]
		}
		return shown[0] + strings.Join(parts, shown[1]) + shown[2], nil
	}
	return "", fmt.Errorf("answer %q", line)
}
