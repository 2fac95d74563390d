// SPDX-License-Identifier: Apache-2.0

package node

import (
	"context"
	"errors"
	"time"

	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/bucketring/bucketring/cluster"
	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/internal/buildinfo"
	"github.com/bucketring/bucketring/internal/journal"
	"github.com/bucketring/bucketring/internal/usagelog"
	"github.com/bucketring/bucketring/limiter/policy/source"
	"github.com/bucketring/bucketring/rpc/admin"
	"github.com/bucketring/bucketring/rpc/httpapi"
	"github.com/bucketring/bucketring/rpc/peer"
	"github.com/bucketring/bucketring/rpc/server"
)

// Errors of [Node.Ready].
var (
	errStarting = errors.New("starting")
	errDrained  = errors.New("drained by an operator: only a restart takes it back into the ring")
	errDraining = errors.New("draining: shutting down")
	errFenced   = errors.New("fenced: a node that started later has the same name and replaces this one, which must be started again before it can decide")
)

// Ready returns nil if the node is ready for calls, and otherwise the reason: it is
// starting, drained, draining or fenced. Unreachable members never make a node unready.
func (n *Node) Ready() error {
	switch n.phase.Load() {
	case starting:
		return errStarting
	case drained:
		return errDrained
	case draining:
		return errDraining
	}
	if n.cluster.View().SelfFenced() {
		return errFenced
	}
	return nil
}

// setPhase changes the phase and updates the health service.
func (n *Node) setPhase(phase int32) {
	n.phase.Store(phase)
	n.updateHealth()
}

// updateHealth sets the gRPC health status to the result of Ready.
func (n *Node) updateHealth() {
	n.healthMu.Lock()
	defer n.healthMu.Unlock()
	status := healthpb.HealthCheckResponse_SERVING
	if n.Ready() != nil {
		status = healthpb.HealthCheckResponse_NOT_SERVING
	}
	n.health.SetServingStatus(server.HealthReady, status)
	n.updateEnvoyHealthLocked(status == healthpb.HealthCheckResponse_SERVING)
}

// Name returns the name of this member.
func (n *Node) Name() string { return n.config.Name }

// HTTPAddr returns the address of the HTTP server, with its real port.
func (n *Node) HTTPAddr() string { return n.httpListener.Addr().String() }

// GRPCAddr returns the address of the gRPC server, with its real port.
func (n *Node) GRPCAddr() string { return n.grpcListener.Addr().String() }

// GossipAddr returns the address at which other members reach this one. Before the
// node is ready it returns the configured address.
func (n *Node) GossipAddr() string {
	if m, ok := n.cluster.View().Member(n.config.Name); ok && m.Boot.ID == n.boot.ID {
		return m.Gossip.String()
	}
	return n.config.Gossip
}

// AwaitMembers waits until this node sees at least that many members, itself included.
func (n *Node) AwaitMembers(ctx context.Context, members int) error {
	return n.appliedView.wait(ctx, func(v *cluster.View) bool { return len(v.Members) >= members })
}

// AwaitReady waits until the node is ready for calls, every partition has an owner and an heir,
// and this node has its leases. On a busy machine a node becomes ready before that.
func (n *Node) AwaitReady(ctx context.Context) error {
	select {
	case <-n.becameReady:
		return n.awaitOwners(ctx)
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Status is the status of a node.
type Status struct {
	Name          string          `json:"name"`
	Version       string          `json:"version"`
	Ready         bool            `json:"ready"`
	NotReady      string          `json:"not_ready,omitempty"` // the reason
	UptimeSeconds int64           `json:"uptime_seconds"`
	HTTP          string          `json:"http"`
	GRPC          string          `json:"grpc"`
	Gossip        string          `json:"gossip"`
	RESP          string          `json:"resp,omitempty"` // empty: off
	Policy        source.Status   `json:"policy"`
	Auth          *auth.Status    `json:"auth,omitempty"` // nil: everybody may call
	State         StateStatus     `json:"state"`
	Journal       *journal.Status `json:"journal,omitempty"` // nil: memory only
	Cluster       ClusterStatus   `json:"cluster"`
	Envoy         *EnvoyStatus    `json:"envoy,omitempty"` // nil: off
	TLS           *TLSStatus      `json:"tls,omitempty"`   // nil: off
	// UsageLog is nil without one.
	UsageLog *usagelog.Status  `json:"usage_log,omitempty"`
	AuditLog admin.AuditStatus `json:"audit_log"`
	// RefusedInMinute are the new calls that the node refused in the last minute, because
	// it was overloaded.
	RefusedInMinute int64 `json:"refused_in_minute"`
	// HotKeys are the keys for which this node decides most often.
	HotKeys httpapi.HotKeys `json:"hot_keys"`
	// Waiting is what waits at this node, and at which limits most calls do.
	Waiting *httpapi.Waiting `json:"waiting"`
	// Slices counts the parts of limits that this node has lent, and that it holds.
	Slices peer.SliceStatus `json:"slices"`
}

// StateStatus counts the state in memory.
type StateStatus struct {
	Keys         int `json:"keys"`
	Reservations int `json:"reservations"`
	RequestIDs   int `json:"request_ids"`
}

// Status returns the current status. It is safe for concurrent use.
func (n *Node) Status() Status {
	stats, routed := n.engine.Stats(), n.router.Status()
	s := Status{
		Name:          n.config.Name,
		Version:       buildinfo.Read().Version,
		UptimeSeconds: int64(time.Since(n.started) / time.Second),
		HTTP:          n.HTTPAddr(),
		GRPC:          n.GRPCAddr(),
		Gossip:        n.GossipAddr(),
		RESP:          n.RESPAddr(),
		Policy:        n.policies.Status(),
		Auth:          n.access.Status(),
		State:         StateStatus{Keys: stats.Keys, Reservations: stats.Reservations, RequestIDs: stats.IDs},
		Journal:       n.journalStatus(),
		Cluster:       n.clusterStatus(routed, &stats),
		Envoy:         n.envoyStatus(),
		UsageLog:      n.usageStatus(),
		AuditLog:      n.admin.AuditStatus(),
		TLS:           n.tlsStatus(),

		RefusedInMinute: n.processors.refusedLately.Load(),
		HotKeys:         httpapi.HotKeysOf(n.ownHotKeys()),
		Slices:          routed.Slices,
	}
	s.Waiting, s.HotKeys.Waiting = s.HotKeys.Waiting, nil
	if err := n.Ready(); err != nil {
		s.NotReady = err.Error()
	} else {
		s.Ready = true
	}
	return s
}
