// SPDX-License-Identifier: Apache-2.0

package sizing

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/config"
	"github.com/bucketring/bucketring/internal/gcpace"
	"github.com/bucketring/bucketring/internal/node"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
)

// A stoppingClock stands still once it is stopped, so that no id and no lease ends during a
// test, however slow the machine is.
type stoppingClock struct {
	began   time.Time
	stopped atomic.Pointer[limiter.Time] // nil while it runs
}

func (c *stoppingClock) now() limiter.Time {
	if at := c.stopped.Load(); at != nil {
		return *at
	}
	return limiter.Time{Mono: 1 + int64(time.Since(c.began)), Wall: time.Now().UnixNano()}
}

func (c *stoppingClock) stop() {
	at := c.now()
	c.stopped.Store(&at)
}

// newNode returns a node. Its clock stops when it is ready, and ready is called then.
func newNode(httpAddress, grpc, gossip, policy string, ready func()) (*node.Node, error) {
	c := config.Default()
	c.Name, c.HTTP, c.GRPC, c.Gossip, c.Policy = "n1", httpAddress, grpc, gossip, policy
	clock := &stoppingClock{began: time.Now()}
	return node.New(node.Options{Config: c, Now: clock.now, SkipLeave: true, OnReady: func(*node.Node) {
		clock.stop()
		ready()
	}})
}

// startNode starts a node in this process and returns its gRPC address.
func startNode(t *testing.T) (address string) {
	t.Helper()
	up := make(chan struct{}) // closed when the node is ready
	const free = "127.0.0.1:0"
	n, err := newNode(free, free, free, writeRules(t), func() { close(up) })
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1) // result of Run
	go func() { ended <- n.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run = %v", err)
		}
	})
	select {
	case <-up:
	case <-time.After(waittest.Limit):
		t.Fatal("the node did not become ready")
	}
	return n.GRPCAddr()
}

// runNode runs a node as bucketring serve does, with its GOGC, until the process is killed.
// The arguments are addresses for HTTP, gRPC and gossip, and the file of the policy.
func runNode(args []string) error {
	if len(args) != 4 {
		return errors.New("want four arguments")
	}
	n, err := newNode(args[0], args[1], args[2], args[3], func() {})
	if err != nil {
		return err
	}
	go gcpace.Run(context.Background())
	return n.Run(context.Background())
}

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == asNode {
		err := runNode(os.Args[2:])
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}
