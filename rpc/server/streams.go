// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/grpc/tap"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/share"
	"github.com/bucketring/bucketring/rpc/pb"
)

// StreamKind is what a stream of HTTP/2 is used for.
type StreamKind int

// Kinds of streams. Each has bounds of its own, so that none takes the place of another.
const (
	UnaryStream    StreamKind = iota // a unary call, or another stream than those below
	ExchangeStream                   // batches of a client
	WatchStream                      // a client that watches the ring
	MemberStream                     // batches of a member
	streamKinds
)

func (k StreamKind) String() string {
	return [...]string{"unary", "exchange", "watch", "member"}[k]
}

// streamKindOf returns the kind of a method.
func streamKindOf(method string) StreamKind {
	switch method {
	case pb.RateLimiter_Exchange_FullMethodName, pb.RateLimiter_Wait_FullMethodName:
		return ExchangeStream
	case pb.RateLimiter_Watch_FullMethodName:
		return WatchStream
	case pb.Peer_Exchange_FullMethodName, pb.Peer_Wait_FullMethodName:
		return MemberStream
	}
	return UnaryStream
}

// StreamBound is the most streams of a kind, in all and for each remote address.
type StreamBound struct{ Max, PerAddress int }

// DefaultStreamBounds are the bounds of [NewStreamLimits]. A stream that does nothing
// takes about 15 KiB, one whose message has not arrived whole up to 336 KiB: its metadata,
// its window and the message.
var DefaultStreamBounds = [streamKinds]StreamBound{
	UnaryStream:    {4096, 1024},
	ExchangeStream: {2048, 256},
	WatchStream:    {4096, 1024},
	MemberStream:   {1024, 64},
}

// StreamLimits bound the streams of the gRPC servers of a node. What is above a bound
// gets RESOURCE_EXHAUSTED. A peer that opens a quarter more (but 8 at least) all the
// same, by unary calls whose messages do not arrive, loses its connection.
type StreamLimits struct {
	kinds [streamKinds]struct {
		StreamBound
		open    atomic.Int64
		refused map[share.Refusal]prometheus.Counter
	}
	refusing atomic.Int64 // streams that are above a bound, and not ended
	pool     sync.Pool    // of *openStream

	unread         *share.Budget // bytes of large answers that are not sent yet
	refusedAnswers map[share.Refusal]prometheus.Counter
	stalls         prometheus.Counter
	sendTimeout    time.Duration
}

// NewStreamLimits returns limits with [DefaultStreamBounds]. Members have no bound for
// their address, and a quarter more for all. A nil registry means no metrics. Member
// reports whether an address is a member's; nil means that none is.
func NewStreamLimits(reg prometheus.Registerer, member func(netip.Addr) bool) *StreamLimits {
	return newStreamLimits(reg, member, DefaultStreamBounds)
}

func newStreamLimits(reg prometheus.Registerer, member func(netip.Addr) bool, bounds [streamKinds]StreamBound) *StreamLimits {
	l := &StreamLimits{
		sendTimeout: sendTimeout, refusedAnswers: map[share.Refusal]prometheus.Counter{},
		unread: share.New(share.Limits{Total: maxUnread, PerAddress: maxUnreadPerAddress, Reserved: unreadReservedForOwn, Member: member}),
	}
	l.pool.New = func() any {
		s := &openStream{limits: l}
		s.ended = s.end
		return s
	}
	f := promauto.With(reg)
	refused := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_streams_refused_total",
		Help: "Streams refused because too many of their kind were open, from their address or to the node. A unary call is a stream, too.",
	}, []string{"kind", "limit"})
	answers := f.NewCounterVec(prometheus.CounterOpts{
		Name: "bucketring_unread_answers_refused_total",
		Help: "Large answers not sent because too many bytes were not read yet, by their address or by all.",
	}, []string{"limit"})
	for _, why := range share.Refusals {
		l.refusedAnswers[why] = answers.WithLabelValues(string(why))
	}
	l.stalls = f.NewCounter(prometheus.CounterOpts{
		Name: "bucketring_stalled_connections_total",
		Help: "Connections of gRPC closed because their peer read no answer for 10 seconds.",
	})
	f.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "bucketring_unread_answer_bytes", Help: "Bytes of large answers over gRPC that are not sent yet.",
	}, func() float64 { return float64(l.unread.Used()) })
	for i := range l.kinds {
		k, name := &l.kinds[i], StreamKind(i).String()
		k.StreamBound = bounds[i]
		k.refused = map[share.Refusal]prometheus.Counter{}
		for _, why := range share.Refusals {
			k.refused[why] = refused.WithLabelValues(name, string(why))
		}
		labels := prometheus.Labels{"kind": name}
		f.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "bucketring_streams", Help: "Open streams of gRPC, by what they are used for. A unary call is a stream, too.", ConstLabels: labels,
		}, func() float64 { return float64(k.open.Load()) })
		f.NewGauge(prometheus.GaugeOpts{
			Name: "bucketring_streams_limit", Help: "Most streams of gRPC that may be open.", ConstLabels: labels,
		}).Set(float64(k.Max))
	}
	return l
}

// refusedKey is the key of the context of a stream above a bound; its value is the error.
type refusedKey struct{}

// tap counts a stream before anything of it is read. It has no error, because
// grpc-go would keep the timer of the deadline of each stream that it refused.
func (l *StreamLimits) tap(ctx context.Context, info *tap.Info) context.Context {
	kind := streamKindOf(info.FullMethodName)
	k := &l.kinds[kind]
	var conn *listenlimit.Conn
	if p, ok := peer.FromContext(ctx); ok {
		conn = listenlimit.Of(p.Addr)
	}
	s := l.pool.Get().(*openStream)
	s.kind, s.conn = kind, conn
	all, n, most, per, why := k.open.Add(1), int64(0), k.Max, k.PerAddress, share.None
	if conn != nil {
		conn.Begin()
		n = conn.Peer().Counts[kind].Add(1)
		if conn.Peer().Member {
			most += most / 4
			per = most
		}
	}
	switch {
	case n > int64(per):
		why = share.AddressFull
	case all > int64(most):
		why = share.Full
	}
	hard := n > withSlack(per) || all > withSlack(most)
	if s.refused = why != share.None; s.refused {
		k.refused[why].Inc()
		l.refusing.Add(1)
		ctx = context.WithValue(ctx, refusedKey{}, k.refusal(kind, why))
		if hard && conn != nil {
			_ = conn.Close() // and with it all of its streams
		}
	}
	context.AfterFunc(ctx, s.ended) // once, so s may be used again
	return ctx
}

// withSlack is how many streams cost a peer its connection.
func withSlack(n int) int64 { return int64(n + max(8, n/4)) }

// refusal is the error of a stream above a bound.
func (b StreamBound) refusal(kind StreamKind, why share.Refusal) error {
	if why == share.AddressFull {
		return grpcstatus.Errorf(codes.ResourceExhausted, "too many streams from this address: %d of kind %s are open, which is its share of %d", b.PerAddress, kind, b.Max)
	}
	return grpcstatus.Errorf(codes.ResourceExhausted, "too many streams to this node: %d of kind %s are open", b.Max, kind)
}

// check returns the error of a stream above a bound.
func (l *StreamLimits) check(ctx context.Context) error {
	if l.refusing.Load() == 0 {
		return nil
	}
	err, _ := ctx.Value(refusedKey{}).(error)
	return err
}

// openStream is a stream that was counted.
type openStream struct {
	limits  *StreamLimits
	conn    *listenlimit.Conn // nil: the listener has no limits
	kind    StreamKind
	refused bool
	ended   func() // s.end, bound once
}

func (s *openStream) end() {
	s.limits.kinds[s.kind].open.Add(-1)
	if s.conn != nil {
		s.conn.Peer().Counts[s.kind].Add(-1)
		s.conn.End()
	}
	if s.refused {
		s.limits.refusing.Add(-1)
	}
	s.conn = nil
	s.limits.pool.Put(s)
}
