// SPDX-License-Identifier: Apache-2.0

// Package server decides calls on one node: wire -> validation -> policy -> engine ->
// wire. [API] answers the RateLimiter service by any [Decider]; gRPC and HTTP share it,
// so both give the same answers and errors.
//
// A denial is an answer. An error means that no decision was made and nothing was
// charged. It has a gRPC status, and [Describe] converts it to the form of a batch.
package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Policy says which limits apply to a call. It is immutable: a request that
// began with one ends with it.
type Policy interface {
	// Resolve fills plan for a call at a time; the error is a [*limiter.FieldError].
	Resolve(now limiter.Time, key, tier, model string, plan *limiter.Plan) error
}

// Options configure a [Service]. Engine, Policy and Now are needed.
type Options struct {
	Engine *limiter.Engine
	// Policy returns the policy in force. It is asked once per call.
	Policy func() Policy
	Now    func() limiter.Time
	// Name is this member, the owner in answers.
	Name string
	// Registry registers the metrics. Nil: they are not exported.
	Registry prometheus.Registerer
	// Admission refuses items of the streams of clients. Nil: all are admitted.
	Admission *Admission
	// NewID makes the id of a call without one. Default: 128 random bits in
	// hexadecimal.
	NewID func() string
}

// Service decides on this node, with its own engine. It is safe for concurrent use.
type Service struct {
	API

	engine    *limiter.Engine
	policy    func() Policy
	now       func() limiter.Time
	newID     func() string
	owner     string
	route     pb.Route
	metrics   *metrics
	admission *Admission
	lines     *lines    // of calls that wait; nil: none does
	scratches sync.Pool // of *scratch
	results   sync.Pool // of *Results
	version   atomic.Pointer[versionText]
}

var _ Decider = (*Service)(nil)

// New returns a Service. It panics when Registry has its metrics already, as
// two services with one registry would.
func New(o Options) *Service {
	if o.NewID == nil {
		o.NewID = randomID
	}
	s := &Service{
		engine:    o.Engine,
		policy:    o.Policy,
		now:       o.Now,
		newID:     o.NewID,
		owner:     o.Name,
		route:     pb.Route_ROUTE_LOCAL,
		metrics:   newMetrics(o.Registry, o.Engine),
		admission: o.Admission,
	}
	s.init()
	return s
}

func (s *Service) init() {
	s.Decider = s
	s.scratches.New = func() any { return new(scratch) }
	s.results.New = func() any { return &Results{service: s} }
}

// Do implements [Decider]. All calls are decided by this member, at one reading of the
// clock. An invalid call does not affect the others, and an expired one is charged
// nothing. Checks under one root are decided in their order. A check and a call of
// another kind may be decided in either order. The results must be released.
func (s *Service) Do(ctx context.Context, calls []call.Call) *Results {
	results := s.NewResults(len(calls))
	if err := ctx.Err(); err != nil {
		results.Fail(wire(err))
		return results
	}
	s.Decide(calls, results)
	return results
}

// Decide decides the calls that have no result yet.
func (s *Service) Decide(calls []call.Call, results *Results) {
	now, decided, asked := s.now(), 0, 0
	for i := range calls {
		c, r := &calls[i], &results.list[i]
		if r.done != nil {
			continue
		}
		if c.Origin == call.ClientStream && isNew(c.Kind) && !c.Expired {
			asked++
			if err := s.admission.AdmitItem(len(calls)); err != nil {
				results.SetError(i, err)
				continue
			}
		}
		x := s.newScratch()
		x.tries = results.keepsDenials && c.Kind == call.Count
		if err := s.decide(now, x, c, len(calls) == 1); err != nil {
			s.release(x)
			results.fail(i, err)
			continue
		}
		r.scratch = x
		switch {
		case x.kind == call.Check && len(calls) > 1 && !x.wait.decided:
			results.checks.add(i, x)
		case x.kind.EndsReservation() || x.kind == call.Peek || x.kind == call.SliceReturn || x.kind == call.Admin:
		case results.keepsDenials && x.isDenial():
			r.uncounted = true
		case s.countDecision(x):
			decided++
		}
	}
	checks := &results.checks
	if len(checks.index) > 0 {
		s.engine.CheckBatch(now, checks.requests, checks.decisions, checks.errs)
	}
	for j, i := range checks.index {
		r := &results.list[i]
		if err := checks.errs[j]; err != nil {
			s.release(r.scratch)
			r.scratch = nil
			results.fail(i, err)
			continue
		}
		if s.lines != nil {
			r.scratch.decideMayWait()
		}
		if results.keepsDenials && r.scratch.isDenial() {
			r.uncounted = true
		} else if s.countDecision(r.scratch) {
			decided++
		}
	}
	s.admission.countItems(asked)
	s.observeSince(now, decided, results.trace)
}

// decide decides one call into x; a check only if it is alone, because checks are
// decided together.
func (s *Service) decide(now limiter.Time, x *scratch, c *call.Call, alone bool) error {
	if c.Expired {
		return context.DeadlineExceeded
	}
	if err := x.validate(c); err != nil {
		return err
	}
	switch x.kind {
	case call.Settle:
		err := s.settle(now, x, c)
		s.countSettle(x, err)
		if err == nil {
			s.freed(x.used.Key, x.decision.Limits)
		}
		return err
	case call.Cancel:
		if c.Attempt != 0 {
			return s.withdraw(now, x, c)
		}
		err := s.engine.Cancel(now, x.used.Key, x.used.ID, &x.decision)
		if errors.Is(err, limiter.ErrUnknownReservation) && s.lines != nil {
			if s.cancelWaiting(x.used.Key, x.used.ID, 0) {
				x.decision.Status, x.decision.Limits, err = limiter.Cancelled, x.decision.Limits[:0], nil
			} else { // perhaps it was admitted meanwhile
				err = s.engine.Cancel(now, x.used.Key, x.used.ID, &x.decision)
			}
		}
		s.countSettle(x, err)
		if err == nil {
			s.freed(x.used.Key, x.decision.Limits)
		}
		return err
	case call.Count:
		return s.engine.Count(now, &x.count, &x.counted)
	case call.SliceReturn:
		err := s.endSlice(now, x)
		s.freedAll(x.ended.key)
		return err
	case call.Admin:
		err := s.operate(now, x)
		s.freedAll(c.Key)
		return err
	}
	if err := s.resolve(now, x); err != nil {
		return err
	}
	if x.kind == call.Peek {
		s.engine.Peek(now, &x.request, &x.decision)
		return nil
	}
	if x.request.ID == "" {
		x.request.ID = s.newID()
	}
	if l := s.lineOf(x.request.Key); l != nil {
		x.wait.decided = true
		err := l.decideNew(now, x)
		s.lines.leave(l)
		return s.decidedAlone(x, err)
	}
	if x.kind == call.Check && !alone {
		return nil
	}
	return s.decidedAlone(x, s.decideAlone(now, x))
}

// decideAlone decides a check or a reserve, whoever waits.
func (s *Service) decideAlone(now limiter.Time, x *scratch) error {
	if x.kind == call.Reserve {
		return s.engine.Reserve(now, &x.request, &x.decision)
	}
	return s.engine.Check(now, &x.request, &x.decision)
}

// decidedAlone completes the decision of a check or a reserve.
func (s *Service) decidedAlone(x *scratch, err error) error {
	if err == nil && s.lines != nil && !x.wait.mayWait {
		x.decideMayWait()
	}
	return err
}

// withdraw takes back one attempt of a check or a reserve. It is not counted as a
// settlement, because the caller never had the answer.
func (s *Service) withdraw(now limiter.Time, x *scratch, c *call.Call) error {
	d := &x.decision
	var err error
	s.cancelWaiting(x.used.Key, x.used.ID, c.Attempt)
	if c.Withdrawn == nil {
		d.Change, err = s.engine.Withdraw(now, x.used.Key, x.used.ID, c.Attempt)
		d.Large = true
	} else if err = s.resolve(now, x); err == nil {
		err = s.engine.WithdrawCheck(now, &x.request, d)
	}
	if err != nil {
		return err
	}
	d.Status, d.Tier, d.PolicyVersion, d.Limits = limiter.Cancelled, "", 0, d.Limits[:0]
	s.freedAll(c.Key)
	return nil
}

// ValidateBatch returns an error if a batch of a stream is too large. The error has
// a status and is counted.
func (s *Service) ValidateBatch(b *pb.Batch) error {
	if n := len(b.GetItems()); n > MaxBatchItems {
		return s.Reject(tooMany(n, MaxBatchItems))
	}
	return nil
}

// Validate returns what is wrong with a call, without a look at policy or state;
// nil if nothing is. The error has a status and is counted. A call that was
// validated may still be rejected: its tier may be unknown.
func (s *Service) Validate(c *call.Call) error {
	x := s.newScratch()
	defer s.release(x)
	if err := x.validate(c); err != nil {
		return s.Reject(err)
	}
	return nil
}

// NewID returns an id for a call without one.
func (s *Service) NewID() string { return s.newID() }

func (s *Service) resolve(now limiter.Time, x *scratch) error {
	q := &x.request
	q.Plan = &x.plan
	return s.policy().Resolve(now, q.Key, q.Tier, q.Model, &x.plan)
}

// Reject implements [Decider].
func (s *Service) Reject(err error) error {
	s.metrics.rejected(err)
	return wire(err)
}

// versionText is the text of a policy version, made once per version.
type versionText struct {
	version uint64
	text    string
}

func (s *Service) versionOf(version uint64) string {
	if v := s.version.Load(); v != nil && v.version == version {
		return v.text
	}
	v := &versionText{version, hex(version)}
	s.version.Store(v)
	return v.text
}

const hexDigits = "0123456789abcdef"

func hex(n uint64) string {
	var b [16]byte
	return string(appendHex(b[:0], n))
}

func appendHex(b []byte, n uint64) []byte {
	for shift := 60; shift >= 0; shift -= 4 {
		b = append(b, hexDigits[n>>shift&0xf])
	}
	return b
}

// randomID needs no lock and no system call.
func randomID() string {
	var b [32]byte
	return string(appendHex(appendHex(b[:0], rand.Uint64()), rand.Uint64()))
}
