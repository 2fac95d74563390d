// SPDX-License-Identifier: Apache-2.0

package node

import (
	"errors"
	"time"

	"github.com/bucketring/bucketring/internal/buildinfo"
	"github.com/bucketring/bucketring/limiter/policy/source"
)

// Errors of [Node.Ready].
var (
	errStarting = errors.New("starting")
	errDraining = errors.New("draining: shutting down")
)

// Ready says why calls should not be sent here; nil when they should. A node
// that was made has a policy, so only its phase counts.
func (n *Node) Ready() error {
	switch n.phase.Load() {
	case starting:
		return errStarting
	case draining:
		return errDraining
	}
	return nil
}

// HTTPAddr returns the address listened on, with the real port.
func (n *Node) HTTPAddr() string { return n.httpListener.Addr().String() }

// GRPCAddr is HTTPAddr for gRPC.
func (n *Node) GRPCAddr() string { return n.grpcListener.Addr().String() }

// Status is what a node says about itself.
type Status struct {
	Name          string        `json:"name"`
	Version       string        `json:"version"`
	Ready         bool          `json:"ready"`
	UptimeSeconds int64         `json:"uptime_seconds"`
	HTTP          string        `json:"http"`
	GRPC          string        `json:"grpc"`
	Policy        source.Status `json:"policy"`
	State         StateStatus   `json:"state"`
}

// StateStatus counts what is in memory.
type StateStatus struct {
	Keys         int `json:"keys"`
	Reservations int `json:"reservations"`
	RequestIDs   int `json:"request_ids"`
}

// Status may be asked at any time.
func (n *Node) Status() Status {
	stats := n.engine.Stats()
	return Status{
		Name:          n.config.Name,
		Version:       buildinfo.Read().Version,
		Ready:         n.Ready() == nil,
		UptimeSeconds: int64(time.Since(n.started) / time.Second),
		HTTP:          n.HTTPAddr(),
		GRPC:          n.GRPCAddr(),
		Policy:        n.policies.Status(),
		State:         StateStatus{Keys: stats.Keys, Reservations: stats.Reservations, RequestIDs: stats.IDs},
	}
}
