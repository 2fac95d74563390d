// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// CallSource is the interface that a call came by, as the metric of refusals names it.
type CallSource int

// The sources of new calls.
const (
	FromGRPC   CallSource = iota // unary calls, and items of unary batches
	FromStream                   // items of the stream of a client
	FromHTTP
	FromEnvoy // over gRPC or HTTP
	callSources
)

func (s CallSource) String() string {
	return [...]string{"grpc", "stream", "http", "envoy"}[s]
}

// Admission refuses a share of new calls while the node is overloaded: checks, reserves,
// peeks and counts. What ends or corrects an earlier call is never refused, nor is what a
// member forwards: the member has admitted it, and its link to this node has a bound of
// its own. A nil Admission admits everything. It is safe for concurrent use.
type Admission struct {
	refusal atomic.Pointer[refusal] // nil: everything is admitted
	refused [callSources]atomic.Int64
}

// refusal is how many of the new calls are refused, and the error that they get.
type refusal struct {
	share int64 // in millionths
	below uint64
	err   *callError
}

// refusedRetry is when a refused call may be sent again. A share of the calls is
// admitted at any time, so it is short.
const refusedRetry = 250 * time.Millisecond

// whole is the share that is everything.
const whole = 1_000_000

// NewAdmission returns an Admission that admits everything. A nil registry means no
// metrics.
func NewAdmission(reg prometheus.Registerer) *Admission {
	a := &Admission{}
	f := promauto.With(reg)
	for source := range callSources {
		f.NewCounterFunc(prometheus.CounterOpts{
			Name:        "bucketring_overload_refused_total",
			Help:        "Calls refused before anything was done, because the node was overloaded, by the interface that they came by.",
			ConstLabels: prometheus.Labels{"where": "node", "api": source.String()},
		}, func() float64 { return float64(a.refused[source].Load()) })
	}
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_overload_refused_share", Help: "The share of new calls that the node refuses now, from 0 to 0.75.",
	}, func() float64 { return float64(a.Share()) / whole })
	return a
}

// Refuse sets the share of new calls to refuse from now on, in millionths.
func (a *Admission) Refuse(share int64) {
	if share <= 0 {
		a.refusal.Store(nil)
		return
	}
	if r := a.refusal.Load(); r != nil && r.share == share {
		return
	}
	err := refusedError(fmt.Sprintf("this node is overloaded and refuses %d %% of new calls; send it again after %s", max(share*100/whole, 1), refusedRetry))
	a.refusal.Store(&refusal{share, uint64(share) << 32 / whole, err})
}

// refusedError returns an error that is sent many times.
func refusedError(message string) *callError {
	err := Overloaded(message, refusedRetry).(*callError)
	err.status = err.GRPCStatus()
	return err
}

// Share returns the share of new calls that are refused, in millionths.
func (a *Admission) Share() int64 {
	if a == nil {
		return 0
	}
	if r := a.refusal.Load(); r != nil {
		return r.share
	}
	return 0
}

// Refused returns how many calls were refused so far.
func (a *Admission) Refused() (n int64) {
	for i := range a.refused {
		n += a.refused[i].Load()
	}
	return n
}

// Admit returns nil if a new call is admitted, and otherwise its error, which has a gRPC
// status. It takes no lock and allocates nothing.
func (a *Admission) Admit(source CallSource) error {
	if a == nil {
		return nil
	}
	r := a.refusal.Load()
	if r == nil || uint64(rand.Uint32()) >= r.below {
		return nil
	}
	a.refused[source].Add(1)
	return r.err
}

// isNew reports whether calls of kind k begin something.
func isNew(k call.Kind) bool {
	switch k {
	case call.Check, call.Reserve, call.Peek, call.Count:
		return true
	}
	return false
}

// newMethods are the unary methods of RateLimiter whose calls are new. Batches have new
// calls and others.
var newMethods = []string{"Check", "Reserve", "Peek"}

// admittedBatches refuses new items of unary batches.
type admittedBatches struct {
	pb.RateLimiterServer
	admission *Admission
}

// Batch implements pb.RateLimiterServer.
func (s admittedBatches) Batch(ctx context.Context, b *pb.BatchRequest) (*pb.BatchResponse, error) {
	items := b.GetItems()
	if s.admission.Share() == 0 || len(items) > MaxItems {
		return s.RateLimiterServer.Batch(ctx, b)
	}
	admitted := &pb.BatchRequest{Items: make([]*pb.Item, 0, len(items))}
	results := make([]*pb.Result, len(items))
	for i, item := range items {
		if isNewItem(item) {
			if err := s.admission.Admit(FromGRPC); err != nil {
				results[i] = Failed(err)
				continue
			}
		}
		admitted.Items = append(admitted.Items, item)
	}
	answer, err := s.RateLimiterServer.Batch(ctx, admitted)
	if err != nil {
		return nil, err
	}
	if len(answer.GetResults()) != len(admitted.GetItems()) {
		return nil, grpcstatus.Error(13, "internal error") // impossible
	}
	next := 0
	for i := range results {
		if results[i] == nil {
			results[i] = answer.GetResults()[next]
			next++
		}
	}
	answer.Results = results
	return answer, nil
}

func isNewItem(item *pb.Item) bool {
	switch item.GetCall().(type) {
	case *pb.Item_Check, *pb.Item_Reserve, *pb.Item_Peek, *pb.Item_Count:
		return true
	}
	return false
}
