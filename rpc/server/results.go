// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Bounds of batches.
const (
	// MaxItems bounds a batch that is a unary call.
	MaxItems = 1024
	// MaxBatchItems bounds a batch of a stream.
	MaxBatchItems = 512
)

// Results are the results of a list of calls. Decisions of this member stay in the
// engine's form until Get, All or Append converts them. Results are for one goroutine,
// until Release.
type Results struct {
	service *Service
	list    []result
	checks  checks
	reply   reusedReply // for Append
	defined definedLimits

	keepsDenials bool   // see KeepDenials
	trace        string // see SetTrace
}

// result is the result of one call: done or, if that is nil, scratch.
type result struct {
	done    *pb.Result
	scratch *scratch
	closed  bool   // the engine does not decide for the partition
	since   uint64 // see SetSince
	slice   *pb.Slice
	// uncounted: a denial that is not in the metrics yet, see KeepDenials.
	uncounted bool
}

// NewResults returns results for n calls, none of which has one yet.
func (s *Service) NewResults(n int) *Results {
	r := s.results.Get().(*Results)
	if cap(r.list) < n {
		r.list = make([]result, n)
	}
	r.list = r.list[:n]
	return r
}

// Set makes done the result of call i.
func (r *Results) Set(i int, done *pb.Result) {
	if x := r.list[i].scratch; x != nil {
		r.service.release(x)
	}
	r.list[i] = result{done: done}
}

// SetTrace says that the calls are traced: the histogram of durations gets the trace id as an
// exemplar.
func (r *Results) SetTrace(id string) { r.trace = id }

// SetSince notes since which term this member has owned the partition of call i, for
// [Results.Change].
func (r *Results) SetSince(i int, term uint64) { r.list[i].since = term }

// Change is what this member changed when it decided a call.
type Change struct {
	Decided bool   // this member decided the call
	Closed  bool   // it did not, because its engine does not decide for the partition
	Seq     uint64 // number of the change of the partition; 0: nothing was changed
	Large   bool   // it is not to be answered before another member has it
	Since   uint64 // the term that SetSince noted
	// WindowEnd is when the window of a count ends, in Unix nanoseconds.
	WindowEnd int64
}

// Change returns what the decision of call i has changed.
func (r *Results) Change(i int) Change {
	one := &r.list[i]
	c := Change{Decided: one.scratch != nil && one.done == nil, Closed: one.closed, Since: one.since}
	switch x := one.scratch; {
	case !c.Decided:
	case x.kind == call.Count:
		c.Seq, c.Large, c.WindowEnd = x.counted.Change, x.counted.Large, x.counted.End
	default:
		c.Seq, c.Large = x.decision.Change, x.decision.Large
	}
	return c
}

// MayWait reports whether call i was denied and may wait until it fits.
func (r *Results) MayWait(i int) bool {
	one := &r.list[i]
	if one.done != nil {
		return one.done.GetDecision().GetMayWait()
	}
	return one.scratch != nil && one.scratch.wait.mayWait
}

// Limits returns the limits of call i, which Lendable has returned true for: of a count one,
// with the window as its model. They are valid until the results are released.
func (r *Results) Limits(i int) []limiter.LimitState { return r.list[i].scratch.limits() }

// fail makes err, with which the engine answered, the result of call i.
func (r *Results) fail(i int, err error) {
	if errors.Is(err, limiter.ErrClosed) {
		r.SetError(i, errNotOwner)
		r.list[i].closed = true
		return
	}
	r.SetError(i, r.service.Reject(err))
}

// errNotOwner is the error of a call that came to a member which does not decide for its
// key. Routers replace it.
var errNotOwner = grpcstatus.Error(codes.Unavailable, "this member does not own the key")

// SetError makes err the result of call i.
func (r *Results) SetError(i int, err error) { r.Set(i, Failed(err)) }

// Fail makes err the result of every call.
func (r *Results) Fail(err error) {
	for i := range r.list {
		r.SetError(i, err)
	}
}

// Code returns why call i has no answer, or OK.
func (r *Results) Code(i int) codes.Code { return codes.Code(r.list[i].done.GetError().GetCode()) }

// Get returns the result of call i, in one piece of memory of its own.
func (r *Results) Get(i int) *pb.Result {
	if done := r.list[i].done; done != nil {
		return done
	}
	result := r.service.result(r.list[i].scratch)
	result.Slice = r.list[i].slice
	return result
}

// View returns the result of call i, in memory that the next View or Append uses again.
func (r *Results) View(i int) *pb.Result {
	done := r.list[i].done
	if done == nil {
		done = r.reply.result(r.service, r.list[i].scratch)
		done.Slice = r.list[i].slice
	}
	return done
}

// Counted returns the result of call i, which is a count.
func (r *Results) Counted(i int) Counted {
	one := &r.list[i]
	if one.done == nil {
		return r.service.counted(one.scratch)
	}
	if c := one.done.GetCounted(); c != nil {
		return countedBy(c)
	}
	return Counted{Err: ErrorOf(one.done)}
}

// All returns the results of all calls, all of a kind in one piece of memory.
func (r *Results) All() []*pb.Result {
	all := make([]*pb.Result, len(r.list))
	var made replies
	made.make(r)
	for i := range r.list {
		if all[i] = r.list[i].done; all[i] == nil {
			all[i] = made.result(r.service, r.list[i].scratch)
			all[i].Slice = r.list[i].slice
		}
	}
	return all
}

// Append appends every result, encoded as a field of pb.Answers.
func (r *Results) Append(wire []byte) []byte {
	for i := range r.list {
		wire = codec.AppendResult(wire, r.View(i))
	}
	return wire
}

// Release ends the use of r. Messages that Get and All returned stay valid.
func (r *Results) Release() {
	for i := range r.list {
		if x := r.list[i].scratch; x != nil {
			r.service.release(x)
		}
	}
	clear(r.list)
	r.checks.clear()
	r.keepsDenials, r.trace = false, ""
	if cap(r.list) > MaxItems {
		return
	}
	r.service.results.Put(r)
}

// checks are decided together, under few locks. All slices have the same length.
type checks struct {
	index     []int // of the results
	requests  []*limiter.Request
	decisions []*limiter.Decision
	errs      []error
}

func (b *checks) add(index int, x *scratch) {
	b.index = append(b.index, index)
	b.requests = append(b.requests, &x.request)
	b.decisions = append(b.decisions, &x.decision)
	b.errs = append(b.errs, nil)
}

func (b *checks) clear() {
	if len(b.index) == 0 {
		return
	}
	clear(b.requests)
	clear(b.decisions)
	clear(b.errs)
	*b = checks{b.index[:0], b.requests[:0], b.decisions[:0], b.errs[:0]}
}

// Failed is the result of a call that ended with an error.
func Failed(err error) *pb.Result {
	return &pb.Result{Result: &pb.Result_Error{Error: Describe(err)}}
}
