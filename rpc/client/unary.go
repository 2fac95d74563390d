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

// Bounds of the unary calls to one node that are in flight: a burst, and what is admitted
// while even the fastest answer of a while takes long. It takes several times the CPU of
// a call in a batch, so that a process that waits for the CPU must not make many.
const (
	maxUnaryInFlight  = 4096
	slowUnaryInFlight = 256

	slowUnary   = int64(250 * time.Millisecond)
	unaryWindow = int64(500 * time.Millisecond) // the fastest of one or two of them counts
)

// unaryLoad holds unary calls to one node back when that refuses some, or when too many
// are in flight. Links do so for calls in batches. It is safe for concurrent use.
//
// What ends or corrects a decision is never refused. So that many of these calls at once
// do not take the CPU from the links, slowUnaryInFlight are sent and the others wait.
type unaryLoad struct {
	inFlight   atomic.Int64
	lastAnswer atomic.Int64  // in Unix nanoseconds
	urgent     chan struct{} // has a value for each call in flight that is not ordinary

	mu struct {
		sync.Mutex
		throttle overload.Throttle
		fastest  [2]int64 // time of an answer, in this window and the one before; 0: none
		window   int64    // when this window ends
	}
}

// begin returns an ErrOverloaded if an ordinary call must not be sent now, and waits with
// any other call until there is room. It fails when ctx ends. Otherwise end must be called.
func (u *unaryLoad) begin(ctx context.Context, ordinary bool) error {
	if !ordinary {
		select {
		case u.urgent <- struct{}{}:
			u.inFlight.Add(1)
			return nil
		case <-ctx.Done():
			return status.FromContextError(ctx.Err()).Err()
		}
	}
	n := u.inFlight.Add(1)
	now := time.Now().UnixNano()
	u.mu.Lock()
	admitted, retry := n <= slowUnaryInFlight || n <= maxUnaryInFlight && !u.slowLocked(now), unaryRetry
	if admitted {
		admitted, retry = u.mu.throttle.Admit(now)
	}
	u.mu.Unlock()
	if !admitted {
		u.inFlight.Add(-1)
		return overloaded(retry, "")
	}
	return nil
}

// unaryRetry is when to try again if too many calls are in flight.
const unaryRetry = 50 * time.Millisecond

// slowLocked reports whether all answers of the last while took long.
func (u *unaryLoad) slowLocked(now int64) bool {
	u.advanceLocked(now)
	fastest := u.mu.fastest[0]
	if before := u.mu.fastest[1]; fastest == 0 || before != 0 && before < fastest {
		fastest = before
	}
	return fastest > slowUnary
}

// advanceLocked begins a new window if the last one is over. One without answers counts
// as slow if calls were in flight.
func (u *unaryLoad) advanceLocked(now int64) {
	if now < u.mu.window {
		return
	}
	if u.mu.fastest[0] == 0 && u.mu.window != 0 && u.inFlight.Load() > slowUnaryInFlight {
		u.mu.fastest[0] = 2 * slowUnary
	}
	u.mu.fastest[1], u.mu.fastest[0] = u.mu.fastest[0], 0
	if now-u.mu.window > unaryWindow {
		u.mu.fastest[1] = 0
	}
	u.mu.window = now + unaryWindow
}

// end records how a call ended that began at a time.
func (u *unaryLoad) end(ordinary bool, began time.Time, err error) {
	u.inFlight.Add(-1)
	if !ordinary {
		<-u.urgent
	}
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
	u.advanceLocked(now)
	if took := max(now-began.UnixNano(), 1); u.mu.fastest[0] == 0 || took < u.mu.fastest[0] {
		u.mu.fastest[0] = took
	}
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
	case *pb.Item_Settle, *pb.Item_Cancel, *pb.Item_SliceReturn:
		return false
	}
	return true
}

// askNode asks one node, and reports whether the node is slow, and not gone: it has
// answered other calls meanwhile.
func askNode[Req, Res any](
	ctx context.Context, n *node, patience time.Duration,
	method method[Req, Res],
	req Req,
) (res Res, slow bool, err error) {
	// The node gets no more time than that: it decides in fallback before, if the owner of
	// the key is gone.
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	began := time.Now().UnixNano()
	res, err = method(n.api, ctx, req)
	return res, status.Code(err) == codes.DeadlineExceeded && n.load.lastAnswer.Load() > began, err
}
