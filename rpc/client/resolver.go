// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/resolver"

	"github.com/bucketring/bucketring/internal/notify"
)

const (
	lookupTimeout = 5 * time.Second

	// A name is looked up again as soon as a connection to its addresses fails, but not
	// more often than this. gRPC's own resolver waits 30 seconds.
	minLookupInterval = 100 * time.Millisecond

	// A lookup that failed is repeated after a backoff.
	minLookupBackoff = 100 * time.Millisecond
	maxLookupBackoff = 2 * time.Second
)

// nameResolver builds the resolvers of names in Options.Addrs and of members. It takes
// the place of gRPC's resolver for the scheme dns.
type nameResolver struct {
	lookup func(ctx context.Context, host string) ([]string, error) // returns IP addresses
}

var _ resolver.Builder = nameResolver{}

// Scheme implements resolver.Builder.
func (nameResolver) Scheme() string { return "dns" }

// Build implements resolver.Builder. A target that names a DNS server is left to gRPC.
func (b nameResolver) Build(target resolver.Target, cc resolver.ClientConn, o resolver.BuildOptions) (resolver.Resolver, error) {
	if target.URL.Host != "" {
		return resolver.Get("dns").Build(target, cc, o)
	}
	host, port, err := net.SplitHostPort(target.Endpoint())
	if err != nil {
		host, port = target.Endpoint(), "443" // as gRPC does
	}
	if host == "" || port == "" {
		return nil, fmt.Errorf("%q is not a host:port", target.Endpoint())
	}
	if _, err := netip.ParseAddr(host); err == nil {
		return fixedAddress{}, cc.UpdateState(resolver.State{Addresses: []resolver.Address{{Addr: net.JoinHostPort(host, port)}}})
	}
	n := &name{host: host, port: port, cc: cc, lookup: b.lookup, again: notify.New()}
	ctx, cancel := context.WithCancel(context.Background())
	n.stop = cancel
	n.done.Go(func() { n.run(ctx) })
	return n, nil
}

// fixedAddress is the resolver of an IP address.
type fixedAddress struct{}

func (fixedAddress) ResolveNow(resolver.ResolveNowOptions) {}
func (fixedAddress) Close()                                {}

// name is the resolver of one name.
type name struct {
	host, port string
	cc         resolver.ClientConn
	lookup     func(ctx context.Context, host string) ([]string, error)
	again      notify.Signal // to look up
	stop       context.CancelFunc
	done       sync.WaitGroup
}

// ResolveNow implements resolver.Resolver. gRPC calls it when a connection fails.
func (n *name) ResolveNow(resolver.ResolveNowOptions) { n.again.Set() }

// Close implements resolver.Resolver.
func (n *name) Close() {
	n.stop()
	n.done.Wait()
}

// run looks the name up, at first and whenever it is asked to.
func (n *name) run(ctx context.Context) {
	backoff := minLookupBackoff
	for ctx.Err() == nil {
		err := n.update(ctx)
		if err != nil {
			sleep(ctx, backoff)
			backoff = min(2*backoff, maxLookupBackoff)
			continue
		}
		backoff = minLookupBackoff
		sleep(ctx, minLookupInterval)
		select {
		case <-n.again.C():
		case <-ctx.Done():
		}
	}
}

// update looks the name up and tells gRPC the result.
func (n *name) update(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, lookupTimeout)
	defer cancel()
	ips, err := n.lookup(bounded, n.host)
	if err == nil && len(ips) == 0 {
		err = fmt.Errorf("%s has no address", n.host)
	}
	if err != nil {
		n.cc.ReportError(fmt.Errorf("look up %s: %w", n.host, err))
		return err
	}
	slices.Sort(ips)
	addresses := make([]resolver.Address, len(ips))
	for i, ip := range ips {
		addresses[i].Addr = net.JoinHostPort(ip, n.port)
	}
	_ = n.cc.UpdateState(resolver.State{Addresses: addresses}) // its error means that the addresses are not usable, which a failed connection reports
	return nil
}
