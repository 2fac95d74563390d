// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// lockedBuffer is a log that may be read while it is written.
type lockedBuffer struct {
	sync.Mutex
	bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.Write(p)
}

func (b *lockedBuffer) String() string {
	b.Lock()
	defer b.Unlock()
	return b.Buffer.String()
}

// An owner does not answer for a while, and more calls come than the queue to it holds. The
// others are refused at once, and neither decided in fallback nor charged. Calls of this
// member's own keys are not affected, and settles are never refused.
func TestForwardedCallsAreRefused(t *testing.T) {
	t.Parallel()
	var log lockedBuffer
	nodes := newCluster(t, 2, func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	asked, owner := nodes[0], nodes[1]
	ctx := waittest.Context(t, testWait)
	key := owner.ownedBy(0) + "/u"
	eventuallyForwarded(t, asked, func() (pb.Route, error) { // the stream is there
		d, err := asked.Check(ctx, &pb.CheckRequest{Key: owner.ownedBy(1), RequestId: "open"})
		return d.GetRoute(), err
	})
	owner.listener.setFrozen(true)
	var answered, refused, settled atomic.Int64
	var wg sync.WaitGroup
	const calls = 7000 // more than two batches and a queue of 4,096
	for range calls {
		wg.Go(func() {
			_, err := asked.Check(ctx, &pb.CheckRequest{Key: key, Tier: "open"})
			switch grpcstatus.Code(err) {
			case codes.OK:
				answered.Add(1)
			case codes.ResourceExhausted:
				retry := false
				for _, detail := range grpcstatus.Convert(err).Details() {
					if d, ok := detail.(*errdetails.RetryInfo); ok {
						retry = d.GetRetryDelay().AsDuration() > 0
					}
				}
				if !retry {
					t.Errorf("%v has no RetryInfo", err)
				}
				refused.Add(1)
			default:
				t.Errorf("Check() = %v", err)
			}
		})
	}
	waittest.Until(t, "refusals", func() bool { return refused.Load() >= calls-maxUnrefused })
	if answered.Load() > 0 {
		t.Errorf("%d calls were answered while the owner was frozen", answered.Load())
	}
	for range 100 {
		wg.Go(func() {
			s, err := asked.Settle(ctx, &pb.SettleRequest{Key: key, RequestId: "unknown"})
			if grpcstatus.Code(err) != codes.NotFound {
				t.Errorf("Settle() = %v, %v; want the owner's NotFound", s, err)
			}
			settled.Add(1)
		})
	}
	if d, err := asked.Check(ctx, &pb.CheckRequest{Key: asked.ownedBy(0)}); err != nil || d.GetRoute() != pb.Route_ROUTE_LOCAL {
		t.Errorf("Check() of an own key = %v, %v", d, err)
	}
	owner.listener.setFrozen(false)
	wg.Wait()
	if n := answered.Load() + refused.Load(); n != calls || settled.Load() != 100 {
		t.Errorf("%d of %d calls and %d of 100 settles ended", n, calls, settled.Load())
	}
	if got := asked.metric("bucketring_forward_refused_total", owner.name); got != float64(refused.Load()) {
		t.Errorf("the metric says %v, and %d calls were refused", got, refused.Load())
	}
	for cause, n := range asked.Status().Fallbacks {
		if n > 0 {
			t.Errorf("%d calls were decided in fallback because of %s", n, cause)
		}
	}
	if used := owner.used(key, "open", "requests"); used != min(answered.Load(), 90) {
		t.Errorf("%d calls were charged, %d were answered", used, answered.Load())
	}
	if n := strings.Count(log.String(), "calls are refused because a member answers too slowly"); n != 1 {
		t.Errorf("the log has %d lines about refusals, want one a minute:\n%s", n, log.String())
	}
}

// maxUnrefused is the most calls that are on a link: the queue, and two batches.
const maxUnrefused = 4096 + 2*512

// What becomes of a call, by the error of its link.
func TestLinkErrors(t *testing.T) {
	t.Parallel()
	nodes := newCluster(t, 2)
	asked, owner := nodes[0], nodes[1]
	key := owner.ownedBy(0)
	overloaded := &link.OverloadedError{RetryAfter: 30 * time.Millisecond}
	check := call.Of(&pb.CheckRequest{Key: key, Tier: "open", RequestId: "c"})
	peek := call.Of(&pb.PeekRequest{Key: key})
	count := call.Of(&pb.CountRequest{Key: key, Limit: 5, Unit: pb.Unit_UNIT_DAY, Hits: 1, RequestId: "h"})
	giveBack := call.Of(&pb.CountRequest{Key: key, Limit: 5, Unit: pb.Unit_UNIT_DAY, Hits: 1, GiveBack: true, RequestId: "g"})
	settle := call.Of(&pb.SettleRequest{Key: key, RequestId: "s"})
	for _, tt := range []struct {
		name    string
		call    call.Call
		err     error
		refused bool
	}{
		{"check", check, overloaded, true},
		{"peek", peek, overloaded, true},
		{"count", count, overloaded, true},
		{"check that came too late", check, errTooLate, true},
		{"check without an answer", check, link.ErrTimeout, false},
		{"check at a broken link", check, link.ErrBroken, false},
		{"give-back that came too late", giveBack, errTooLate, false},
		{"settle that came too late", settle, errTooLate, false},
	} {
		c := tt.call
		f := &forward{Call: &c, to: asked.ownerOf(asked.table.Load(), c.Partition)}
		asked.retry(asked.limit(waittest.Context(t, testWait), time.Now(), 1), f, tt.err)
		if f.result == nil {
			t.Errorf("%s: no result", tt.name)
			continue
		}
		if got := code(f.result) == codes.ResourceExhausted && f.result.GetError().GetRetryAfterMs() > 0; got != tt.refused {
			t.Errorf("%s: %v, refused = %v, want %v", tt.name, f.result, got, tt.refused)
		}
		if errors.Is(tt.err, link.ErrOverloaded) && f.result.GetError().GetRetryAfterMs() != 30 {
			t.Errorf("%s: %v, want to be told to retry after 30 ms", tt.name, f.result)
		}
	}
}
