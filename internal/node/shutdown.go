// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"fmt"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/rpc/server"
)

// Close gives up what New opened. A node that ran has done so already.
func (n *Node) Close() error { return n.cleanups.unwind() }

// drain turns the node unready and waits until those who ask have noticed.
// Calls are still answered.
func (n *Node) drain() error {
	n.phase.Store(draining)
	n.health.SetServingStatus(server.HealthReady, healthpb.HealthCheckResponse_NOT_SERVING)
	n.log.Info("shutting down", "drain_delay", n.config.DrainDelay, "timeout", n.config.ShutdownTimeout)
	time.Sleep(n.config.DrainDelay)
	return nil
}

// stopServers takes no new calls and lets those in progress finish, until the
// timeout cuts them off.
func (n *Node) stopServers() error {
	n.health.Shutdown()
	ctx, cancel := context.WithTimeout(context.Background(), n.config.ShutdownTimeout)
	defer cancel()

	graceful := make(chan struct{}) // closed when every gRPC call has ended
	go func() {
		defer close(graceful)
		n.grpc.GracefulStop()
	}()
	err := n.http.Shutdown(ctx)
	if errors.Is(err, context.DeadlineExceeded) {
		n.log.Warn("HTTP calls were cut off", "timeout", n.config.ShutdownTimeout)
		err = n.http.Close()
	}
	select {
	case <-graceful:
	case <-ctx.Done():
		n.log.Warn("gRPC calls were cut off", "timeout", n.config.ShutdownTimeout)
		n.grpc.Stop() // GracefulStop returns, too
		<-graceful
	}
	if err != nil {
		return fmt.Errorf("stop HTTP: %w", err)
	}
	return nil
}
