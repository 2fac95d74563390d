// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Exchange implements pb.RateLimiterServer, for clients.
func (r *Router) Exchange(stream grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	return r.serve(stream, false)
}

// serve answers batches until the other side ends the stream or the router
// drains. Trusted ones come from a member, which may say terms and replay calls.
func (r *Router) serve(stream link.ServerStream, trusted bool) error {
	if err := r.leaving(); err != nil {
		return err
	}
	a := &answering{router: r, trusted: trusted}
	err := link.Serve(stream, r.drain, a.answer)
	if p, ok := errors.AsType[*link.PanicError](err); ok {
		r.log.Error("batch panicked", "panic", p)
	}
	return err
}

// leaving is the error of a stream that begins after Drain.
func (r *Router) leaving() error {
	select {
	case <-r.drain:
		return grpcstatus.Error(codes.Unavailable, r.name+" is leaving: ask another member")
	default:
		return nil
	}
}

// answering is the memory of a stream that is answered, one batch at a time.
type answering struct {
	router  *Router
	trusted bool

	results    []*pb.Result
	partitions []uint16
	terms      []uint64
	wire       []byte
	answers    pb.Answers // with wire as its unknown fields
}

// maxKept is the most memory, for encoded answers, that a stream keeps between
// batches.
const maxKept = 256 << 10

// answer decides the items of a batch that this member owns, all by one view,
// and redirects the others: it never forwards. The results are encoded already,
// and good until the next batch.
func (a *answering) answer(b *pb.Batch) *pb.Answers {
	items := b.GetItems()
	a.begin(len(items))
	defer a.end()
	var digest uint64
	if err := a.router.local.ValidateBatch(b); err != nil {
		for i := range a.results {
			a.results[i] = failed(err)
		}
		refused := a.router.local.Decide(items, a.results) // nothing is left to decide
		a.wire = refused.Append(a.wire, a.results, a.terms)
		refused.Release()
	} else {
		digest = a.decide(items)
	}
	a.answers.Sequence, a.answers.Ring = b.GetSequence(), digest
	a.answers.ProtoReflect().SetUnknown(a.wire)
	return &a.answers
}

// decide encodes the results of items, and returns the digest of the ring by
// which they were decided.
func (a *answering) decide(items []*pb.Item) uint64 {
	r := a.router
	v := r.view.Load()
	var claims ownership.TermReports
	for i, item := range items {
		p := ring.PartitionOf(keyOf(item))
		a.partitions[i] = uint16(p)
		admission := v.roles.Admit(p, item.GetTerm())
		if a.trusted && admission.Learn {
			claims = append(claims, ownership.TermReport{Partition: p, Term: item.GetTerm()})
		}
		a.results[i] = r.receive(v, item, admission.Decide || v.alone, a.trusted)
	}
	if claims != nil {
		v = r.hear(claims)
	}
	decided := r.local.Decide(items, a.results)
	defer decided.Release()
	r.settledHere(items, a.results)
	for i, p := range a.partitions {
		a.terms[i] = v.roles.Term(int(p))
	}
	a.wire = decided.Append(a.wire, a.results, a.terms)
	return v.roles.Table().Digest()
}

// begin makes room for n items.
func (a *answering) begin(n int) {
	if cap(a.results) > 2*server.MaxBatchItems { // of a batch that was refused
		a.results, a.partitions, a.terms = nil, nil, nil
	}
	a.results = slices.Grow(a.results[:0], n)[:n]
	a.partitions = slices.Grow(a.partitions[:0], n)[:n]
	a.terms = slices.Grow(a.terms[:0], n)[:n]
	clear(a.terms)
	if a.wire = a.wire[:0]; cap(a.wire) > maxKept {
		a.wire = nil
	}
}

// end lets go of what the batch pointed to, even after a panic.
func (a *answering) end() { clear(a.results) }

// receive returns what there is to say of an item without asking the local
// service: nil if that is to decide.
func (r *Router) receive(v *view, item *pb.Item, mine, trusted bool) *pb.Result {
	if item.GetReplay() && !trusted {
		return failed(wrongField("replay", "true", "is for members"))
	}
	if _, ok := item.GetCall().(*pb.Item_Count); ok && !trusted {
		return failed(wrongField("call", "count", "is for members"))
	}
	if err := checkNewID(item); err != nil {
		return failed(err)
	}
	if decider, _ := splitID(reservationOf(item)); decider != "" {
		return r.receiveNamed(v, item, mine)
	}
	if mine {
		return nil
	}
	return redirectTo(v.owner(ring.PartitionOf(keyOf(item))))
}

// receiveNamed settles a reservation that was made in fallback, if it was here,
// or if the member that made it is not there any more and this one owns the key.
func (r *Router) receiveNamed(v *view, item *pb.Item, mine bool) *pb.Result {
	c := &call{item: item}
	c.nameDecider()
	if c.decider != r.name {
		if m := v.member(c.decider); m != nil {
			return redirectTo(m)
		}
	}
	switch {
	case c.decider == r.name && r.settleHere(c):
	case mine:
		c.result = r.answerHere(r.local, c.item)
	case c.decider == r.name:
		c.result = r.answerHere(r.fallback, c.item) // not found
	default:
		return redirectTo(v.owner(ring.PartitionOf(keyOf(item))))
	}
	r.settled(c)
	return c.result
}

// settledHere looks once more at reservations that the local service does not
// know of. See [Router.settled].
func (r *Router) settledHere(items []*pb.Item, results []*pb.Result) {
	for i, result := range results {
		if code(result) == codes.NotFound {
			c := &call{item: items[i], result: result}
			c.nameDecider()
			r.settled(c)
			results[i] = c.result
		}
	}
}

// redirectTo names a member; nobody if m is nil.
func redirectTo(m *memberAt) *pb.Result {
	to := &pb.Redirect{}
	if m != nil {
		to.Owner, to.Address = m.Name, m.GRPC
	}
	return &pb.Result{Result: &pb.Result_Redirect{Redirect: to}}
}
