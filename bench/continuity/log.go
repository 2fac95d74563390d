// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"errors"
	"sync"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/rpc/client"
)

// sample is a request and how it was answered. Times are since the start of the load.
type sample struct {
	due, sent, done time.Duration
	waited          time.Duration // for a limit
	call            *bench.Call
	key             int32
	ingress         int // number of the node that was asked, from 1; 0 if the client library chose it
	op              bench.Op
	route           string
	result          result
}

// result is how a request was answered.
type result uint8

const (
	admitted result = iota
	denied
	failed  // no decision was made
	refused // because of overload; nothing was charged
)

// decides reports whether the request is a check or a reserve.
func (s *sample) decides() bool { return s.op == bench.OpCheck || s.op == bench.OpReserve }

// exact reports whether the owner of the key has decided.
func (s *sample) exact() bool { return s.result <= denied && s.route != "fallback" }

// runLog is the log of an iteration. It is safe for concurrent use.
type runLog struct {
	load    *load
	ingress func(id string) int // nil: unknown

	mu       sync.Mutex
	samples  []sample
	unknown  int64            // settles and reports of reservations that the owner did not know
	messages map[string]int64 // of failed requests
}

// add adds an event.
func (l *runLog) add(e *bench.Event) {
	s := sample{due: e.Due, sent: e.Sent, done: e.Done, call: e.Call, key: l.load.index[e.Call.Key], op: e.Op, route: e.Answer.Route, waited: e.Answer.Waited}
	if l.ingress != nil {
		s.ingress = l.ingress(e.Call.ID)
	}
	switch {
	case errors.Is(e.Err, bench.ErrOverloaded) && s.decides():
		s.result = refused
	case e.Err != nil:
		s.result = failed
	case e.Answer.Outcome == bench.Denied:
		s.result = denied
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.samples = append(l.samples, s)
	if s.result != failed {
		return
	}
	if !s.decides() && isUnknownReservation(e.Err) {
		l.unknown++
	}
	if l.messages == nil {
		l.messages = map[string]int64{}
	}
	if text := e.Op.String() + ": " + e.Err.Error(); len(l.messages) < maxMessages || l.messages[text] > 0 {
		l.messages[text]++
	}
}

// waiting returns what is known of the calls that waited for limits.
func (l *runLog) waiting() *Waiting {
	w := &Waiting{}
	for i := range l.samples {
		if s := &l.samples[i]; s.decides() && s.result != refused {
			w.count(s)
		}
	}
	return w
}

// maxMessages bounds the number of different messages of failed requests.
const maxMessages = 50

func isUnknownReservation(err error) bool {
	return errors.Is(err, client.ErrUnknownReservation) || status.Code(err) == codes.NotFound
}

// latencies returns the latencies, from when they were due, of checks, reserves and settles
// that were due in a window.
func (l *runLog) latencies(from, to time.Duration) *hdrhistogram.Histogram {
	h := hdrhistogram.New(1, int64(time.Hour), 3)
	for i := range l.samples {
		if s := &l.samples[i]; s.op != bench.OpProgress && s.result != refused && s.due >= from && s.due < to {
			_ = h.RecordValue(max(0, int64(s.done-s.due))) // fails only out of range
		}
	}
	return h
}

// Recovery is how long some keys had no exact answers.
type Recovery struct {
	// After is the time from the fault until the last answer that was no owner's decision.
	After time.Duration `json:"after_ns"`
	// Never says that there was no exact answer after that one.
	Never   bool  `json:"never,omitempty"`
	Calls   int64 `json:"calls"`   // in the time that was looked at
	Inexact int64 `json:"inexact"` // of these: decided in fallback, or failed
}

// recovery looks at the calls of a window that begins with a fault.
func (l *runLog) recovery(from, to time.Duration, concerns func(*sample) bool) (r Recovery) {
	var lastInexact, lastExact time.Duration = -1, -1
	for i := range l.samples {
		s := &l.samples[i]
		if !s.decides() || s.result == refused || s.sent < from || s.sent >= to || !concerns(s) {
			continue
		}
		r.Calls++
		if s.exact() {
			lastExact = max(lastExact, s.sent)
		} else {
			r.Inexact++
			lastInexact = max(lastInexact, s.sent)
			r.After = max(r.After, s.done-from)
		}
	}
	r.Never = r.Inexact > 0 && lastExact < lastInexact
	return r
}

// worst keeps the longer recovery.
func (r *Recovery) worst(other Recovery) {
	r.After = max(r.After, other.After)
	r.Never = r.Never || other.Never
	r.Calls += other.Calls
	r.Inexact += other.Inexact
}
