// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// tableHolder is the holder of a member: a table of slices.
type tableHolder struct {
	table  *slices.Table
	member string // its name
	newID  func() string
}

var _ holder = (*tableHolder)(nil)

// newTableHolder returns the holder of a member whose returns are sent by send, to the owner
// that owner names. Slices end by the clock of the owners, which counts the time in which the
// machine is suspended.
func newTableHolder(member string, clock func() time.Duration, newID func() string, send func(context.Context, *pb.Item) error, owner func(key string) string) *tableHolder {
	h := &tableHolder{member: member, newID: newID}
	h.table = slices.New(slices.Options{
		Now:         func() int64 { return int64(clock()) },
		Send:        send,
		Destination: owner,
	})
	return h
}

// Take implements holder.
func (h *tableHolder) Take(q slices.Request, into *pb.Decision, renews bool) bool {
	var a slices.Answer
	switch q := q.(type) {
	case *pb.CheckRequest:
		if !h.table.Take(q, &a, renews) {
			return false
		}
		a.Fill(into, h.newID())
	case *pb.ReserveRequest:
		if !h.table.Holds() {
			return false
		}
		id := h.newID()
		if !h.table.Reserve(q, id, &a, renews) {
			return false
		}
		a.Fill(into, requestid.Held(h.member, id))
	}
	return true
}

// Count implements holder.
func (h *tableHolder) Count(q *pb.CountRequest, into *pb.Counted, renews bool) bool {
	return h.table.Count(q, into, renews)
}

// Asks implements holder.
func (h *tableHolder) Asks(q slices.Request) bool { return h.table.Asks(q) }

// Granted implements holder.
func (h *tableHolder) Granted(q slices.Request, sent time.Duration, s *pb.Slice, d *pb.Decision) {
	h.table.Granted(q, int64(sent), s, proto.CloneOf(d)) // the caller has d
}

// Answered implements holder.
func (h *tableHolder) Answered(q slices.Request) { h.table.Answered(q) }

// End implements holder.
func (h *tableHolder) End(c *call.Call) (*pb.Settlement, error) {
	var a slices.Settlement
	var done bool
	var err error
	if q := c.Settle(); q != nil {
		done, _, err = h.table.Settle(q, c.RequestID, &a)
	} else {
		done, _, err = h.table.Cancel(c.Key, c.RequestID, &a)
	}
	if err != nil || !done {
		return nil, err
	}
	s := &pb.Settlement{}
	a.Fill(s, c.CallerID())
	return s, nil
}

// Returning implements holder.
func (h *tableHolder) Returning(key, id string) <-chan struct{} { return h.table.Returning(key, id) }

// Recall implements holder.
func (h *tableHolder) Recall(key string) { h.table.Recall(key) }

// Close implements holder.
func (h *tableHolder) Close(ctx context.Context) error { return h.table.Close(ctx) }

// Status implements holder.
func (h *tableHolder) Status() (held, pendingReturns int) {
	s := h.table.Status()
	return s.Held, s.PendingReturns
}
