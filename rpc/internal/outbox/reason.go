// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is why a call was dropped. There are few, so that they can be labels.
type Reason string

// The reasons. All but TooOld are the owner's.
const (
	Unknown  Reason = "unknown_reservation"
	Conflict Reason = "request_id_conflict"
	Invalid  Reason = "invalid"
	TooOld   Reason = "too_old"
)

// Reasons lists all reasons.
func Reasons() []Reason { return []Reason{Unknown, Conflict, Invalid, TooOld} }

// reasonOf says why an error is final, false if it is not. Errors of
// credentials, of a method that a member does not have yet, and those that no
// status says anything about may be gone at the next attempt.
func reasonOf(err error) (Reason, bool) {
	if err == nil {
		return "", false
	}
	s, ok := status.FromError(err)
	if !ok {
		return "", false
	}
	switch s.Code() {
	case codes.NotFound:
		return Unknown, true
	case codes.AlreadyExists:
		return Conflict, true
	case codes.InvalidArgument, codes.FailedPrecondition, codes.OutOfRange, codes.DataLoss:
		return Invalid, true
	}
	return "", false
}

// logEvery is the least time between two lines about dropped calls.
const logEvery = 10 * time.Second

// dropLog logs the first drop at once, and those that follow soon after it
// together.
type dropLog struct {
	logger *slog.Logger

	mu struct {
		sync.Mutex
		counts map[Reason]int // since the last line
		err    error          // the latest of them
		last   time.Time      // of a line
	}
}

func (d *dropLog) add(now time.Time, why Reason, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.counts == nil {
		d.mu.counts = map[Reason]int{}
	}
	d.mu.counts[why]++
	if err != nil {
		d.mu.err = err
	}
	if now.Sub(d.mu.last) >= logEvery {
		d.lineLocked(now)
	}
}

// flush logs what is left.
func (d *dropLog) flush(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.mu.counts) > 0 {
		d.lineLocked(now)
	}
}

func (d *dropLog) lineLocked(now time.Time) {
	var attrs []any
	for _, why := range Reasons() {
		if n := d.mu.counts[why]; n > 0 {
			attrs = append(attrs, slog.Int(string(why), n))
		}
	}
	if d.mu.err != nil {
		attrs = append(attrs, slog.Any("error", d.mu.err))
	}
	d.logger.Warn("outbox dropped calls", attrs...)
	d.mu.counts, d.mu.err, d.mu.last = nil, nil, now
}
