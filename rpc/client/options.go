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
)

// Options configure a [Client]. The zero value asks a node on this machine.
type Options struct {
	// Addrs are members of one cluster, as host or host:port, or as a gRPC
	// target such as dns:///nodes.example:6471. Calls go to them in turn, and to
	// each address behind a name in turn. Without a port: 6471. Empty:
	// [DefaultAddr].
	Addrs []string

	// TLS secures the connections. Nil: plaintext, which is refused for every
	// address but loopback and Unix sockets, unless Insecure is set.
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

	// DialOptions are applied last, to every connection: interceptors, stats
	// handlers, per-call credentials.
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
	return errors.Join(errs...)
}

func (o Options) dialOptions() []grpc.DialOption {
	creds := insecure.NewCredentials()
	if o.TLS != nil {
		creds = credentials.NewTLS(o.TLS)
	}
	// A node that comes back is found within two seconds, not within gRPC's
	// default of two minutes.
	reconnect := backoff.Config{BaseDelay: 100 * time.Millisecond, Multiplier: 1.6, Jitter: 0.2, MaxDelay: 2 * time.Second}
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
