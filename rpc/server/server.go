// SPDX-License-Identifier: Apache-2.0

// Package server answers the RateLimiter service: wire -> validation -> policy
// -> engine -> wire. The same [Service] stands behind gRPC and HTTP, so both
// refuse and answer alike.
//
// A denial is an answer. An error means that no decision was made and nothing
// was charged; it carries a gRPC status, and [Describe] takes it apart.
package server

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Policy says which limits apply to a call. It is immutable: a request that
// began with one ends with it.
type Policy interface {
	// Resolve fills plan for a call; the error is a [*limiter.FieldError].
	Resolve(key, tier, model string, plan *limiter.Plan) error
}

// Options configure a [Service]. Engine, Policy and Now are needed.
type Options struct {
	Engine *limiter.Engine
	// Policy returns the policy in force. It is asked once per call.
	Policy func() Policy
	Now    func() limiter.Time
	// Name is this member, the owner in answers.
	Name string
	// Registry takes the metrics; nil means that nobody sees them.
	Registry prometheus.Registerer
	// NewID makes the id of a call that brings none. Default: 128 random bits
	// in hexadecimal.
	NewID func() string
}

// Service decides on this node. It is safe for concurrent use.
type Service struct {
	pb.UnimplementedRateLimiterServer

	engine   *limiter.Engine
	policy   func() Policy
	now      func() limiter.Time
	newID    func() string
	owner    string
	route    pb.Route
	metrics  *metrics
	calls    sync.Pool // of *call
	batches  sync.Pool // of *batch
	answered sync.Pool // of *Decided
	version  atomic.Pointer[versionText]
}

var _ pb.RateLimiterServer = (*Service)(nil)

// New returns a Service. It panics when Registry has its metrics already, as
// two services with one registry would.
func New(o Options) *Service {
	if o.NewID == nil {
		o.NewID = randomID
	}
	s := &Service{
		engine:  o.Engine,
		policy:  o.Policy,
		now:     o.Now,
		newID:   o.NewID,
		owner:   o.Name,
		route:   pb.Route_ROUTE_LOCAL,
		metrics: newMetrics(o.Registry, o.Engine.Stats),
	}
	s.pools()
	return s
}

func (s *Service) pools() {
	s.calls.New = func() any { return new(call) }
	s.batches.New = func() any { return new(batch) }
	s.answered.New = func() any { return &Decided{service: s} }
}

// Check implements pb.RateLimiterServer.
func (s *Service) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire(err)
	}
	c, start := s.begin(), s.now()
	defer s.end(c)
	err := s.prepareCheck(c, r)
	if err == nil {
		err = s.engine.Check(start, &c.request, &c.decision)
	}
	if err != nil {
		return nil, s.refused(err)
	}
	answer := s.decision(c)
	s.decided(c)
	s.took(start, 1)
	return answer, nil
}

// Reserve implements pb.RateLimiterServer.
func (s *Service) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire(err)
	}
	c, start := s.begin(), s.now()
	defer s.end(c)
	if err := s.reserveAt(start, c, r); err != nil {
		return nil, s.refused(err)
	}
	answer := s.decision(c)
	s.decided(c)
	s.took(start, 1)
	return answer, nil
}

// reserveAt decides r, into c.
func (s *Service) reserveAt(now limiter.Time, c *call, r *pb.ReserveRequest) error {
	if err := s.prepareReserve(c, r); err != nil {
		return err
	}
	return s.engine.Reserve(now, &c.request, &c.decision)
}

// Settle implements pb.RateLimiterServer.
func (s *Service) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire(err)
	}
	return s.settle(r)
}

func (s *Service) settle(r *pb.SettleRequest) (*pb.Settlement, error) {
	c := s.begin()
	defer s.end(c)
	if err := s.settleAt(s.now(), c, r); err != nil {
		return nil, s.refused(err)
	}
	return s.settlement(r.GetRequestId(), c), nil
}

// settleAt applies r; c.decision says what came of it.
func (s *Service) settleAt(now limiter.Time, c *call, r *pb.SettleRequest) error {
	if err := c.usage(r); err != nil {
		return err
	}
	err := s.engine.Settle(now, &c.used, &c.decision)
	s.settled(c, err)
	return err
}

// Cancel implements pb.RateLimiterServer.
func (s *Service) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire(err)
	}
	return s.cancel(r)
}

func (s *Service) cancel(r *pb.CancelRequest) (*pb.Settlement, error) {
	c := s.begin()
	defer s.end(c)
	if err := s.cancelAt(s.now(), c, r); err != nil {
		return nil, s.refused(err)
	}
	return s.settlement(r.GetRequestId(), c), nil
}

// cancelAt applies r; c.decision says what came of it.
func (s *Service) cancelAt(now limiter.Time, c *call, r *pb.CancelRequest) error {
	if err := checkReservation(r.GetKey(), r.GetRequestId()); err != nil {
		return err
	}
	err := s.engine.Cancel(now, r.GetKey(), r.GetRequestId(), &c.decision)
	s.settled(c, err)
	return err
}

// withdrawAt takes back one sending of a reserve. It is no settlement to count:
// to whoever asked, there never was a reservation.
func (s *Service) withdrawAt(now limiter.Time, c *call, r *pb.CancelRequest, attempt uint64) error {
	if err := checkReservation(r.GetKey(), r.GetRequestId()); err != nil {
		return err
	}
	s.engine.Withdraw(now, r.GetKey(), r.GetRequestId(), attempt)
	d := &c.decision
	d.Status, d.Tier, d.PolicyVersion, d.Limits = limiter.Cancelled, "", 0, d.Limits[:0]
	return nil
}

// Peek implements pb.RateLimiterServer.
func (s *Service) Peek(ctx context.Context, r *pb.PeekRequest) (*pb.PeekResponse, error) {
	if err := ctx.Err(); err != nil {
		return nil, wire(err)
	}
	return s.peek(r)
}

func (s *Service) peek(r *pb.PeekRequest) (*pb.PeekResponse, error) {
	c := s.begin()
	defer s.end(c)
	if err := s.peekAt(s.now(), c, r); err != nil {
		return nil, s.refused(err)
	}
	return s.seen(c), nil
}

// peekAt looks at the limits of r, into c.
func (s *Service) peekAt(now limiter.Time, c *call, r *pb.PeekRequest) error {
	if err := c.scope(r.GetKey(), r.GetTier(), r.GetModel()); err != nil {
		return err
	}
	if err := s.resolve(c); err != nil {
		return err
	}
	s.engine.Peek(now, &c.request, &c.decision)
	return nil
}

func (s *Service) prepareCheck(c *call, r *pb.CheckRequest) error {
	if err := c.check(r); err != nil {
		return err
	}
	s.identify(c)
	return s.resolve(c)
}

func (s *Service) prepareReserve(c *call, r *pb.ReserveRequest) error {
	if err := c.reserve(r); err != nil {
		return err
	}
	c.reserving = true
	s.identify(c)
	if r.MaxOutputTokens == nil {
		c.request.OutputTokens = -1 // the policy's default
	}
	return s.resolve(c)
}

func (s *Service) identify(c *call) {
	if c.request.ID == "" {
		c.request.ID = s.newID()
	}
}

// NewID returns an id for a call that brings none.
func (s *Service) NewID() string { return s.newID() }

func (s *Service) resolve(c *call) error {
	q := &c.request
	q.Plan = &c.plan
	return s.policy().Resolve(q.Key, q.Tier, q.Model, &c.plan)
}

// refused counts an error and gives it a status.
func (s *Service) refused(err error) error {
	s.metrics.refused(err)
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
