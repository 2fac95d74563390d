// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/listenlimit"
)

// Defaults of [Options].
const (
	DefaultPort        = 6472
	DefaultLabel       = "bucketring"
	DefaultDepartedTTL = 10 * time.Minute
)

// Options configure a [Cluster]. Name, Boot and Bind are required.
type Options struct {
	// Name is the stable name that the ring hashes: 1 to [MaxName] letters,
	// digits, dots, underscores and hyphens.
	Name string
	// Boot identifies this run of the process: a new random number, and the wall
	// clock at the start.
	Boot Boot

	// Bind is the address that gossip listens on, with TCP and UDP. Port 0 picks a
	// free port.
	Bind netip.AddrPort
	// Advertise is the address at which others reach gossip. The zero value means
	// the bound address, or a private address of this machine if Bind is 0.0.0.0.
	// Port 0 means the bound port.
	Advertise netip.AddrPort
	// GRPC and HTTP are the ports at which peers reach this member, on the
	// advertised host. 0 means none.
	GRPC, HTTP uint16
	// TLS announces that GRPC takes TLS.
	TLS bool
	// Vouch returns nil if the process that answers at a member's address is that boot of
	// that member, as its certificate shows. Until it does, the boot is in no view: nobody
	// takes a name by gossip alone. It is asked again while the boot is alive and it returns
	// an error. Nil: all are taken at their word.
	Vouch func(context.Context, Member) error
	// Seeds are members to contact first, as host:port or host; the default port is
	// [DefaultPort]. Host names are resolved before each attempt, and all their
	// addresses are used. This node's own address may be among them.
	Seeds []string

	// Label separates clusters that can reach each other. Empty means
	// [DefaultLabel].
	Label string
	// Ring is the digest of everything that all members must agree on to compute
	// the same ring. Nodes with another digest are rejected.
	Ring ID
	// Policy is the digest of the policy in force. See [Cluster.SetPolicy].
	Policy ID

	// Keys encrypt gossip: the first one encrypts, all decrypt. A key has 16, 24 or
	// 32 bytes. Without keys gossip is plaintext, which is an error beyond loopback
	// unless Insecure is set.
	Keys [][]byte
	// AcceptPlaintext and SendPlaintext move a running cluster from plaintext to
	// encryption in three rounds of restarts: with keys and both options, with keys
	// and AcceptPlaintext, with keys only.
	AcceptPlaintext, SendPlaintext bool
	// Insecure allows plaintext beyond loopback.
	Insecure bool

	// DepartedTTL is how long a departed member stays in [View.Departed]. 0 means
	// [DefaultDepartedTTL].
	DepartedTTL time.Duration

	Logger   *slog.Logger          // nil: no log
	Registry prometheus.Registerer // nil: no metrics
	// Connections has the metrics of connections, which other listeners share. Nil: none.
	Connections *listenlimit.Metrics

	// Transport replaces the network, for tests. Bind and Advertise are then ignored.
	Transport memberlist.Transport
	// Resolve replaces the resolution of host names, for tests.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

func (o Options) withDefaults() Options {
	o.Label = cmp.Or(o.Label, DefaultLabel)
	o.DepartedTTL = cmp.Or(o.DepartedTTL, DefaultDepartedTTL)
	o.Boot.Started = instant(o.Boot.Started.UnixNano())
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Resolve == nil {
		o.Resolve = func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		}
	}
	return o
}

// Validate returns an error with every invalid option.
func (o Options) Validate() error {
	var problems []error
	reject := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if err := validateName(o.Name); err != nil {
		reject("name: %w", err)
	}
	if o.Boot.ID == 0 {
		reject("boot: must have a random id")
	}
	if o.Boot.Started.IsZero() {
		reject("boot: must have a start time")
	}
	if o.Transport == nil {
		problems = append(problems, o.validateAddresses()...)
	}
	for _, seed := range o.Seeds {
		if _, _, err := splitSeed(seed); err != nil {
			reject("seeds: %w", err)
		}
	}
	if len(o.Label) > memberlist.LabelMaxSize {
		reject("label: must have at most %d bytes, got %d", memberlist.LabelMaxSize, len(o.Label))
	}
	for i, key := range o.Keys {
		if err := memberlist.ValidateKey(key); err != nil {
			reject("keys: must have 16, 24 or 32 bytes, got %d in key %d", len(key), i+1)
		}
	}
	if len(o.Keys) == 0 && (o.AcceptPlaintext || o.SendPlaintext) {
		reject("keys: must be set to use accept_plaintext or send_plaintext")
	}
	if o.SendPlaintext && !o.AcceptPlaintext {
		reject("send_plaintext: must not be set without accept_plaintext, because other members send plaintext, too")
	}
	if o.DepartedTTL < 0 || o.DepartedTTL > reconnectTimeout {
		reject("departedTTL: must be from 0 to %s, got %s", reconnectTimeout, o.DepartedTTL)
	}
	return errors.Join(problems...)
}

func (o Options) validateAddresses() (problems []error) {
	bind := o.Bind.Addr().Unmap()
	switch {
	case !o.Bind.IsValid():
		problems = append(problems, errors.New("bind: must be an address and a port"))
	case bind.Is6() && bind.IsUnspecified() && !o.Advertise.IsValid():
		problems = append(problems, fmt.Errorf("advertise: must be set to listen on %s", o.Bind))
	case !bind.IsLoopback() && len(o.Keys) == 0 && !o.Insecure:
		problems = append(problems, fmt.Errorf("bind: %s is not a loopback address: set keys, or insecure for plaintext", o.Bind))
	}
	if o.Advertise.IsValid() && o.Advertise.Addr().IsUnspecified() {
		problems = append(problems, fmt.Errorf("advertise: must be an address that others can reach, got %s", o.Advertise))
	}
	return problems
}

// splitSeed splits host:port; a host alone gets the default port.
func splitSeed(seed string) (host string, port uint16, err error) {
	if addr, err := netip.ParseAddr(seed); err == nil {
		return addr.String(), DefaultPort, nil
	}
	host, digits, err := net.SplitHostPort(seed)
	if err != nil { // or no port
		host, digits = seed, strconv.Itoa(DefaultPort)
	}
	n, err := strconv.ParseUint(digits, 10, 16)
	if err != nil || n == 0 || host == "" || slices.Contains([]byte(host), ':') && !isIP(host) {
		return "", 0, fmt.Errorf("must be host:port, got %q", seed)
	}
	return host, uint16(n), nil
}

func isIP(host string) bool {
	_, err := netip.ParseAddr(host)
	return err == nil
}
