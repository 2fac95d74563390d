// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"fmt"
	"maps"
	stdslices "slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// scene is a table in virtual time, whose returns go to a fake owner.
type scene struct {
	*testing.T
	*slices.Table

	mu      sync.Mutex
	fail    error // of the owner, if not nil
	silent  bool  // the owner does not answer
	sends   []time.Duration
	returns map[string]*pb.SliceReturn // by id
	began   time.Time
	granted int
}

func run(t *testing.T, o slices.Options, test func(*scene)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := newScene(t, o)
		defer func() { _ = s.Close(t.Context()) }()
		test(s)
	})
}

func newScene(t *testing.T, o slices.Options) *scene {
	s := &scene{T: t, returns: map[string]*pb.SliceReturn{}, began: time.Now()}
	o.Now = func() int64 { return int64(time.Since(s.began)) }
	o.Send = s.send
	s.Table = slices.New(o)
	return s
}

func (s *scene) send(ctx context.Context, item *pb.Item) error {
	s.mu.Lock()
	s.sends = append(s.sends, time.Since(s.began))
	fail, silent := s.fail, s.silent
	if fail == nil && !silent {
		r := item.GetSliceReturn()
		if s.returns[r.GetSlice()] != nil {
			s.Errorf("%s was returned again after it was acknowledged", r.GetSlice())
		}
		s.returns[r.GetSlice()] = r
	}
	s.mu.Unlock()
	if silent {
		<-ctx.Done()
		return ctx.Err()
	}
	return fail
}

// owner sets how the owner behaves from now on.
func (s *scene) owner(fail error, silent bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail, s.silent = fail, silent
}

// grant asks for a slice of so many calls, which the owner lends for a second. It returns
// the id of the slice.
func (s *scene) grant(q *pb.CheckRequest, calls int64) string {
	s.Helper()
	if !s.Asks(q) {
		s.Fatalf("Asks(%v) = false, want true", q)
	}
	return s.grantUnasked(q, calls)
}

func (s *scene) grantUnasked(q *pb.CheckRequest, calls int64) string {
	s.granted++
	id := fmt.Sprint("s", s.granted)
	s.Granted(q, s.Now(), sliceOf(id, calls), decision())
	return id
}

func sliceOf(id string, calls int64) *pb.Slice {
	return &pb.Slice{Id: id, Amounts: []int64{calls, 10 * calls}, LeaseNanos: int64(time.Second)}
}

// decision is with limits of 1000 requests and 10000 tokens.
func decision() *pb.Decision {
	return &pb.Decision{
		Outcome: pb.Outcome_OUTCOME_ALLOWED, RequestId: "first", Tier: "free", Owner: "a", PolicyVersion: "v1", Route: pb.Route_ROUTE_FORWARD,
		Binding: new(int32(1)),
		Limits: []*pb.LimitState{
			{Name: "rpm", Limit: 1000, Capacity: 1000, Remaining: 900, Cost: 1},
			{Name: "tpm", Limit: 10000, Capacity: 10000, Remaining: 45, Cost: 10},
		},
	}
}

func check(key string) *pb.CheckRequest { return &pb.CheckRequest{Key: key} }

// take makes n checks, and returns how many were answered from memory.
func (s *scene) take(q *pb.CheckRequest, n int) (answered int) {
	var a slices.Answer
	for range n {
		if s.Take(q, &a, true) {
			answered++
		}
	}
	return answered
}

// wantReturned waits until nothing moves, and compares the calls of the returns by id.
func (s *scene) wantReturned(want map[string]int64) {
	s.Helper()
	synctest.Wait()
	s.mu.Lock()
	defer s.mu.Unlock()
	got := map[string]int64{}
	for id, r := range s.returns {
		got[id] = r.GetCalls()
		if len(r.GetSpent()) == 2 && (r.GetSpent()[0] != r.GetCalls() || r.GetSpent()[1] != 10*r.GetCalls()) {
			s.Errorf("%s was returned with %v for %d calls", id, r.GetSpent(), r.GetCalls())
		}
	}
	if !maps.Equal(got, want) {
		s.Errorf("returned %v, want %v", got, want)
	}
}

// sent returns when returns were sent.
func (s *scene) sent() []time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return stdslices.Clone(s.sends)
}

func contextFor(s *scene, d time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(s.Context(), d)
}
