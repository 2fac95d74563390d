// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/internal/boottime"
	"github.com/bucketring/bucketring/limiter"
)

// DefaultCopyRate is the default of [Options].CopyRate.
const DefaultCopyRate = 64 << 20

// Options configure a [Host]. Name, Boot, Engine and Now are needed.
type Options struct {
	// Name is the name of this member. Boot identifies this run of its process, and is
	// greater in each later run, as the time of its start in nanoseconds is.
	Name string
	Boot uint64
	// Engine has the records. The host closes all its partitions, and opens those for
	// which this member decides.
	Engine Engine
	// Now is the clock of the engine.
	Now func() limiter.Time
	// Clock never goes back, and also counts the time in which the machine was suspended.
	// Nil: the machine's.
	Clock func() time.Duration
	// Protocol are the settings of the ownership protocol, the same at all members. Zero
	// partitions: the defaults for as many as the ring has, with more copies at once.
	Protocol continuity.Options

	// Keys returns the cluster keys, as in rpc/peer. Nil: members need none.
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
	// CopyRate bounds the bytes of copies that this member sends in a second.
	// 0: [DefaultCopyRate].
	CopyRate int

	// Changed is called when the arrangement or the role of a partition has changed, after
	// the host answers accordingly. It must not block. Nil: nobody is told.
	Changed func(partition int, a continuity.Arrangement, r continuity.Role)
	// Report is called when charges have to be reported to an owner, every half a second
	// until [Host.Repaid]. It must not block. Nil: nothing is reported.
	Report func(continuity.Repay)

	Logger   *slog.Logger          // nil: no log
	Registry prometheus.Registerer // nil: no metrics
}

func (o Options) withDefaults() Options {
	o.CopyRate = cmp.Or(o.CopyRate, DefaultCopyRate)
	if o.Keys == nil {
		o.Keys = func() [][]byte { return nil }
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	if o.Clock == nil {
		o.Clock = boottime.New().Now
	}
	if o.Protocol.Partitions == 0 {
		o.Protocol = continuity.Defaults(partitions)
	}
	return o
}

// partitions is how many a ring has.
const partitions = 4096

// Validate reports every option that cannot be used.
func (o Options) Validate() error {
	var problems []error
	add := func(format string, args ...any) { problems = append(problems, fmt.Errorf(format, args...)) }
	if o.Name == "" {
		add("name: must not be empty")
	}
	if o.Boot == 0 {
		add("boot: must not be 0")
	}
	if o.Engine == nil {
		add("engine: must be set")
	}
	if o.Now == nil {
		add("now: must be set")
	}
	if o.CopyRate < 0 {
		add("copy_rate: must not be negative, got %d", o.CopyRate)
	}
	return errors.Join(problems...)
}
