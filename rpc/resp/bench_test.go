// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/server"
)

// sink is a connection whose input is in memory and whose output is thrown away.
type sink struct {
	net.Conn
	written int
}

func (s *sink) Write(b []byte) (int, error)      { s.written += len(b); return len(b), nil }
func (s *sink) SetWriteDeadline(time.Time) error { return nil }
func (s *sink) RemoteAddr() net.Addr             { return &net.TCPAddr{} }

// benchPolicy has tiers with four limits: one that admits all, and one that denies.
const benchPolicy = `
tiers:
  big:   { requests: 1_000_000_000_000/min, tokens: 1_000_000_000_000/min, concurrent: 50, spend: $1_000_000_000/day }
  small: { requests: 1/day, tokens: 100_000/min, concurrent: 10, spend: $50/day }
default_tier: big
prices:
  "*": { input: 1.00, output: 3.00 }
`

// newBench returns a connection to a service that decides by benchPolicy.
func newBench(tb testing.TB) *conn {
	tb.Helper()
	engine := limiter.New(limiter.Options{})
	p, err := policy.Parse("bench.yaml", []byte(benchPolicy), engine.Catalog())
	if err != nil {
		tb.Fatal(err)
	}
	start := time.Now()
	s := New(Options{Decider: server.New(server.Options{
		Engine: engine, Policy: func() server.Policy { return p }, Name: "node1",
		Now: func() limiter.Time { return limiter.Time{Mono: int64(time.Since(start)), Wall: time.Now().UnixNano()} },
	})})
	c := newConn(s, &sink{}, 1)
	c.login.known = true
	tb.Cleanup(c.cancel)
	return c
}

// feed lets the connection answer what it has read.
func (c *conn) feed(text string) {
	if len(c.buffer) < len(text) {
		c.buffer = make([]byte, len(text))
	}
	c.start, c.end = 0, copy(c.buffer, text)
	c.answer()
	c.flush()
}

const benchCheck = "BR.CHECK acme/alice TIER big INPUT_TOKENS 1"

// TestAllocations: a check takes the memory of its arguments and of its id, and nothing else.
func TestAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	for _, tt := range []struct {
		what, text string
		most       float64
	}{
		{"a check", wire(benchCheck), 2},
		{"a check with an id", wire(benchCheck + " REQUEST_ID 1"), 1},
		{"a denied check, with its message", wire("BR.CHECK acme/bob TIER small INPUT_TOKENS 1"), 12},
		{"16 checks in a pipeline", strings.Repeat(wire(benchCheck), 16), 16*2 + 2},
		{"CL.THROTTLE", wire("CL.THROTTLE user 1000000 1000000 1"), 1},
		{"PING", wire("PING"), 1},
	} {
		c := newBench(t)
		for range 50 {
			c.feed(tt.text)
		}
		if got := testing.AllocsPerRun(200, func() { c.feed(tt.text) }); got > tt.most {
			t.Errorf("%s allocates %v times, want at most %v", tt.what, got, tt.most)
		}
	}
}

func benchmark(b *testing.B, text string, calls int) {
	c := newBench(b)
	c.feed(text)
	b.ReportAllocs()
	for b.Loop() {
		c.feed(text)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*calls), "ns/call")
}

// In memory: parsing, deciding four limits, and writing the answer.

func BenchmarkRESPCheck(b *testing.B) { benchmark(b, wire(benchCheck), 1) }

func BenchmarkRESPPipeline16(b *testing.B) { benchmark(b, strings.Repeat(wire(benchCheck), 16), 16) }

func BenchmarkRESPPipeline256(b *testing.B) { benchmark(b, strings.Repeat(wire(benchCheck), 256), 256) }

func BenchmarkRESPDenied(b *testing.B) {
	benchmark(b, wire("BR.CHECK acme/bob TIER small INPUT_TOKENS 1"), 1)
}

func BenchmarkRESPThrottle(b *testing.B) {
	benchmark(b, wire("CL.THROTTLE user 1000000 1000000 1"), 1)
}

// BenchmarkRESPLoopback is a call and its answer over a connection, one at a time and in
// pipelines, with a client that only counts bytes.
func BenchmarkRESPLoopback(b *testing.B) {
	for _, calls := range []int{1, 16} {
		b.Run(fmt.Sprint("pipeline=", calls), func(b *testing.B) {
			n := newNode(b)
			text := strings.Repeat(wire("BR.LIMITS acme/alice TIER free"), calls)
			buffer := make([]byte, measureAnswer(b, n, text))
			u := n.dial()
			_ = u.SetDeadline(time.Time{})
			for b.Loop() {
				u.send(text)
				if _, err := io.ReadFull(u.Conn, buffer); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*calls), "ns/call")
		})
	}
}

// measureAnswer returns the length of the answer to text, which is always the same.
func measureAnswer(b *testing.B, n *node, text string) int {
	b.Helper()
	u := n.dial()
	u.send(text + wire("QUIT"))
	all, err := io.ReadAll(u.Conn)
	if err != nil {
		b.Fatal(err)
	}
	return len(all) - len("+OK\r\n")
}
