// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/await"
	"github.com/bucketring/bucketring/rpc/pb"
)

// The parts of a fake node at which calls wait.

// beginWait is the argument of [await.Serve].
type beginWait func(item *pb.Item, done func(*pb.Result)) (leave func())

// Wait implements pb.RateLimiterServer.
func (n *fakeNode) Wait(s grpc.BidiStreamingServer[pb.WaitMessage, pb.WaitAnswer]) error {
	n.mu.Lock()
	begin, stop := n.mu.begin, n.mu.stop
	n.mu.Unlock()
	if begin == nil {
		return n.UnimplementedRateLimiterServer.Wait(s)
	}
	return await.Serve(s, stop, 100, begin)
}

// waits makes calls wait at n in a line.
func (n *fakeNode) waits() *fakeLine {
	l := &fakeLine{}
	n.mu.Lock()
	n.mu.begin = l.begin
	n.mu.Unlock()
	return l
}

// fakeLine has the calls that wait at a node.
type fakeLine struct {
	mu     sync.Mutex
	answer func(item *pb.Item) (*pb.Result, time.Duration) // what a call is answered, and when; nil: nothing
	items  []*pb.Item                                      // that came
	left   int
}

func (l *fakeLine) begin(item *pb.Item, done func(*pb.Result)) (leave func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.items = append(l.items, item)
	if l.answer == nil {
		return l.leave
	}
	result, after := l.answer(item)
	timer := time.AfterFunc(after, func() { done(result) })
	return func() { timer.Stop(); l.leave() }
}

func (l *fakeLine) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.left++
}

// answers makes the line answer so.
func (l *fakeLine) answers(f func(*pb.Item) (*pb.Result, time.Duration)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.answer = f
}

// admits makes the line admit each call after a time.
func (l *fakeLine) admits(after time.Duration) {
	l.answers(func(item *pb.Item) (*pb.Result, time.Duration) { return admitted(item, after), after })
}

// fails makes the line answer with an error at once.
func (l *fakeLine) fails(code codes.Code) {
	l.answers(func(*pb.Item) (*pb.Result, time.Duration) { return itemError(code), 0 })
}

// came returns the calls that came, of which there must be n.
func (l *fakeLine) came(t *testing.T, n int) []*pb.Item {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.items) != n {
		t.Fatalf("%d calls came to wait, want %d", len(l.items), n)
	}
	return l.items
}

// count returns how many calls came.
func (l *fakeLine) count() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.items)
}

// wantLeft fails unless so many calls have left.
func (l *fakeLine) wantLeft(t *testing.T, n int) {
	t.Helper()
	synctest.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.left != n {
		t.Errorf("%d calls have left, want %d", l.left, n)
	}
}

// admitted is the answer to a call that has waited here for a time.
func admitted(item *pb.Item, waited time.Duration) *pb.Result {
	id := item.GetCheck().GetRequestId() + item.GetReserve().GetRequestId()
	return decided(&pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: id, Route: pb.Route_ROUTE_LOCAL, GrantedOutputTokens: new(int64(800)),
		Waited: durationpb.New(waited + time.Duration(item.GetWaitedNanos())), Place: 3, Priority: pb.Priority_PRIORITY_BATCH,
	})
}

func decided(d *pb.Decision) *pb.Result {
	return &pb.Result{Result: &pb.Result_Decision{Decision: d}}
}

// queueFor is how long a fake limit lets calls wait.
const queueFor = 5 * time.Second

// full is the denial of a limit that lets calls wait, as an owner makes it.
func full(id string, maxWait *durationpb.Duration) *pb.Decision {
	return &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_DENIED, Reason: pb.Reason_REASON_LIMIT_EXCEEDED, RequestId: id, Route: pb.Route_ROUTE_LOCAL,
		RetryAfter: durationpb.New(2 * time.Second), Binding: new(int32(0)),
		Limits:  []*pb.LimitState{{Name: "tokens", Dimension: "tokens", Limit: 10_000, Exceeded: true, MaxWait: durationpb.New(queueFor)}},
		MayWait: maxWait == nil || maxWait.AsDuration() > 0,
	}
}

// fill makes all calls of a cluster denied, and those that may wait. It returns the line of each
// node.
func fill(t scene) map[string]*fakeLine {
	t.check = func(r *pb.CheckRequest) *pb.Decision { return full(r.GetRequestId(), r.GetMaxWait()) }
	t.reserve = func(r *pb.ReserveRequest) *pb.Decision { return full(r.GetRequestId(), r.GetMaxWait()) }
	lines := map[string]*fakeLine{}
	for name, n := range t.nodes {
		lines[name] = n.waits()
	}
	return lines
}
