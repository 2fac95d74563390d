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
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/notify"
	"github.com/bucketring/bucketring/internal/overload"
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
	FromRESP
	callSources
)

func (s CallSource) String() string {
	return [...]string{"grpc", "stream", "http", "envoy", "resp"}[s]
}

// Admission refuses a share of new calls while the node is overloaded: checks, reserves,
// peeks and counts. What ends or corrects an earlier call is never refused, nor is what a
// member forwards: the member has admitted it, and its link to this node has a bound of
// its own. A nil Admission admits everything. It is safe for concurrent use.
type Admission struct {
	refusal atomic.Pointer[refusal] // nil: no share is refused
	bound   atomic.Int64            // of calls in progress; 0: none
	begun   atomic.Int64            // unary calls, refused ones too
	ended   atomic.Int64            // of them
	waiting atomic.Int64            // of those in progress: for a limit, which costs nothing
	items   atomic.Int64            // new items of the streams of clients
	rests   atomic.Bool             // the next call sets resumed
	resumed notify.Signal
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

// maxSpared is how many calls an address may have in progress, or a batch of a client may
// have items, so that they are spared: a flood from one address, or work that is no call,
// does not make this node refuse the little that others ask. Only twice the bound of calls
// in progress spares nobody.
const maxSpared = 16

// errFull is the error of a call that would be one too many in progress.
var errFull = refusedError(fmt.Sprintf("this node is overloaded: too many calls are in progress; send it again after %s", refusedRetry))

// NewAdmission returns an Admission that admits everything. A nil registry means no
// metrics.
func NewAdmission(reg prometheus.Registerer) *Admission {
	a := &Admission{resumed: notify.New()}
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
	}, func() float64 { return float64(a.Share()) / overload.Whole })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_overload_calls", Help: "Unary calls in progress that the node may refuse: checks, reserves, peeks, batches and Envoy's requests.",
	}, func() float64 { return float64(a.Calls()) })
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_overload_calls_limit", Help: "Most such calls in progress. It falls while calls wait long for a processor.",
	}, func() float64 { return float64(a.bound.Load()) })
	return a
}

// SetBound sets how many unary calls may be in progress. 0: any number.
func (a *Admission) SetBound(calls int64) { a.bound.Store(calls) }

// Bound returns how many unary calls may be in progress; 0: any number.
func (a *Admission) Bound() int64 { return a.bound.Load() }

// Calls returns how many unary calls are in progress.
func (a *Admission) Calls() int64 { return a.begun.Load() - a.ended.Load() - a.waiting.Load() }

// Asked returns how many unary calls and items of streams could have been refused so far.
func (a *Admission) Asked() (calls, items int64) { return a.begun.Load(), a.items.Load() }

// Rest has the next call or item that could be refused send to Resumed, once. It returns
// false if there was one after so many calls and items, and then does nothing.
func (a *Admission) Rest(calls, items int64) bool {
	a.rests.Store(true)
	if c, i := a.Asked(); c == calls && i == items {
		return true
	}
	a.rests.Store(false)
	return false
}

// Resumed returns the channel that gets a value when calls come after [Admission.Rest].
func (a *Admission) Resumed() <-chan struct{} { return a.resumed.C() }

// resume says that there are calls again.
func (a *Admission) resume() {
	if a.rests.Load() && a.rests.Swap(false) {
		a.resumed.Set()
	}
}

// begin counts a unary call, and returns how many are in progress with it.
func (a *Admission) begin() int64 {
	begun := a.begun.Add(1)
	a.resume()
	return begun - a.ended.Load() - a.waiting.Load()
}

// wait says that a call in progress waits for a limit, until end is called: it does not count
// against the bound meanwhile.
func (a *Admission) wait() (end func()) {
	if a == nil {
		return func() {}
	}
	a.waiting.Add(1)
	return func() { a.waiting.Add(-1) }
}

// Begin returns nil if a new unary call is admitted: the caller must End it. Otherwise it
// returns the error of the call, which has a gRPC status. It takes no lock and allocates
// nothing.
func (a *Admission) Begin(ctx context.Context, source CallSource) error {
	if a == nil {
		return nil
	}
	err := a.check(ctx, a.begin())
	if err != nil {
		a.End()
		a.refused[source].Add(1)
	}
	return err
}

// BeginBatch counts calls that came together, as one unary call, and returns what Admit needs.
// The caller must End it.
func (a *Admission) BeginBatch() (calls int64) {
	if a == nil {
		return 0
	}
	return a.begin()
}

// Admit returns nil if a new call of a batch is admitted, and otherwise its error, as Begin
// does.
func (a *Admission) Admit(ctx context.Context, source CallSource, calls int64) error {
	if a == nil {
		return nil
	}
	err := a.check(ctx, calls)
	if err != nil {
		a.refused[source].Add(1)
	}
	return err
}

// check returns the error of a new call, with which so many are in progress.
func (a *Admission) check(ctx context.Context, calls int64) error {
	if bound := a.bound.Load(); bound != 0 && calls > bound && (calls > 2*bound || !fewCalls(ctx)) {
		return errFull
	}
	if r := a.refusal.Load(); r != nil && r.refuses() && !fewCalls(ctx) {
		return r.err
	}
	return nil
}

// fewCalls reports whether the remote address of a call has at most maxSpared of them.
func fewCalls(ctx context.Context) bool {
	if conn := listenlimit.FromContext(ctx); conn != nil {
		return conn.Peer().Active() <= maxSpared
	}
	if p, ok := peer.FromContext(ctx); ok {
		if conn := listenlimit.Of(p.Addr); conn != nil {
			return conn.Peer().Counts[UnaryStream].Load() <= maxSpared
		}
	}
	return false
}

// End ends a call that was admitted by Begin.
func (a *Admission) End() {
	if a != nil {
		a.ended.Add(1)
	}
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
	err := refusedError(fmt.Sprintf("this node is overloaded and refuses %d %% of new calls; send it again after %s", max(share*100/overload.Whole, 1), refusedRetry))
	a.refusal.Store(&refusal{share, uint64(share) << 32 / overload.Whole, err})
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

// AdmitItem returns nil if a new item of a client's stream is admitted, and otherwise its
// error. The number of items in its batch says how much the client asks. It takes no lock
// and allocates nothing.
func (a *Admission) AdmitItem(items int) error {
	if a == nil {
		return nil
	}
	r := a.refusal.Load()
	if r == nil || items <= maxSpared || !r.refuses() {
		return nil
	}
	a.refused[FromStream].Add(1)
	return r.err
}

// countItems counts new items of a client's stream, for Asked.
func (a *Admission) countItems(n int) {
	if a != nil && n > 0 {
		a.items.Add(int64(n))
		a.resume()
	}
}

// refuses chooses at random whether one more call is refused.
func (r *refusal) refuses() bool { return uint64(rand.Uint32()) < r.below }

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
	if s.admission == nil || len(b.GetItems()) > MaxItems {
		return s.RateLimiterServer.Batch(ctx, b)
	}
	calls := s.admission.begin()
	defer s.admission.End()
	if s.admitsAll(ctx, calls) {
		return s.RateLimiterServer.Batch(ctx, b)
	}
	return s.refuse(ctx, b, calls)
}

// appendAnswer implements encoder.
func (s admittedBatches) appendAnswer(ctx context.Context, request proto.Message, wire []byte) ([]byte, error) {
	if b, ok := request.(*pb.BatchRequest); ok && s.admission != nil && len(b.GetItems()) <= MaxItems {
		calls := s.admission.begin()
		defer s.admission.End()
		if !s.admitsAll(ctx, calls) {
			answer, err := s.refuse(ctx, b, calls)
			if err != nil {
				return nil, err
			}
			return proto.MarshalOptions{}.MarshalAppend(wire, answer)
		}
	}
	return appendFrom(ctx, s.RateLimiterServer, request, wire)
}

// admitsAll reports whether no item of a batch is refused, with so many calls in progress.
func (s admittedBatches) admitsAll(ctx context.Context, calls int64) bool {
	return s.admission.check(ctx, calls) == nil && s.admission.refusal.Load() == nil
}

// refuse answers a batch of which new items may be refused.
func (s admittedBatches) refuse(ctx context.Context, b *pb.BatchRequest, calls int64) (*pb.BatchResponse, error) {
	items := b.GetItems()
	admitted := &pb.BatchRequest{Items: make([]*pb.Item, 0, len(items))}
	results := make([]*pb.Result, len(items))
	for i, item := range items {
		if isNewItem(item) {
			if err := s.admission.check(ctx, calls); err != nil {
				s.admission.refused[FromGRPC].Add(1)
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
		return nil, grpcstatus.Error(codes.Internal, "internal error") // impossible
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
