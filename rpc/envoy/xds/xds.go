// SPDX-License-Identifier: Apache-2.0

// Package xds receives the rules of Envoy's rate limit service from a control plane such
// as Envoy Gateway: resources of type RateLimitConfig, one domain each, over the
// aggregated discovery service (state of the world).
//
// A response that compiles is acknowledged and replaces the rules. A response that does
// not is rejected (NACK) with all problems, and the rules stay. They also stay while the
// control plane is unreachable. The client reconnects with exponential backoff and
// sends the version that it has.
package xds

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	discovery "github.com/envoyproxy/go-control-plane/envoy/service/discovery/v3"
	rpcstatus "google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"

	"github.com/bucketring/bucketring/rpc/envoy/config"
)

// TypeURL is the type of the resources.
const TypeURL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

// DefaultNodeID is the node id of envoyproxy/ratelimit.
const DefaultNodeID = "default"

// maxResponse is the largest response that is accepted, in bytes.
const maxResponse = 64 << 20

// Options configure a [Client]. Address, Credentials and OnRules are required.
type Options struct {
	Address string // host:port of the control plane
	// NodeID identifies the client to the control plane. Empty: [DefaultNodeID].
	NodeID string
	// Credentials returns the credentials of a connection. It is called for each
	// connection, so that certificates may change.
	Credentials func() (grpc.DialOption, error)
	// OnRules gets the rules of each accepted response, one call at a time.
	OnRules func(*config.Config)
	// Backoff is the first pause after a failed connection. Each further pause is twice
	// as long, up to MaxBackoff, minus a random part of up to half. 0: 500 ms and 30 s.
	Backoff, MaxBackoff time.Duration
	Logger              *slog.Logger // nil: no log
}

func (o Options) withDefaults() Options {
	o.NodeID = cmp.Or(o.NodeID, DefaultNodeID)
	o.Backoff = cmp.Or(o.Backoff, 500*time.Millisecond)
	o.MaxBackoff = cmp.Or(o.MaxBackoff, 30*time.Second)
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports every option that cannot be used.
func (o Options) Validate() error {
	var problems []error
	if o.Address == "" {
		problems = append(problems, errors.New("address: must be set"))
	}
	if o.Credentials == nil {
		problems = append(problems, errors.New("credentials: must be set"))
	}
	if o.OnRules == nil {
		problems = append(problems, errors.New("on_rules: must be set"))
	}
	if o.Backoff < 0 || o.MaxBackoff < 0 {
		problems = append(problems, fmt.Errorf("backoff: must not be negative, got %s and %s", o.Backoff, o.MaxBackoff))
	}
	return errors.Join(problems...)
}

// Status is the state of a client.
type Status struct {
	Address   string `json:"address"`
	NodeID    string `json:"node_id"`
	Connected bool   `json:"connected"`
	// Version is the control plane's version of the current rules, "" if there are none
	// yet.
	Version     string    `json:"version,omitempty"`
	AcceptedAt  time.Time `json:"accepted_at,omitzero"`
	Accepted    int64     `json:"accepted"` // responses
	Rejected    int64     `json:"rejected"`
	Disconnects int64     `json:"disconnects"` // connections that failed
	// LastError is why the last response was rejected, "" if it was accepted.
	// LastErrorAt is the time of the last rejection.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// ConnectionError is why there is no connection.
	ConnectionError string `json:"connection_error,omitempty"`
}

// Client receives the rules of one control plane. Its methods are safe for concurrent
// use. Run may be called once.
type Client struct {
	options Options

	mu struct {
		sync.Mutex
		status Status
	}
}

// New returns a client. It connects in Run.
func New(o Options) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	c := &Client{options: o.withDefaults()}
	c.mu.status.Address, c.mu.status.NodeID = o.Address, c.options.NodeID
	return c, nil
}

// Status returns the current state.
func (c *Client) Status() Status {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.mu.status
}

func (c *Client) update(f func(*Status)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.mu.status)
}

// Run receives rules until ctx is done. It always returns nil.
func (c *Client) Run(ctx context.Context) error {
	backoff := c.options.Backoff
	for {
		start := time.Now()
		answered, err := c.connect(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.update(func(s *Status) {
			s.Connected, s.ConnectionError = false, err.Error()
			s.Disconnects++
		})
		if answered || time.Since(start) > c.options.MaxBackoff {
			backoff = c.options.Backoff
		}
		wait := backoff - rand.N(backoff/2+1)
		c.options.Logger.Warn("connection to envoy control plane failed", "address", c.options.Address, "retry_in", wait, "error", err)
		if !sleep(ctx, wait) {
			return nil
		}
		backoff = min(2*backoff, c.options.MaxBackoff)
	}
}

// connect receives responses over one connection until it fails. It reports whether
// there was a response.
func (c *Client) connect(ctx context.Context) (answered bool, err error) {
	credentials, err := c.options.Credentials()
	if err != nil {
		return false, err
	}
	conn, err := grpc.NewClient(
		c.options.Address, credentials,
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxResponse)),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 30 * time.Second, Timeout: 20 * time.Second}),
	)
	if err != nil {
		return false, err
	}
	defer func() { _ = conn.Close() }() // the stream has ended
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	subscribe := &discovery.DiscoveryRequest{
		Node: &core.Node{Id: c.options.NodeID, UserAgentName: "bucketring"}, TypeUrl: TypeURL, VersionInfo: c.Status().Version,
	}
	if err := stream.Send(subscribe); err != nil {
		return false, sendError(stream, err)
	}
	// If the client has the current version, the control plane sends nothing.
	c.update(func(s *Status) { s.Connected, s.ConnectionError = true, "" })
	// A control plane may resend a rejected response at once. So repeated rejections
	// are sent with exponential backoff.
	backoff := c.options.Backoff
	for {
		r, err := stream.Recv()
		if err != nil {
			return answered, err
		}
		answered = true
		reply, repeated := c.handle(r)
		if !repeated {
			backoff = c.options.Backoff
		} else {
			if !sleep(ctx, backoff) {
				return answered, ctx.Err()
			}
			backoff = min(2*backoff, c.options.MaxBackoff/6)
		}
		if err := stream.Send(reply); err != nil {
			return answered, sendError(stream, err)
		}
	}
}

// sleep waits for d. It returns false if ctx is done first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

// sendError returns why a Send failed with err. gRPC reports the reason in Recv.
func sendError(stream interface {
	Recv() (*discovery.DiscoveryResponse, error)
}, err error,
) error {
	if _, cause := stream.Recv(); cause != nil {
		return cause
	}
	return err
}

// handle replaces the rules by those of a response if they compile, and returns the
// acknowledgement or rejection. repeated: the previous response was rejected for the
// same reason.
func (c *Client) handle(r *discovery.DiscoveryResponse) (reply *discovery.DiscoveryRequest, repeated bool) {
	reply = &discovery.DiscoveryRequest{TypeUrl: TypeURL, ResponseNonce: r.GetNonce()}
	rules, unknown, err := decode(r)
	if err != nil {
		reply.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
		c.update(func(s *Status) {
			reply.VersionInfo = s.Version
			if repeated = s.LastError == err.Error(); !repeated {
				s.LastError, s.LastErrorAt = err.Error(), time.Now()
				s.Rejected++
			}
		})
		if !repeated {
			c.options.Logger.Error("envoy rules of control plane rejected", "address", c.options.Address, "version", r.GetVersionInfo(), "error", err)
		}
		return reply, repeated
	}
	c.options.OnRules(rules)
	c.options.Logger.Info(
		"envoy rules of control plane accepted", "address", c.options.Address, "version", r.GetVersionInfo(),
		"domains", len(rules.Domains()), "rules", len(rules.Rules()), "digest", rules.Digest()[:12],
	)
	if len(unknown) > 0 {
		c.options.Logger.Warn("envoy rules of control plane have unknown fields", "count", len(unknown), "first", unknown[0])
	}
	c.update(func(s *Status) {
		s.Version, s.AcceptedAt, s.LastError = r.GetVersionInfo(), time.Now(), ""
		s.Accepted++
	})
	reply.VersionInfo = r.GetVersionInfo()
	return reply, false
}
