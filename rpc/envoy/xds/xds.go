// SPDX-License-Identifier: Apache-2.0

// Package xds takes the rules of Envoy's rate limit service from a control plane,
// as Envoy Gateway serves them: resources of the type RateLimitConfig, one domain
// each, over the aggregated discovery service, each response the state of the
// world.
//
// A response that compiles is acknowledged and becomes the rules. One that does
// not is refused with every problem in the error that goes back, and the rules
// stay what they were; so they do while the control plane is away. The client
// comes back with growing pauses, and says which version it has.
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

// TypeURL is the type of the resources asked for.
const TypeURL = "type.googleapis.com/ratelimit.config.ratelimit.v3.RateLimitConfig"

// DefaultNodeID is what the stock server calls itself.
const DefaultNodeID = "default"

// maxResponse bounds a response.
const maxResponse = 64 << 20

// Options configure a [Client]. Address, Credentials and OnRules are needed.
type Options struct {
	Address string // host:port of the control plane
	// NodeID is what the control plane knows this client by. Empty:
	// [DefaultNodeID].
	NodeID string
	// Credentials makes the credentials of a connection, anew for each, so that
	// certificates may change.
	Credentials func() (grpc.DialOption, error)
	// OnRules gets the rules of each accepted response, one call at a time.
	OnRules func(*config.Config)
	// Pause is the first pause after a connection that failed, MaxPause the
	// longest: each is twice the one before, less up to a half by chance. 0: 500 ms
	// and 30 s.
	Pause, MaxPause time.Duration
	Logger          *slog.Logger // nil: no log
}

func (o Options) withDefaults() Options {
	o.NodeID = cmp.Or(o.NodeID, DefaultNodeID)
	o.Pause = cmp.Or(o.Pause, 500*time.Millisecond)
	o.MaxPause = cmp.Or(o.MaxPause, 30*time.Second)
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
	if o.Pause < 0 || o.MaxPause < 0 {
		problems = append(problems, fmt.Errorf("pause: must not be negative, got %s and %s", o.Pause, o.MaxPause))
	}
	return errors.Join(problems...)
}

// Status is how the client stands.
type Status struct {
	Address   string `json:"address"`
	NodeID    string `json:"node_id"`
	Connected bool   `json:"connected"`
	// Version is that of the rules in force, as the control plane calls it; "" if
	// there never were any.
	Version    string    `json:"version,omitempty"`
	AcceptedAt time.Time `json:"accepted_at,omitzero"`
	Accepted   int64     `json:"accepted"` // responses
	Rejected   int64     `json:"rejected"`
	Breaks     int64     `json:"breaks"` // connections that failed
	// LastError is why the last response was rejected, "" if it was accepted.
	// LastErrorAt stays.
	LastError   string    `json:"last_error,omitempty"`
	LastErrorAt time.Time `json:"last_error_at,omitzero"`
	// Away is why there is no connection.
	Away string `json:"away,omitempty"`
}

// Client follows one control plane. Its methods are safe for concurrent use, but
// Run may be called once.
type Client struct {
	options Options

	mu struct {
		sync.Mutex
		status Status
	}
}

// New returns a client that does nothing until Run.
func New(o Options) (*Client, error) {
	if err := o.Validate(); err != nil {
		return nil, fmt.Errorf("xds: %w", err)
	}
	c := &Client{options: o.withDefaults()}
	c.mu.status.Address, c.mu.status.NodeID = o.Address, c.options.NodeID
	return c, nil
}

// Status returns a copy.
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

// Run follows the control plane until ctx is done; then it returns nil.
func (c *Client) Run(ctx context.Context) error {
	pause := c.options.Pause
	for {
		began := time.Now()
		answered, err := c.follow(ctx)
		if ctx.Err() != nil {
			return nil
		}
		c.update(func(s *Status) {
			s.Connected, s.Away = false, err.Error()
			s.Breaks++
		})
		if answered || time.Since(began) > c.options.MaxPause {
			pause = c.options.Pause
		}
		wait := pause - rand.N(pause/2+1)
		c.options.Logger.Warn("control plane is away", "address", c.options.Address, "again_in", wait, "error", err)
		if !sleep(ctx, wait) {
			return nil
		}
		pause = min(2*pause, c.options.MaxPause)
	}
}

// follow takes what comes over one connection, until it fails. It reports whether
// the control plane said anything.
func (c *Client) follow(ctx context.Context) (answered bool, err error) {
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
	defer func() { _ = conn.Close() }() // nothing is left to lose
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := discovery.NewAggregatedDiscoveryServiceClient(conn).StreamAggregatedResources(ctx)
	if err != nil {
		return false, err
	}
	hello := &discovery.DiscoveryRequest{
		Node: &core.Node{Id: c.options.NodeID, UserAgentName: "bucketring"}, TypeUrl: TypeURL, VersionInfo: c.Status().Version,
	}
	if err := stream.Send(hello); err != nil {
		return false, reason(stream, err)
	}
	// There is a connection. If its state is the one known here, nothing comes.
	c.update(func(s *Status) { s.Connected, s.Away = true, "" })
	// A control plane may send what was refused again at once, for ever: the answer
	// to it comes with growing pauses.
	pause := c.options.Pause
	for {
		r, err := stream.Recv()
		if err != nil {
			return answered, err
		}
		answered = true
		say, repeated := c.take(r)
		if !repeated {
			pause = c.options.Pause
		} else {
			if !sleep(ctx, pause) {
				return answered, ctx.Err()
			}
			pause = min(2*pause, c.options.MaxPause/6)
		}
		if err := stream.Send(say); err != nil {
			return answered, reason(stream, err)
		}
	}
}

// sleep reports whether the time passed before ctx was done.
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

// reason is why nothing could be sent, which only receiving tells.
func reason(stream interface {
	Recv() (*discovery.DiscoveryResponse, error)
}, err error,
) error {
	if _, received := stream.Recv(); received != nil {
		return received
	}
	return err
}

// take makes a response the rules, if it can, and returns what to say to it.
// Repeated: it was refused for the same reasons the last time.
func (c *Client) take(r *discovery.DiscoveryResponse) (say *discovery.DiscoveryRequest, repeated bool) {
	say = &discovery.DiscoveryRequest{TypeUrl: TypeURL, ResponseNonce: r.GetNonce()}
	rules, unknown, err := decode(r)
	if err != nil {
		say.ErrorDetail = &rpcstatus.Status{Code: int32(codes.InvalidArgument), Message: err.Error()}
		c.update(func(s *Status) {
			say.VersionInfo = s.Version
			if repeated = s.LastError == err.Error(); !repeated {
				s.LastError, s.LastErrorAt = err.Error(), time.Now()
				s.Rejected++
			}
		})
		if !repeated {
			c.options.Logger.Error("rules of the control plane rejected", "address", c.options.Address, "version", r.GetVersionInfo(), "error", err)
		}
		return say, repeated
	}
	c.options.OnRules(rules)
	c.options.Logger.Info(
		"rules of the control plane accepted", "address", c.options.Address, "version", r.GetVersionInfo(),
		"domains", len(rules.Domains()), "rules", len(rules.Rules()), "digest", rules.Digest()[:12],
	)
	if len(unknown) > 0 {
		c.options.Logger.Warn("rules of the control plane have fields that are not known here", "count", len(unknown), "first", unknown[0])
	}
	c.update(func(s *Status) {
		s.Version, s.AcceptedAt, s.LastError = r.GetVersionInfo(), time.Now(), ""
		s.Accepted++
	})
	say.VersionInfo = r.GetVersionInfo()
	return say, false
}
