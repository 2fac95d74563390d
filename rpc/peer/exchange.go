// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/cluster/ownership"
	"github.com/bucketring/bucketring/ring"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Exchange implements pb.RateLimiterServer, for clients.
func (r *Router) Exchange(stream grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	return r.serve(stream, func(b *pb.Batch) *pb.Answers { return r.answer(b, false) })
}

// serve answers batches until the other side ends the stream or the router
// drains.
func (r *Router) serve(stream link.ServerStream, answer func(*pb.Batch) *pb.Answers) error {
	if err := r.leaving(); err != nil {
		return err
	}
	err := link.Serve(stream, r.drain, answer)
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

// answer decides the items of a batch that this member owns, all by one view,
// and redirects the others: it never forwards. A trusted batch comes from a
// member, which may say terms and replay calls.
func (r *Router) answer(b *pb.Batch, trusted bool) *pb.Answers {
	v := r.view.Load()
	items := b.GetItems()
	answers := &pb.Answers{Sequence: b.GetSequence(), Results: make([]*pb.Result, len(items))}
	if err := r.local.ValidateBatch(b); err != nil {
		for i := range answers.Results {
			answers.Results[i] = failed(err)
		}
		return answers
	}
	var claims ownership.Heard
	partitions := make([]uint16, len(items))
	for i, item := range items {
		p := ring.PartitionOf(keyOf(item))
		partitions[i] = uint16(p)
		admission := v.roles.Admit(p, item.GetTerm())
		if trusted && admission.Learn {
			claims = append(claims, ownership.Claim{Partition: p, Term: item.GetTerm()})
		}
		answers.Results[i] = r.receive(v, item, admission.Decide || v.alone, trusted)
	}
	if claims != nil {
		v = r.hear(claims)
	}
	r.local.Answer(items, answers.Results)
	r.settledHere(items, answers.Results)
	for i, p := range partitions {
		answers.Results[i].Term = v.roles.Term(int(p))
	}
	answers.Ring = v.roles.Table().Digest()
	return answers
}

// receive returns what there is to say of an item without asking the local
// service: nil if that is to decide.
func (r *Router) receive(v *view, item *pb.Item, mine, trusted bool) *pb.Result {
	if item.GetReplay() && !trusted {
		return failed(wrongField("replay", "true", "is for members"))
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
