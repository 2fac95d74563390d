// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/internal/tracing"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// DefaultTimeout is the default of [Options].Timeout.
const DefaultTimeout = time.Second

// Options configure a [Router]. Name, Boot, Local, Fallback and Owners are needed.
type Options struct {
	// Name is the name of this member, which the ring hashes. Boot identifies this run of
	// it, and is greater in each later run.
	Name string
	Boot uint64
	// Local decides for the partitions that this member owns, Fallback for all others
	// when their owner cannot be reached.
	Local, Fallback *server.Service
	// Owners says who decides for each partition.
	Owners Owners
	// Keys returns the cluster keys. The first one signs, and all are accepted. It is
	// called for each handshake, so keys may change. Nil, or no keys: members need none.
	Keys func() [][]byte
	// Dial are options of the connections to other members. Transport credentials are
	// required, here or by Credentials.
	Dial []grpc.DialOption
	// Credentials returns the credentials of a connection to a member, which takes TLS or not.
	// Nil: Dial has them.
	Credentials func(member string, tls bool) credentials.TransportCredentials
	// Certify returns an error if the connection of a stream to this member, by its context,
	// has no certificate for a member. Nil: members need none.
	Certify func(ctx context.Context, member string) error
	// Timeout bounds how long a call waits for its owner. 0: [DefaultTimeout].
	Timeout time.Duration
	// MaxOutbox bounds the calls in the outbox. 0: the outbox's default.
	MaxOutbox int

	// newHolder makes what holds slices, which send returns to their owners, for tests. Nil:
	// a table of slices.
	newHolder func(send func(context.Context, *pb.Item) error) holder

	Tracer   *tracing.Tracer       // nil: no spans
	Logger   *slog.Logger          // nil: no log
	Registry prometheus.Registerer // nil: no metrics
}

func (o Options) withDefaults() Options {
	o.Timeout = cmp.Or(o.Timeout, DefaultTimeout)
	if o.Keys == nil {
		o.Keys = func() [][]byte { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return o
}

// Validate reports every option that cannot be used.
func (o Options) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if o.Name == "" || strings.Contains(o.Name, requestid.Separator) {
		add("name: must not be empty or contain %q, got %q", requestid.Separator, o.Name)
	}
	if o.Boot == 0 {
		add("boot: must not be 0")
	}
	if o.Local == nil {
		add("local: must be set")
	}
	if o.Fallback == nil {
		add("fallback: must be set")
	}
	if o.Owners == nil {
		add("owners: must be set")
	}
	if o.Timeout < 0 {
		add("timeout: must not be negative, got %s", o.Timeout)
	}
	if o.MaxOutbox < 0 {
		add("max_outbox: must not be negative, got %d", o.MaxOutbox)
	}
	return errors.Join(problems...)
}
