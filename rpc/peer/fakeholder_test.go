// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// simpleHolder is a holder that has one slice for each check that it has seen. Its slices
// last until they are spent, as the clock of the tests stands still.
type simpleHolder struct {
	send    func(context.Context, *pb.Item) error
	mute    bool // it returns nothing when it is asked to
	senders sync.WaitGroup
	ctx     context.Context // ends all sending
	stop    context.CancelFunc

	mu struct {
		sync.Mutex
		slices  map[string]*simpleSlice // by the encoded check
		taken   int
		closed  bool
		pending int
	}
}

type simpleSlice struct {
	key      string
	asking   bool
	slice    *pb.Slice // nil: none is held
	decision *pb.Decision
	left     int64 // calls
	calls    int64
}

var _ holder = (*simpleHolder)(nil)

// holding gives a member a simpleHolder.
func holding(o *Options) {
	o.newHolder = func(send func(context.Context, *pb.Item) error) holder {
		h := &simpleHolder{send: send}
		h.ctx, h.stop = context.WithCancel(context.Background())
		h.mu.slices = map[string]*simpleSlice{}
		return h
	}
}

// held returns the holder of n.
func (n *node) held() *simpleHolder { return n.holder.(*simpleHolder) }

func shapeOf(q slices.Request) string {
	b, err := proto.MarshalOptions{Deterministic: true}.Marshal(q.(proto.Message))
	if err != nil {
		panic(err)
	}
	return string(b)
}

func (h *simpleHolder) Take(q slices.Request, into *pb.Decision, _ bool) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.mu.slices[shapeOf(q)]
	if s == nil || s.slice == nil {
		return false
	}
	if s.left == 0 || !s.asking && s.calls >= s.left { // half of it is spent: renew it
		return false
	}
	s.left--
	s.calls++
	h.mu.taken++
	proto.Merge(into, s.decision)
	into.Route, into.RequestId = pb.Route_ROUTE_SLICE, fmt.Sprint("taken-", h.mu.taken)
	for _, l := range into.GetLimits() {
		l.Remaining = max(0, l.GetRemaining()-s.calls*l.GetCost())
	}
	return true
}

// Count counts nothing: the holder takes slices for checks only.
func (h *simpleHolder) Count(*pb.CountRequest, *pb.Counted, bool) bool { return false }

func (h *simpleHolder) Asks(q slices.Request) bool {
	if _, check := q.(*pb.CheckRequest); !check {
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	shape := shapeOf(q)
	s := h.mu.slices[shape]
	if s == nil {
		s = &simpleSlice{key: q.GetKey()}
		h.mu.slices[shape] = s
	}
	if s.asking || h.mu.closed {
		return false
	}
	s.asking = true
	return true
}

func (h *simpleHolder) Granted(q slices.Request, _ time.Duration, granted *pb.Slice, d *pb.Decision) {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := h.mu.slices[shapeOf(q)]
	asked := s.asking
	h.endLocked(s)
	s.asking = false
	s.slice, s.decision, s.calls = granted, proto.CloneOf(d), 0
	s.left = 1 << 40
	for i, l := range d.GetLimits() {
		if l.GetCost() > 0 && !l.GetShadow() {
			s.left = min(s.left, granted.GetAmounts()[i]/l.GetCost())
		}
	}
	if !asked || h.mu.closed { // it was recalled meanwhile
		h.endLocked(s)
	}
}

func (h *simpleHolder) Answered(q slices.Request) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.mu.slices[shapeOf(q)].asking = false
}

// End knows no reservations: the holder takes slices for checks only.
func (h *simpleHolder) End(*call.Call) (*pb.Settlement, error) { return nil, nil }

func (h *simpleHolder) Returning(string, string) <-chan struct{} { return nil }

func (h *simpleHolder) Recall(key string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.mute {
		return
	}
	for _, s := range h.mu.slices {
		if s.key == key {
			h.endLocked(s)
			s.asking = false
		}
	}
}

// endLocked ends a slice and sends its return until the owner has it.
func (h *simpleHolder) endLocked(s *simpleSlice) {
	if s.slice == nil {
		return
	}
	r := &pb.SliceReturn{Key: s.key, Slice: s.slice.GetId(), Calls: s.calls}
	for i, l := range s.decision.GetLimits() {
		spent := s.calls * l.GetCost()
		if !l.GetShadow() {
			spent = min(spent, s.slice.GetAmounts()[i])
		}
		r.Spent = append(r.Spent, spent)
	}
	s.slice = nil
	h.mu.pending++
	h.senders.Go(func() {
		for h.ctx.Err() == nil {
			if err := h.send(h.ctx, &pb.Item{Call: &pb.Item_SliceReturn{SliceReturn: r}}); err == nil || errors.Is(err, slices.ErrRejected) {
				h.mu.Lock()
				h.mu.pending--
				h.mu.Unlock()
				return
			}
			select {
			case <-h.ctx.Done():
			case <-time.After(20 * time.Millisecond):
			}
		}
	})
}

// endAll ends all slices, as their deadlines do.
func (h *simpleHolder) endAll() {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.mu.slices {
		h.endLocked(s)
	}
}

func (h *simpleHolder) Close(ctx context.Context) error {
	h.mu.Lock()
	h.mu.closed = true
	for _, s := range h.mu.slices {
		h.endLocked(s)
	}
	h.mu.Unlock()
	defer context.AfterFunc(ctx, h.stop)()
	h.senders.Wait()
	if _, pending := h.Status(); pending > 0 {
		return errors.New(strconv.Itoa(pending) + " slices are not returned")
	}
	return nil
}

func (h *simpleHolder) Status() (held, pendingReturns int) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, s := range h.mu.slices {
		if s.slice != nil {
			held++
		}
	}
	return held, h.mu.pending
}

func (h *simpleHolder) taken() int {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.mu.taken
}
