// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"errors"
	"slices"
	"sync"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/auth"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Exchange implements pb.RateLimiterServer, for clients.
func (r *Router) Exchange(stream grpc.BidiStreamingServer[pb.Batch, pb.Answers]) error {
	session := auth.SessionOf(stream.Context())
	stop, cancel := r.drainOr(session.Ended())
	defer cancel()
	return r.serve(stream, stop, call.ClientStream, clientName(stream.Context()), session)
}

// drainOr returns a channel that is closed when the router drains or ended is closed: then
// calls in progress are answered, and the caller sends the others by a new stream, with the
// credentials that it has then. The caller must cancel it.
func (r *Router) drainOr(ended <-chan struct{}) (stop <-chan struct{}, cancel func()) {
	if ended == nil {
		return r.drain, func() {}
	}
	either, done := make(chan struct{}), make(chan struct{})
	go func() {
		select {
		case <-r.drain:
		case <-ended:
		case <-done:
			return
		}
		close(either)
	}()
	return either, func() { close(done) }
}

// serve answers batches from origin until the other side ends the stream or stop is closed.
func (r *Router) serve(stream link.ServerStream, stop <-chan struct{}, origin call.Origin, from askerName, session *auth.Session) error {
	if err := r.checkDraining(); err != nil {
		return err
	}
	s := &answeredStream{ServerStream: stream, router: r, origin: origin, session: session, asker: r.askers.begin(from)}
	defer r.askers.end(s.asker)
	err := link.Serve(s, stop, s.answer)
	if p, ok := errors.AsType[*link.PanicError](err); ok {
		r.log.Error("batch panicked", "panic", p)
	}
	return err
}

// checkDraining returns an error for a stream that begins after Drain.
func (r *Router) checkDraining() error {
	select {
	case <-r.drain:
		return grpcstatus.Error(codes.Unavailable, r.name+" is leaving: ask another member")
	default:
		return nil
	}
}

// answeredStream is a stream that is answered. It has memory only while it answers, because
// many streams are idle.
type answeredStream struct {
	link.ServerStream
	router  *Router
	origin  call.Origin
	session *auth.Session // nil: of a member, or there is no auth
	asker   uint32
	memory  *answering // nil between batches

	definitions server.Definitions // that were sent
}

// answering is the memory for the answers to a batch.
type answering struct {
	calls   []call.Call
	wire    []byte
	answers pb.Answers // with wire as its unknown fields
}

var answerings = sync.Pool{New: func() any { return new(answering) }}

// maxKept is the most memory for encoded answers that is used again.
const maxKept = 256 << 10

// Send implements link.ServerStream, and lets go of the memory of the answers.
func (s *answeredStream) Send(a *pb.Answers) error {
	err := s.ServerStream.Send(a)
	if cap(s.memory.wire) > maxKept {
		s.memory.wire = nil
	}
	answerings.Put(s.memory)
	s.memory = nil
	return err
}

// answer decides the items of a batch that this member owns, all by one routing
// table, and redirects the others. The results are encoded already, and valid until
// they are sent.
func (s *answeredStream) answer(b *pb.Batch) *pb.Answers {
	r, items := s.router, b.GetItems()
	a := answerings.Get().(*answering)
	s.memory = a
	a.begin(len(items))
	defer clear(a.calls) // let go of the requests, even after a panic
	var results *server.Results
	if err := r.local.ValidateBatch(b); err != nil {
		results = r.local.NewResults(len(items))
		results.Fail(err)
		a.answers.Ring = 0
	} else {
		for i, item := range items {
			a.calls[i] = call.FromItem(item, s.origin)
			a.calls[i].Asker = s.asker
		}
		server.Authorize(s.session.Grant(), a.calls)
		ctx, spans := r.link(a.calls)
		results = r.Do(ctx, a.calls)
		endLinked(spans, results)
		a.answers.Ring = r.table.Load().ring.Digest()
	}
	if b.GetTakesDefinitions() {
		a.wire = results.AppendDefined(a.wire, &s.definitions)
	} else {
		a.wire = results.Append(a.wire)
	}
	results.Release()
	a.answers.Sequence = b.GetSequence()
	a.answers.ProtoReflect().SetUnknown(a.wire)
	return &a.answers
}

// begin makes room for n items.
func (a *answering) begin(n int) {
	if cap(a.calls) > 2*server.MaxBatchItems { // of a batch that was rejected
		a.calls = nil
	}
	a.calls = slices.Grow(a.calls[:0], n)[:n]
	a.wire = a.wire[:0]
}
