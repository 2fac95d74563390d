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

// Close releases what New opened. It is not needed after Run.
func (n *Node) Close() error { return n.cleanups.unwind() }

// pushDrain pushes the shutdown steps that run while calls are still answered.
func (n *Node) pushDrain() {
	n.cleanups.push("flush the outbox", n.flushOutbox)
	n.cleanups.push("return slices", n.returnSlices)
	if n.proxy != nil {
		n.cleanups.push("drain the proxy", n.drainProxy)
	}
	n.cleanups.push("wait for the drain delay", func() error {
		time.Sleep(n.config.DrainDelay)
		return nil
	})
	n.cleanups.push("leave the ring", n.leaveRingOnce)
	n.cleanups.push("turn unready", func() error {
		n.setPhase(draining)
		n.log.Info("shutting down", "drain_delay", n.config.DrainDelay, "timeout", n.config.ShutdownTimeout)
		return nil
	})
}

// flushOutbox waits up to flushTimeout until owners have acknowledged what was
// decided in fallback.
func (n *Node) flushOutbox() error {
	if n.skipLeave {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := n.router.Flush(ctx); err != nil {
		n.log.Warn("outbox not drained before shutdown", "pending", n.router.Status().Outbox, "timeout", flushTimeout, "error", err)
	}
	return nil
}

// returnSlices waits up to flushTimeout until owners have what was spent of the slices that
// this node holds. What they do not learn is charged in full when the lease ends.
func (n *Node) returnSlices() error {
	if n.skipLeave {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), flushTimeout)
	defer cancel()
	if err := n.router.ReturnSlices(ctx); err != nil {
		n.log.Warn("slices not returned before shutdown", "pending", n.router.Status().Slices.PendingReturns, "timeout", flushTimeout, "error", err)
	}
	return nil
}

// stopServers accepts no new calls and waits until calls in flight have ended or
// the shutdown timeout has passed.
func (n *Node) stopServers() error {
	n.health.Shutdown()
	n.router.Drain() // otherwise the streams of peers would never end
	if n.replication.Waits() {
		if err := n.replicating.stop(); err != nil { // likewise
			return err
		}
	}
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
	err := errors.Join(n.stopHTTP(ctx), n.stopRESP(ctx))
	select {
	case <-graceful:
	case <-ctx.Done():
		n.log.Warn("gRPC calls cancelled after the shutdown timeout", "timeout", n.config.ShutdownTimeout)
		for _, s := range n.grpcServers() {
			s.Stop() // makes GracefulStop return
		}
		<-graceful
	}
	return err
}

// stopHTTP is the part of stopServers for HTTP.
func (n *Node) stopHTTP(ctx context.Context) (err error) {
	servers := []*http.Server{n.http}
	if n.envoy != nil && n.envoy.http != nil {
		servers = append(servers, n.envoy.http)
	}
	for _, s := range servers {
		stopped := s.Shutdown(ctx)
		if errors.Is(stopped, context.DeadlineExceeded) {
			n.log.Warn("HTTP calls cancelled after the shutdown timeout", "timeout", n.config.ShutdownTimeout)
			stopped = s.Close()
		}
		err = errors.Join(err, stopped)
	}
	if err != nil {
		return fmt.Errorf("stop HTTP: %w", err)
	}
	return nil
}

// grpcServers returns all gRPC servers of the node.
func (n *Node) grpcServers() []*grpc.Server {
	servers := []*grpc.Server{n.grpc}
	if n.envoy != nil && n.envoy.grpc != nil {
		servers = append(servers, n.envoy.grpc)
	}
	return servers
}
