// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"context"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// tableHolder is the holder of a member: a table of slices.
type tableHolder struct {
	table *slices.Table
	newID func() string
}

var _ holder = (*tableHolder)(nil)

// newTableHolder returns a holder whose returns are sent by send, to the owner that owner
// names. Slices end by the clock of the owners, which counts the time in which the machine is
// suspended.
func newTableHolder(clock func() time.Duration, newID func() string, send func(context.Context, *pb.Item) error, owner func(key string) string) *tableHolder {
	h := &tableHolder{newID: newID}
	h.table = slices.New(slices.Options{
		Now:         func() int64 { return int64(clock()) },
		Send:        send,
		Destination: owner,
	})
	return h
}

// Take implements holder.
func (h *tableHolder) Take(q *pb.CheckRequest, into *pb.Decision, renews bool) bool {
	var a slices.Answer
	if !h.table.Take(q, &a, renews) {
		return false
	}
	a.Fill(into, h.newID())
	return true
}

// Asks implements holder.
func (h *tableHolder) Asks(q *pb.CheckRequest) bool { return h.table.Asks(q) }

// Granted implements holder.
func (h *tableHolder) Granted(q *pb.CheckRequest, sent time.Duration, s *pb.Slice, d *pb.Decision) {
	h.table.Granted(q, int64(sent), s, proto.CloneOf(d)) // the caller of the check has d
}

// Answered implements holder.
func (h *tableHolder) Answered(q *pb.CheckRequest) { h.table.Answered(q) }

// Recall implements holder.
func (h *tableHolder) Recall(key string) { h.table.Recall(key) }

// Close implements holder.
func (h *tableHolder) Close(ctx context.Context) error { return h.table.Close(ctx) }

// Status implements holder.
func (h *tableHolder) Status() (held, pendingReturns int) {
	s := h.table.Status()
	return s.Held, s.PendingReturns
}
