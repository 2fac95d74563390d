// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"log/slog"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Reason is why a call was dropped. There are few, so it can be a metric label.
type Reason string

// The reasons. All but TooOld are errors of the owner.
const (
	Unknown  Reason = "unknown_reservation"
	Conflict Reason = "request_id_conflict"
	Invalid  Reason = "invalid"
	TooOld   Reason = "too_old"
)

// Reasons lists all reasons.
func Reasons() []Reason { return []Reason{Unknown, Conflict, Invalid, TooOld} }

// ReasonOf returns the reason for an error that is final, false if the call is to be
// retried. Missing credentials, a method that a member does not have yet, and errors
// without a status may be temporary.
func ReasonOf(err error) (Reason, bool) {
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

// minLogInterval is the least time between two log lines about dropped calls.
const minLogInterval = 10 * time.Second

// dropLog logs the first drop at once, and those that follow within minLogInterval
// together.
type dropLog struct {
	logger *slog.Logger

	mu struct {
		sync.Mutex
		counts map[Reason]int // since the last log line
		err    error          // the latest of them
		last   time.Time      // log line
	}
}

func (d *dropLog) add(now time.Time, reason Reason, err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.mu.counts == nil {
		d.mu.counts = map[Reason]int{}
	}
	d.mu.counts[reason]++
	if err != nil {
		d.mu.err = err
	}
	if now.Sub(d.mu.last) >= minLogInterval {
		d.logLocked(now)
	}
}

// flush logs the drops that were not logged yet.
func (d *dropLog) flush(now time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if len(d.mu.counts) > 0 {
		d.logLocked(now)
	}
}

func (d *dropLog) logLocked(now time.Time) {
	var attrs []any
	for _, reason := range Reasons() {
		if n := d.mu.counts[reason]; n > 0 {
			attrs = append(attrs, slog.Int(string(reason), n))
		}
	}
	if d.mu.err != nil {
		attrs = append(attrs, slog.Any("error", d.mu.err))
	}
	d.logger.Warn("outbox dropped calls", attrs...)
	d.mu.counts, d.mu.err, d.mu.last = nil, nil, now
}
