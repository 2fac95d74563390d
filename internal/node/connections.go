// SPDX-License-Identifier: Apache-2.0

package node

import (
	"log/slog"
	"math"
	"net"
	"net/netip"
	"runtime/debug"
	"strconv"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/listenlimit"
)

const (
	// DefaultMaxConnections is the most connections of a listener.
	DefaultMaxConnections = 4096
	// minDescriptorsKept is how many descriptors are kept for gossip, members, files and
	// connections to other servers, of a process that may open many.
	minDescriptorsKept = 128
	// fewDescriptors is a limit below which a node warns.
	fewDescriptors = 1024
)

// A ConnectionLimit bounds the connections of all listeners of a process: each may have
// the same number, a quarter of it from one address, and an eighth is kept for members.
// Together they leave a quarter of the descriptors of the process, or 128 if that is
// more, but take no less than half of them.
type ConnectionLimit struct {
	max     int // of one listener
	metrics *listenlimit.Metrics
	log     *slog.Logger
}

// NewConnectionLimit returns a limit for a number of listeners.
func NewConnectionLimit(most, listeners int, reg prometheus.Registerer, log *slog.Logger) *ConnectionLimit {
	return newConnectionLimit(most, listeners, openFiles(), reg, log)
}

func newConnectionLimit(most, listeners, descriptors int, reg prometheus.Registerer, log *slog.Logger) *ConnectionLimit {
	usable := max(descriptors-max(descriptors/4, minDescriptorsKept), descriptors/2)
	l := &ConnectionLimit{max: max(1, min(most, usable/listeners)), metrics: listenlimit.NewMetrics(reg), log: log}
	log.Info("limits of the process", "connections_per_listener", l.max, "connections_per_address", l.perAddress(), "open_files", descriptors, "memory_limit", memoryLimit())
	if descriptors < fewDescriptors {
		log.Warn("few files can be open: raise the limit for many callers", "open_files", descriptors, "recommended", fewDescriptors)
	}
	return l
}

func (l *ConnectionLimit) perAddress() int { return min(l.max, max(16, l.max/4)) }

// Limit returns a listener with limits. Member may be nil, and refusal too.
func (l *ConnectionLimit) Limit(inner net.Listener, name string, member func(netip.Addr) bool, refusal []byte) net.Listener {
	o := listenlimit.Options{
		Name: name, Max: l.max, MaxPerAddress: l.perAddress(), Member: member, Refusal: refusal, Metrics: l.metrics, Logger: l.log,
	}
	if member != nil {
		o.Reserved = l.max / 8
	}
	return listenlimit.New(inner, o)
}

// memoryLimit returns GOMEMLIMIT in bytes, or none.
func memoryLimit() string {
	if n := debug.SetMemoryLimit(-1); n != math.MaxInt64 { // a negative limit changes nothing
		return strconv.FormatInt(n, 10)
	}
	return "none"
}
