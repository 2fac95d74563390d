// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/rpc/pb"
)

// maxUnaryInFlight bounds the unary calls to one node that are in flight: as many as the
// queue of a link may hold.
const maxUnaryInFlight = 4096

// unaryLoad holds unary calls to one node back when that refuses some, or when too many
// are in flight. Links do so for calls in batches. It is safe for concurrent use.
type unaryLoad struct {
	inFlight   atomic.Int64
	lastAnswer atomic.Int64 // in Unix nanoseconds

	mu struct {
		sync.Mutex
		throttle overload.Throttle
	}
}

// begin returns an ErrOverloaded if an ordinary call must not be sent now. Otherwise end
// must be called.
func (u *unaryLoad) begin(ordinary bool) error {
	n := u.inFlight.Add(1)
	if !ordinary {
		return nil
	}
	if n > maxUnaryInFlight {
		u.inFlight.Add(-1)
		return overloaded(unaryRetry, "")
	}
	now := time.Now().UnixNano()
	u.mu.Lock()
	admitted, retry := u.mu.throttle.Admit(now)
	u.mu.Unlock()
	if !admitted {
		u.inFlight.Add(-1)
		return overloaded(retry, "")
	}
	return nil
}

// unaryRetry is when to try again if too many calls are in flight.
const unaryRetry = 50 * time.Millisecond

// end records how a call ended.
func (u *unaryLoad) end(ordinary bool, err error) {
	u.inFlight.Add(-1)
	if err != nil && retryable(err) {
		return
	}
	now := time.Now().UnixNano()
	u.lastAnswer.Store(now)
	if !ordinary {
		return
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if err != nil && status.Code(err) == codes.ResourceExhausted {
		u.mu.throttle.Refused(now, 1)
	} else {
		u.mu.throttle.Answered(now, 1)
	}
}

// mayBeRefused reports whether an item makes a new decision. What ends or corrects an
// earlier one is never refused because of overload.
func mayBeRefused(item *pb.Item) bool {
	switch item.GetCall().(type) {
	case *pb.Item_Settle, *pb.Item_Cancel:
		return false
	}
	return true
}

// askNode asks one node, and reports whether the node is slow, and not gone: it has
// answered other calls meanwhile. After a time without any answer of the node the error
// has the code DeadlineExceeded.
func askNode[Req, Res any](
	ctx context.Context, n *node, patience time.Duration,
	method method[Req, Res],
	req Req,
) (res Res, slow bool, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	began := time.Now().UnixNano()
	var silent atomic.Bool
	var timer *time.Timer
	armed := make(chan struct{}) // closed when timer is set
	timer = time.AfterFunc(patience, func() {
		<-armed
		since := max(n.load.lastAnswer.Load(), began)
		if left := patience - time.Duration(time.Now().UnixNano()-since); left > 0 {
			timer.Reset(left)
			return
		}
		silent.Store(true)
		cancel()
	})
	close(armed)
	defer timer.Stop()
	res, err = method(n.api, ctx, req)
	if err != nil && silent.Load() {
		err = status.Error(codes.DeadlineExceeded, "no answer within "+patience.String())
	}
	return res, status.Code(err) == codes.DeadlineExceeded && n.load.lastAnswer.Load() > began, err
}
