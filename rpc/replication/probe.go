// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"errors"
	"net"
	"syscall"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

const (
	probeTimeout = 300 * time.Millisecond
	probePause   = 20 * time.Millisecond
)

// prober finds out whether the process of a member still exists: whether anybody listens
// at its ports. A member listens at both before others know it, and until its process
// ends or it decides nothing any more.
type prober struct {
	host    *Host
	to      continuity.ID
	address Address
}

// run reports whether the process is dead, and tells the machine if it is. Two probes in a
// row must find that both ports refuse connections.
func (p prober) run(ctx context.Context) bool {
	if !p.refused(ctx) {
		return false
	}
	select {
	case <-ctx.Done():
		return false
	case <-time.After(probePause):
	}
	if !p.refused(ctx) {
		return false
	}
	p.host.log.Warn("member is dead: its ports refuse connections", "member", p.to.Name, "boot", p.to.Boot, "address", p.address.GRPC)
	p.host.metrics.deaths.Inc()
	p.host.event(continuity.Dead{ID: p.to})
	return true
}

// refused reports whether all ports of the member refuse connections.
func (p prober) refused(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	addresses := []string{p.address.GRPC}
	if p.address.Gossip != "" {
		addresses = append(addresses, p.address.Gossip)
	}
	results := make(chan bool, len(addresses)) // cap: nobody waits after the first that is open
	for _, a := range addresses {
		go func() { results <- refuses(ctx, a) }()
	}
	for range addresses {
		if !<-results {
			return false
		}
	}
	return true
}

func refuses(ctx context.Context, address string) bool {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "tcp", address)
	if err == nil {
		_ = conn.Close() // nothing was sent
		return false
	}
	return errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, syscall.ECONNRESET)
}
