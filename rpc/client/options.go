// SPDX-License-Identifier: Apache-2.0

package client

import (
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
)

// Defaults of [Options].
const (
	DefaultAddr     = "localhost:6471"
	DefaultTimeout  = time.Second
	DefaultAttempts = 3
	DefaultMaxPeers = 128
)

// Options configure a [Client]. The zero value asks a node on this machine.
type Options struct {
	// Addrs are members of one cluster, as host or host:port, or as a gRPC
	// target such as dns:///nodes.example:6471. They say who the other members
	// are, and take the calls that cannot go to the owner of the key, in turn,
	// and at each address behind a name in turn. Without a port: 6471. Empty:
	// [DefaultAddr].
	Addrs []string

	// Plain sends every call alone, to the Addrs in turn, and leaves it to the
	// nodes to find the owner. It is for comparison, and the model for other
	// languages.
	Plain bool

	// TLS secures the connections. Nil: plaintext, which is refused for every
	// address but loopback and Unix sockets, unless Insecure is set. Members at
	// other addresses are then asked through Addrs.
	TLS *tls.Config
	// Insecure allows plaintext to any address.
	Insecure bool

	// Timeout bounds a call whose context has no deadline, and the time that
	// any call waits for a single node. 0: [DefaultTimeout].
	Timeout time.Duration
	// Attempts bounds how often a call is sent. The time left to it is split
	// evenly over the attempts left, so that one silent node cannot use it up.
	// 0: [DefaultAttempts]; 1: never retry.
	Attempts int
	// MaxPeers bounds the connections to members, beside those to Addrs. The
	// others are asked through these. 0: [DefaultMaxPeers].
	MaxPeers int

	// MaxWaiting bounds how many settlements of [Reservation.SettleLater] wait.
	// 0: 65,536. They also take 64 MiB at most.
	MaxWaiting int
	// Dropped is told of a settlement of SettleLater that will not be reported,
	// and why: a node has refused it, or none could be reached for 10 minutes. It
	// must not block, and is called by several goroutines at once. Nil: it is
	// only counted, in [Client.Status].
	Dropped func(key, requestID string, err error)

	// DialOptions are applied last, to every connection: interceptors, stats
	// handlers, per-call credentials. Calls to the owner of a key share a stream.
	DialOptions []grpc.DialOption
}

func (o Options) withDefaults() Options {
	if len(o.Addrs) == 0 {
		o.Addrs = []string{DefaultAddr}
	}
	if o.Timeout == 0 {
		o.Timeout = DefaultTimeout
	}
	if o.Attempts == 0 {
		o.Attempts = DefaultAttempts
	}
	if o.MaxPeers == 0 {
		o.MaxPeers = DefaultMaxPeers
	}
	return o
}

// validate returns every problem of o.
func (o Options) validate() error {
	var errs []error
	for _, addr := range o.Addrs {
		switch target, local := parseAddr(addr); {
		case target == "":
			errs = append(errs, fmt.Errorf("addrs: must be host:port, got %q", addr))
		case !local && o.TLS == nil && !o.Insecure:
			errs = append(errs, fmt.Errorf("addrs: %s is not a loopback address: set TLS, or Insecure for plaintext", addr))
		}
	}
	if o.TLS != nil && o.Insecure {
		errs = append(errs, errors.New("insecure: must not be set together with TLS"))
	}
	if o.Timeout < 0 {
		errs = append(errs, fmt.Errorf("timeout: must not be negative, got %v", o.Timeout))
	}
	if o.Attempts < 0 {
		errs = append(errs, fmt.Errorf("attempts: must not be negative, got %d", o.Attempts))
	}
	if o.MaxPeers < 0 {
		errs = append(errs, fmt.Errorf("max_peers: must not be negative, got %d", o.MaxPeers))
	}
	if o.MaxWaiting < 0 {
		errs = append(errs, fmt.Errorf("max_waiting: must not be negative, got %d", o.MaxWaiting))
	}
	return errors.Join(errs...)
}

// A node that comes back is found within two seconds, not within gRPC's default
// of two minutes. A member that cannot be reached from here is left alone for
// longer: one that was away comes back with a new connection, since it was not
// in the ring meanwhile.
const (
	nodeBackoff = 2 * time.Second
	peerBackoff = 15 * time.Second
)

// dialOptions are those of a connection that is tried again at least that often.
func (o Options) dialOptions(longest time.Duration) []grpc.DialOption {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: longest}
	return append([]grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithConnectParams(grpc.ConnectParams{Backoff: reconnect, MinConnectTimeout: 5 * time.Second}),
		grpc.WithDefaultServiceConfig(`{"loadBalancingConfig":[{"round_robin":{}}]}`),
		grpc.WithDisableServiceConfig(), // no look-ups of TXT records
		grpc.WithIdleTimeout(0),         // an idle connection would look less usable than it is
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 15 * time.Second, Timeout: 3 * time.Second}),
	}, o.DialOptions...)
}

// parseAddr returns the gRPC target of an address, "" if it is none, and
// whether the target cannot leave this machine.
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
