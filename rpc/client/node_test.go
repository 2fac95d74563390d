// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"context"
	"net"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/server"
)

// node is a real node, with the default policy and a clock that only the test
// advances. Several listeners make it look like a cluster.
type node struct {
	service *server.Service
	clock   atomic.Int64 // nanoseconds since the start
	servers []*grpc.Server
}

func newNode() *node {
	n := &node{}
	engine := limiter.New(limiter.Options{})
	rules := policy.Default(engine.Catalog())
	start := limiter.Time{Mono: int64(time.Hour), Wall: time.Date(2026, 11, 22, 21, 40, 0, 0, time.UTC).UnixNano()}
	n.service = server.New(server.Options{
		Engine: engine,
		Policy: func() server.Policy { return rules },
		Now:    func() limiter.Time { return start.Add(time.Duration(n.clock.Load())) },
		Name:   "node-1",
	})
	return n
}

// listen serves on one more loopback port.
func (n *node) listen(options ...grpc.ServerOption) (addr string, err error) {
	l, err := new(net.ListenConfig).Listen(context.Background(), "tcp", "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	s := server.NewGRPC(n.service, server.GRPCOptions{Server: options})
	n.servers = append(n.servers, s)
	go func() { _ = s.Serve(l) }()
	return l.Addr().String(), nil
}

func (n *node) advance(d time.Duration) { n.clock.Add(int64(d)) }

func (n *node) stop() {
	for _, s := range n.servers {
		s.Stop()
	}
}

// exampleNode starts a node with the default policy.
func exampleNode() (addr string, stop func()) {
	n := newNode()
	addr, err := n.listen()
	if err != nil {
		panic(err)
	}
	return addr, n.stop
}

// fakeModel has a fixed answer to every prompt.
type fakeModel struct{}

// modelUsage is the usage block of an answer.
type modelUsage struct{ Input, Output int64 }

var model fakeModel

// Complete is like a method of an inference server's client.
func (fakeModel) Complete(_ context.Context, prompt string, maxTokens int64) (string, modelUsage, error) {
	return "Because of Rayleigh scattering.", modelUsage{Input: int64(len(prompt)), Output: min(6, maxTokens)}, nil
}
