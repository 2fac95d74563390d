// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc"
)

// Close gives up what New opened. A node that ran has done so already.
func (n *Node) Close() error { return n.cleanups.unwind() }

// pushDrain pushes what is done while calls are still answered.
func (n *Node) pushDrain() {
	n.cleanups.push("flush the outbox", n.flush)
	if n.proxy != nil {
		n.cleanups.push("finish calls of the proxy", n.finishProxy)
	}
	n.cleanups.push("drain", func() error {
		time.Sleep(n.config.DrainDelay)
		return nil
	})
	n.cleanups.push("leave the ring", n.leaveRing)
	n.cleanups.push("turn unready", func() error {
		n.setPhase(draining)
		n.log.Info("shutting down", "drain_delay", n.config.DrainDelay, "timeout", n.config.ShutdownTimeout)
		return nil
	})
}

// flush waits, for some seconds, until owners know what was decided for them.
func (n *Node) flush() error {
	if n.hasty {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := n.router.Flush(ctx); err != nil {
		n.log.Warn("owners do not know of everything that was decided without them", "error", err)
	}
	return nil
}

// stopServers takes no new calls and lets those in progress finish, until the
// timeout cuts them off.
func (n *Node) stopServers() error {
	n.health.Shutdown()
	n.router.Drain() // its streams would never end
	ctx, cancel := context.WithTimeout(context.Background(), n.config.ShutdownTimeout)
	defer cancel()

	graceful := make(chan struct{}) // closed when every gRPC call has ended
	go func() {
		defer close(graceful)
		var servers sync.WaitGroup
		for _, s := range n.grpcServers() {
			servers.Go(s.GracefulStop)
		}
		servers.Wait()
	}()
	err := n.stopHTTP(ctx)
	select {
	case <-graceful:
	case <-ctx.Done():
		n.log.Warn("gRPC calls were cut off", "timeout", n.config.ShutdownTimeout)
		for _, s := range n.grpcServers() {
			s.Stop() // GracefulStop returns, too
		}
		<-graceful
	}
	if err != nil {
		return fmt.Errorf("stop HTTP: %w", err)
	}
	return nil
}

// stopHTTP is what stopServers does for HTTP.
func (n *Node) stopHTTP(ctx context.Context) (err error) {
	servers := []*http.Server{n.http}
	if n.envoy != nil && n.envoy.http != nil {
		servers = append(servers, n.envoy.http)
	}
	for _, s := range servers {
		stopped := s.Shutdown(ctx)
		if errors.Is(stopped, context.DeadlineExceeded) {
			n.log.Warn("HTTP calls were cut off", "timeout", n.config.ShutdownTimeout)
			stopped = s.Close()
		}
		err = errors.Join(err, stopped)
	}
	return err
}

// grpcServers are those that are to be stopped.
func (n *Node) grpcServers() []*grpc.Server {
	servers := []*grpc.Server{n.grpc}
	if n.envoy != nil && n.envoy.grpc != nil {
		servers = append(servers, n.envoy.grpc)
	}
	return servers
}
