// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	quote "github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/pb"
)

// MaxMaxWait is the longest time that a call may be told to wait.
const MaxMaxWait = 10 * time.Minute

// wire returns the class as the wire has it. An unknown one has no number.
func (p Priority) wire() pb.Priority {
	for i, name := range priorityNames {
		if p == name {
			return pb.Priority(i)
		}
	}
	return -1
}

// wireWait returns a MaxWait as the wire has it.
func wireWait(d *time.Duration) *durationpb.Duration {
	if d == nil {
		return nil
	}
	return durationpb.New(*d)
}

// validateWait rejects a MaxWait or a Priority that no node accepts, before the call could be
// answered from a slice.
func validateWait(maxWait *time.Duration, p Priority) error {
	if maxWait == nil && p == "" {
		return nil
	}
	if maxWait != nil && (*maxWait < 0 || *maxWait > MaxMaxWait) {
		return invalidField("max_wait", "must be from 0 to "+MaxMaxWait.String()+", got "+maxWait.String())
	}
	if p.wire() < 0 {
		return invalidField("priority", "must be interactive, standard or batch, got "+quote.Quote(string(p)))
	}
	return nil
}

// invalidField is the error of a field that was not sent.
func invalidField(field, problem string) error {
	message := field + ": " + problem
	return &InvalidError{Field: field, Message: message, status: status.Error(codes.InvalidArgument, message)}
}

// isWaitable reports whether a denied call may wait: as its owner says or, if the answer came
// by a unary call, as the limits say that denied it. A denial in fallback is not of an owner at
// which the call could wait.
func (w *decisionCall) isWaitable() bool {
	d := &w.answer
	if d.Outcome != Denied || d.Reason != LimitExceeded || d.Route == Fallback {
		return false
	}
	if w.mayWait || w.batched {
		return w.mayWait
	}
	if d.RetryAfter == 0 || d.WaitRefused != "" {
		return false
	}
	denied := false
	for i := range d.Limits {
		if l := &d.Limits[i]; l.Exceeded && !l.Shadow {
			if l.MaxWait <= 0 {
				return false
			}
			denied = true
		}
	}
	return denied
}

// longestWait returns the longest wait at any of the limits of a decision, and MaxMaxWait if
// they do not say.
func longestWait(limits []LimitState) (d time.Duration) {
	for i := range limits {
		d = max(d, limits[i].MaxWait)
	}
	if d == 0 {
		return MaxMaxWait
	}
	return d
}

// waitMargin is what the answer of a call that waits needs of the time left: an eighth, and at
// most 100 ms.
func waitMargin(left time.Duration) time.Duration { return min(left/8, 100*time.Millisecond) }

// A unary call would wait at the node, for no longer than one attempt. So it is sent as one
// that does not wait, and the client has it wait by a stream.
var noWait = &durationpb.Duration{}

var (
	// checkAtOnce is the method Check, of a call that does not wait at the node.
	checkAtOnce method[*pb.CheckRequest, *pb.Decision] = func(api pb.RateLimiterClient, ctx context.Context, q *pb.CheckRequest, o ...grpc.CallOption) (*pb.Decision, error) {
		defer func(was *durationpb.Duration) { q.MaxWait = was }(q.MaxWait)
		q.MaxWait = noWait
		return api.Check(ctx, q, o...)
	}
	// reserveAtOnce is like checkAtOnce.
	reserveAtOnce method[*pb.ReserveRequest, *pb.Decision] = func(api pb.RateLimiterClient, ctx context.Context, q *pb.ReserveRequest, o ...grpc.CallOption) (*pb.Decision, error) {
		defer func(was *durationpb.Duration) { q.MaxWait = was }(q.MaxWait)
		q.MaxWait = noWait
		return api.Reserve(ctx, q, o...)
	}
)
