// SPDX-License-Identifier: Apache-2.0

package server

import (
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
	"github.com/bucketring/bucketring/rpc/pb"
)

// waitState is what a check or a reserve has to do with waiting.
type waitState struct {
	noWait  bool          // the call does not wait
	maxWait time.Duration // the longest that it waits; 0: as the policy says
	decided bool          // with others of its root in mind, alone
	behind  bool          // decided while others waited under its root
	since   uint64        // see [Results.SetSince]

	// Of the answer:
	mayWait bool // denied, and may wait
	waited  time.Duration
	place   int64  // 0: it did not wait
	refused string // why it may not wait
}

// fill adds what the answer says of waiting.
func (w *waitState) fill(a *decisionAnswer) {
	p := &a.decision
	p.MayWait, p.Place, p.WaitRefused, p.Waited = w.mayWait, w.place, w.refused, nil
	if w.place > 0 {
		a.waited.Seconds, a.waited.Nanos = split(int64(max(w.waited, 0)))
		p.Waited = &a.waited
	}
}

// waiting validates the fields of a check or a reserve about classes and waiting.
func (x *scratch) waiting(class pb.Priority, maxWait *durationpb.Duration) error {
	if class < 0 || class > pb.Priority_PRIORITY_BATCH {
		return wrong("priority", decimal(int64(class)), "must be interactive, standard or batch")
	}
	x.request.Priority = limiter.Priority(class)
	if maxWait == nil {
		return nil
	}
	if err := maxWait.CheckValid(); err != nil || maxWait.AsDuration() < 0 || maxWait.AsDuration() > limiter.MaxMaxWait {
		return wrong("max_wait", maxWaitText(maxWait), "must be from 0 to "+limiter.MaxMaxWait.String())
	}
	x.wait.maxWait = maxWait.AsDuration()
	x.wait.noWait = x.wait.maxWait == 0
	return nil
}

// maxWaitText returns a duration as text, also one that is not valid.
func maxWaitText(d *durationpb.Duration) string {
	if d.CheckValid() == nil {
		return d.AsDuration().String()
	}
	return decimal(d.GetSeconds()) + "s"
}

// class returns the class of a call for its answer: NoPriority if nothing about the call has to
// do with classes or waiting.
func (x *scratch) class() limiter.Priority {
	class, err := x.plan.Class(x.request.Priority)
	if err != nil { // in a replay, which is charged in any case
		return x.request.Priority
	}
	if x.request.Priority != limiter.NoPriority || class != limiter.Standard || x.plan.HighestPriority > limiter.Interactive {
		return class
	}
	for i := range x.decision.Limits {
		if s := &x.decision.Limits[i]; s.Headroom != 0 || s.Queue.MaxWait != 0 {
			return class
		}
	}
	return limiter.NoPriority
}

// decideMayWait says whether a denied call may wait: all limits that deny it let calls wait, and
// it may fit in time.
func (x *scratch) decideMayWait() {
	d, w := &x.decision, &x.wait
	if d.Outcome != limiter.Denied || d.Reason != limiter.LimitExceeded || d.RetryAfter < 0 || w.noWait || w.refused != "" || x.request.Force {
		return
	}
	bound, ok := line.Bound(d)
	if !ok {
		return
	}
	if w.maxWait > 0 {
		bound = min(bound, w.maxWait)
	}
	for i := range d.Limits {
		if s := &d.Limits[i]; s.Exceeded && !s.Shadow && s.Algorithm != limiter.Concurrency && s.Wait > bound {
			w.refused = line.TooLate.String()
			return
		}
	}
	w.mayWait = true
}
