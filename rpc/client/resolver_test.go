// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"net"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/internal/freeport"
	"github.com/bucketring/bucketring/rpc/pb"
)

// fixedServer answers every check.
type fixedServer struct {
	pb.UnimplementedRateLimiterServer
}

func (fixedServer) Check(_ context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	return &pb.Decision{Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: r.GetRequestId()}, nil
}

// serveAt serves at an address until the returned function is called.
func serveAt(t *testing.T, address string) (stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	pb.RegisterRateLimiterServer(s, fixedServer{})
	ended := make(chan error, 1) // result of Serve
	go func() { ended <- s.Serve(l) }()
	var stopped atomic.Bool
	stop = func() {
		if !stopped.Swap(true) {
			s.Stop()
			if err := <-ended; err != nil {
				t.Error(err)
			}
		}
	}
	t.Cleanup(stop)
	return stop
}

// A node whose name gets another address is found again when the connection to the old
// one fails, with one node and with several. gRPC's own resolver waits 30 seconds.
func TestNamesAreLookedUpAgain(t *testing.T) {
	for name, addrs := range map[string][]string{"one": {"node1.test"}, "several": {"node1.test", "node2.test"}} {
		t.Run(name, func(t *testing.T) {
			free, err := freeport.Pick() // no other process gets it while it moves between addresses
			if err != nil {
				t.Fatal(err)
			}
			port := strconv.Itoa(free)
			stop := serveAt(t, net.JoinHostPort("127.0.0.1", port))
			var ip atomic.Pointer[string]
			var broken atomic.Bool // no name is found
			set := func(address string) { ip.Store(&address) }
			set("127.0.0.1")
			o := Options{Insecure: true, DisableOwnerRouting: true, lookupHost: func(_ context.Context, host string) ([]string, error) {
				if broken.Load() {
					return nil, errors.New("no such host " + host)
				}
				return []string{*ip.Load()}, nil
			}}
			for _, host := range addrs {
				o.Addrs = append(o.Addrs, net.JoinHostPort(host, port))
			}
			c, err := Dial(o)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			answers := func(what string) {
				t.Helper()
				for end := time.Now().Add(12 * time.Second); ; time.Sleep(20 * time.Millisecond) { // sooner than gRPC looks again
					_, err := c.Check(t.Context(), Call{Key: "a"})
					if err == nil {
						return
					}
					if time.Now().After(end) {
						t.Fatalf("%s: Check = %v, want an answer", what, err)
					}
				}
			}
			answers("at first")
			for i, address := range []string{"127.0.0.2", "127.0.0.3"} { // more often than every 30 seconds
				broken.Store(i == 1)
				stop()
				if i == 1 {
					if _, err := c.Check(t.Context(), Call{Key: "a"}); err == nil {
						t.Error("Check = nil while no node runs, want an error")
					}
				}
				stop = serveAt(t, net.JoinHostPort(address, port))
				set(address)
				broken.Store(false)
				answers("at " + address)
			}
		})
	}
}
