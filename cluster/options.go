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
)

// Defaults of [Options].
const (
	DefaultPort   = 6472
	DefaultLabel  = "bucketring"
	DefaultForget = 10 * time.Minute
)

// Options configure a [Cluster]. Slot, Boot and Bind are required.
type Options struct {
	// Slot is the stable name that the ring hashes: 1 to [MaxSlot] letters,
	// digits, dots, underscores and hyphens.
	Slot string
	// Boot tells this run of the process from all others of the slot: a fresh
	// random number, and when it started by the wall clock.
	Boot Boot

	// Bind is the address that gossip listens on, with TCP and UDP. Port 0 picks
	// a free one. Advertise is what others are told to use: the zero value means
	// the bound address, or the private one of this machine if Bind is 0.0.0.0;
	// port 0 means the bound port.
	Bind, Advertise netip.AddrPort
	// GRPC and HTTP are the ports at which peers reach this member, on the
	// advertised host. 0: none.
	GRPC, HTTP uint16
	// Seeds are members to begin with, as host:port or host. Names are looked up
	// before each attempt, and all their addresses count. This node's own
	// address may be among them. Without a port: [DefaultPort].
	Seeds []string

	// Label keeps clusters apart that can reach each other. Empty:
	// [DefaultLabel].
	Label string
	// Ring is the digest of everything that all members must agree on to compute
	// the same ring. Nodes with another one are refused.
	Ring ID
	// Policy is the digest of the policy in force. See [Cluster.SetPolicy].
	Policy ID

	// Keys encrypt gossip: the first one encrypts, all decrypt. A key has 16, 24
	// or 32 bytes. Without keys gossip is plaintext, which is refused beyond
	// loopback unless Insecure is set.
	Keys [][]byte
	// AcceptPlaintext and SendPlaintext take a running cluster from plaintext to
	// encryption in three rounds of restarts: with keys and both, with keys and
	// AcceptPlaintext, with keys only.
	AcceptPlaintext, SendPlaintext bool
	Insecure                       bool

	// Forget is how long a member that is gone stays in the view as departed. 0:
	// [DefaultForget].
	Forget time.Duration

	Logger   *slog.Logger          // nil: no log
	Registry prometheus.Registerer // nil: no metrics

	// Transport replaces the network. Bind and Advertise are ignored then.
	Transport memberlist.Transport
	// Resolve replaces the look-up of host names.
	Resolve func(ctx context.Context, host string) ([]netip.Addr, error)
}

func (o Options) withDefaults() Options {
	o.Label = cmp.Or(o.Label, DefaultLabel)
	o.Forget = cmp.Or(o.Forget, DefaultForget)
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

// Validate reports every option that cannot be used.
func (o Options) Validate() error {
	var problems []error
	complain := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }

	if err := checkSlot(o.Slot); err != nil {
		complain("slot: %w", err)
	}
	if o.Boot.ID == 0 {
		complain("boot: must have a random id")
	}
	if o.Boot.Started.IsZero() {
		complain("boot: must say when it started")
	}
	if o.Transport == nil {
		problems = append(problems, o.validateAddresses()...)
	}
	for _, seed := range o.Seeds {
		if _, _, err := splitSeed(seed); err != nil {
			complain("seeds: %w", err)
		}
	}
	if len(o.Label) > memberlist.LabelMaxSize {
		complain("label: must have at most %d bytes, got %d", memberlist.LabelMaxSize, len(o.Label))
	}
	for i, key := range o.Keys {
		if err := memberlist.ValidateKey(key); err != nil {
			complain("keys: must have 16, 24 or 32 bytes, got %d in key %d", len(key), i+1)
		}
	}
	if len(o.Keys) == 0 && (o.AcceptPlaintext || o.SendPlaintext) {
		complain("keys: must be set to accept or send plaintext beside them")
	}
	if o.SendPlaintext && !o.AcceptPlaintext {
		complain("send_plaintext: must not be set without accept_plaintext, others would do the same")
	}
	if o.Forget < 0 || o.Forget > remember {
		complain("forget: must be from 0 to %s, got %s", remember, o.Forget)
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

// splitSeed takes host:port or host apart.
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
