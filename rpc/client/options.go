// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"

	"github.com/bucketring/bucketring/internal/tokenfile"
)

// Defaults of [Options].
const (
	DefaultAddr        = "localhost:6471"
	DefaultTimeout     = time.Second
	DefaultMaxAttempts = 3
	DefaultMaxPeers    = 128
)

// Options configure a [Client]. The zero value is for a node on this machine.
type Options struct {
	// Addrs are members of one cluster: host, host:port (default port 6471), or a
	// gRPC target such as dns:///nodes.example:6471. The client learns the other
	// members from them. They also get the calls that cannot be sent to the owner
	// of their key, round robin over all their IP addresses. A name is looked up again
	// when a connection to one of its addresses fails. Empty: [DefaultAddr].
	Addrs []string

	// DisableOwnerRouting sends every call to Addrs, round robin and by unary
	// calls; the nodes forward it to the owner. It is slower, and only for
	// comparison and for networks that cannot reach the members directly.
	DisableOwnerRouting bool

	// DisableSlices sends every check and reserve to a node. Otherwise the owner of a key
	// that is asked for very often lends a part of its limits to the client, which then
	// answers them from memory: see [Client.Check]. An owner lends to clients only where the
	// policy says "slices: clients" for all limits of the key. There are no slices with
	// DisableOwnerRouting.
	DisableSlices bool

	// TLS secures the connections. Nil means plaintext, which is rejected for
	// addresses other than loopback and Unix sockets unless Insecure is set; members
	// at other addresses are then asked through Addrs.
	TLS *tls.Config
	// Credentials secure the connections in place of TLS, for certificates that are
	// replaced while the program runs. They verify each server by themselves.
	Credentials credentials.TransportCredentials
	// Insecure allows plaintext to any address.
	Insecure bool

	// TokenFile is a file with the token by which this client proves who it is to nodes that
	// have a list of callers (--auth). It is read again when it changes. Calls are sent with
	// the token of their time; a node that revokes a token ends the streams that were opened
	// with it, and the client opens them with the current one. Empty: [Options.Token].
	TokenFile string
	// Token is such a token that does not change. Empty: none.
	Token string

	// Timeout bounds a call whose context has no deadline, and how long any call
	// waits for a single node. The time in line is not part of it, see [Client.Check].
	// 0: [DefaultTimeout].
	Timeout time.Duration
	// MaxAttempts bounds how often a call is sent. A node that answers nothing, to this
	// or other calls, for an even share of the time left is passed over, so that one
	// silent node cannot use it up. 0: [DefaultMaxAttempts]; 1: no retries.
	MaxAttempts int
	// MaxPeers bounds the connections to members, in addition to those to Addrs.
	// Further members are asked through Addrs. 0: [DefaultMaxPeers].
	MaxPeers int

	// MaxPendingSettlements bounds the queue of [Reservation.SettleLater], which
	// also takes at most 64 MiB. 0: 65,536.
	MaxPendingSettlements int
	// OnSettlementDropped is called for a settlement of SettleLater that will not be
	// reported, because a node has rejected it or none could be reached for 10
	// minutes. It must not block and must be safe for concurrent use. Dropped
	// settlements are also counted in [Client.Status]. Nil: not called.
	OnSettlementDropped func(key, requestID string, err error)

	// DialOptions are applied last, to every connection: interceptors, stats
	// handlers, per-call credentials. Calls to the owner of a key share a stream, so
	// unary interceptors do not see them.
	DialOptions []grpc.DialOption

	// Trace returns the span that a call with that context belongs to: the trace id, the id
	// of the span and the flags of W3C's traceparent, in 16, 8 and 1 bytes; nil if it is not
	// sampled. Nodes that trace then make spans below it. It is called for each call. Nil: no
	// call is traced.
	Trace func(context.Context) []byte

	token      *tokenfile.Source                                        // nil: none
	lookupHost func(ctx context.Context, host string) ([]string, error) // set by tests
}

func (o Options) withDefaults() Options {
	if len(o.Addrs) == 0 {
		o.Addrs = []string{DefaultAddr}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = DefaultMaxAttempts
	}
	if o.MaxPeers == 0 {
		o.MaxPeers = DefaultMaxPeers
	}
	if o.lookupHost == nil {
		o.lookupHost = net.DefaultResolver.LookupHost
	}
	return o
}

// secure reports whether connections are encrypted.
func (o Options) secure() bool { return o.TLS != nil || o.Credentials != nil }

// validate returns every problem of o.
func (o Options) validate() error {
	var errs []error
	for _, addr := range o.Addrs {
		switch target, local := parseAddr(addr); {
		case target == "":
			errs = append(errs, fmt.Errorf("addrs: must be host:port, got %q", addr))
		case !local && !o.secure() && !o.Insecure:
			errs = append(errs, fmt.Errorf("addrs: %s is not a loopback address: set TLS, or Insecure for plaintext", addr))
		}
	}
	if o.secure() && o.Insecure {
		errs = append(errs, errors.New("insecure: must not be set together with TLS"))
	}
	if o.TokenFile != "" && o.Token != "" {
		errs = append(errs, errors.New("token: must not be set together with TokenFile"))
	}
	if o.TLS != nil && o.Credentials != nil {
		errs = append(errs, errors.New("credentials: must not be set together with TLS"))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout: must not be negative, got %v", o.Timeout))
	}
	if o.MaxAttempts < 0 {
		errs = append(errs, fmt.Errorf("max_attempts: must not be negative, got %d", o.MaxAttempts))
	}
	if o.MaxPeers < 0 {
		errs = append(errs, fmt.Errorf("max_peers: must not be negative, got %d", o.MaxPeers))
	}
	if o.MaxPendingSettlements < 0 {
		errs = append(errs, fmt.Errorf("max_pending_settlements: must not be negative, got %d", o.MaxPendingSettlements))
	}
	return errors.Join(errs...)
}

// openToken makes the source of the token.
func (o *Options) openToken() (err error) {
	switch {
	case o.TokenFile != "":
		if o.token, err = tokenfile.File(o.TokenFile); err != nil {
			return fmt.Errorf("token_file: %w", err)
		}
	case o.Token != "":
		if o.token, err = tokenfile.Static(o.Token); err != nil {
			return fmt.Errorf("token: %w", err)
		}
	}
	return nil
}

// The most time between two attempts to connect, which gRPC sets to two minutes. It
// is short for seeds, so that one that is back is used soon. Members may be
// unreachable from here for good; one that is back gets a new connection, because it
// was not in the ring meanwhile.
const (
	maxSeedBackoff = 2 * time.Second
	maxPeerBackoff = 15 * time.Second
)

// dialOptions returns the options of a connection with the given backoff.
func (o Options) dialOptions(maxBackoff time.Duration) []grpc.DialOption {
	creds := insecure.NewCredentials()
	switch {
	case o.Credentials != nil:
		creds = o.Credentials
	case o.TLS != nil:
		creds = credentials.NewTLS(o.TLS)
	}
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: maxBackoff}
	options := o.DialOptions
	if o.token != nil {
		options = append([]grpc.DialOption{grpc.WithPerRPCCredentials(o.token)}, options...)
	}
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithResolvers(nameResolver{o.lookupHost}),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDisableServiceConfig(), // do not look up TXT records
		grpc.WithIdleTimeout(0),         // stay connected: idle nodes rank below connected ones
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second}),
	}, options...)
}

// parseAddr returns the gRPC target of an address, "" if it is invalid, and whether
// the target is on this machine.
func parseAddr(addr string) (target string, local bool) {
	if strings.HasPrefix(addr, "unix:") || strings.HasPrefix(addr, "unix-abstract:") {
		return addr, true
	}
	if scheme, rest, ok := strings.Cut(addr, "://"); ok {
		_, endpoint, _ := strings.Cut(rest, "/")
		if scheme == "" || endpoint == "" {
			return "", false
		}
		return addr, isLoopback(endpoint)
	}
	host, port, err := net.SplitHostPort(addr)
	if err != nil { // no port
		host, port = strings.Trim(addr, "[]"), "6471"
	}
	_, notIP := netip.ParseAddr(host)
	if host == "" || port == "" || strings.ContainsAny(host, "/ ") || strings.Contains(host, ":") && notIP != nil {
		return "", false
	}
	return net.JoinHostPort(host, port), isLoopback(host)
}

func isLoopback(endpoint string) bool {
	host, _, err := net.SplitHostPort(endpoint)
	if err != nil {
		host = endpoint
	}
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.Unmap().IsLoopback()
}
