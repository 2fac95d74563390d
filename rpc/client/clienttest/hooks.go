// SPDX-License-Identifier: Apache-2.0

package clienttest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Method is a call that [Fake.FailNext] fails.
type Method string

// The methods. Settle is a final report of usage, and Progress one that is not: those of
// [client.Client.Do] included.
const (
	Check    Method = "check"
	Reserve  Method = "reserve"
	Settle   Method = "settle"
	Progress Method = "progress"
	Cancel   Method = "cancel"
	Peek     Method = "peek"
)

// DenyNext denies the next check or reserve that is not failed, whatever the limits say. No
// limit is the binding one, and nothing is charged. If it is called again before, further ones
// are denied, too. retryAfter is that of the decision; 0: a retry is useless. DenyNext panics
// if reason is none of package client.
//
// A policy with a low limit shows more of a denial: the binding limit and the whole message.
func (f *Fake) DenyNext(reason client.Reason, retryAfter time.Duration) {
	number, ok := pb.Reason_value["REASON_"+strings.ToUpper(string(reason))]
	if !ok || number == 0 {
		panic(fmt.Sprintf("clienttest: reason: must be a reason of package client, got %q", reason))
	}
	d := &pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED, Reason: pb.Reason(number)}
	if retryAfter > 0 {
		d.RetryAfter = durationpb.New(retryAfter)
	}
	s := f.service
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.denials = append(s.mu.denials, d)
}

// FailNext fails the next call of m, before it has any effect. If it is called again before,
// further calls fail, too. The client returns an error that matches err if err is
// [client.ErrUnreachable], [client.ErrOverloaded], [client.ErrUnknownReservation],
// [client.ErrConflict], a [*client.OverloadedError] or a [*client.InvalidError]. Any other is
// sent as its gRPC status. FailNext panics if m is no method or err is nil.
//
// A call that was settled with [client.Reservation.SettleLater] is sent again after
// ErrUnreachable, as [client.Client.Flush] does at once.
func (f *Fake) FailNext(m Method, err error) {
	if !slices.Contains([]Method{Check, Reserve, Settle, Progress, Cancel, Peek}, m) {
		panic(fmt.Sprintf("clienttest: method: must be a Method of this package, got %q", m))
	}
	if err == nil {
		panic("clienttest: err: must not be nil")
	}
	s := f.service
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.failures[m] = append(s.mu.failures[m], statusOf(err))
}

// SetUnreachable makes all calls fail with [client.ErrUnreachable], or ends that.
func (f *Fake) SetUnreachable(unreachable bool) {
	s := f.service
	s.mu.Lock()
	defer s.mu.Unlock()
	s.mu.unreachable = unreachable
}

// statusOf returns the error of a node from which a client makes err.
func statusOf(err error) error {
	busy, isBusy := errors.AsType[*client.OverloadedError](err)
	invalid, isInvalid := errors.AsType[*client.InvalidError](err)
	switch {
	case isBusy:
		return server.Overloaded("the fake is overloaded", max(busy.RetryAfter, time.Millisecond))
	case errors.Is(err, client.ErrOverloaded):
		return server.Overloaded("the fake is overloaded", time.Second)
	case isInvalid:
		s := status.New(codes.InvalidArgument, invalid.Message)
		violation := &errdetails.BadRequest_FieldViolation{Field: invalid.Field, Description: invalid.Message}
		if detailed, err := s.WithDetails(&errdetails.BadRequest{FieldViolations: []*errdetails.BadRequest_FieldViolation{violation}}); err == nil {
			s = detailed
		}
		return s.Err()
	case errors.Is(err, client.ErrUnreachable):
		return errUnreachable
	case errors.Is(err, client.ErrUnknownReservation):
		return status.Error(codes.NotFound, client.ErrUnknownReservation.Error())
	case errors.Is(err, client.ErrConflict):
		return status.Error(codes.AlreadyExists, client.ErrConflict.Error())
	}
	return status.Convert(err).Err()
}

var errUnreachable = status.Error(codes.Unavailable, "the fake is unreachable")

// service is a node with the hooks of a test before it.
type service struct {
	*server.Service

	mu struct {
		sync.Mutex
		unreachable bool
		failures    map[Method][]error // in order
		denials     []*pb.Decision     // in order
		held        map[string]bool    // request ids of open reservations
	}
}

func newService(node *server.Service) *service {
	s := &service{Service: node}
	s.mu.failures, s.mu.held = map[Method][]error{}, map[string]bool{}
	return s
}

// fail returns the error with which a call of m fails now; nil: it does not.
func (s *service) fail(m Method) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.mu.unreachable {
		return errUnreachable
	}
	queue := s.mu.failures[m]
	if len(queue) == 0 {
		return nil
	}
	s.mu.failures[m] = queue[1:]
	return queue[0]
}

// deny returns the denial of a call with that id; nil: it is not denied.
func (s *service) deny(id string) *pb.Decision {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.mu.denials) == 0 {
		return nil
	}
	d := s.mu.denials[0]
	s.mu.denials = s.mu.denials[1:]
	d.RequestId, d.Owner, d.Route = id, "fake", pb.Route_ROUTE_LOCAL
	return d
}

func (s *service) setHeld(id string, held bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if held {
		s.mu.held[id] = true
	} else {
		delete(s.mu.held, id)
	}
}

func (s *service) heldIDs() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Keys(s.mu.held))
}

// Check implements pb.RateLimiterServer.
func (s *service) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	if err := s.fail(Check); err != nil {
		return nil, err
	}
	if d := s.deny(r.GetRequestId()); d != nil {
		return d, nil
	}
	return s.Service.Check(ctx, r)
}

// Reserve implements pb.RateLimiterServer.
func (s *service) Reserve(ctx context.Context, r *pb.ReserveRequest) (*pb.Decision, error) {
	if err := s.fail(Reserve); err != nil {
		return nil, err
	}
	if d := s.deny(r.GetRequestId()); d != nil {
		return d, nil
	}
	d, err := s.Service.Reserve(ctx, r)
	if err == nil && d.GetOutcome() != pb.Outcome_OUTCOME_DENIED && !d.GetReplayed() {
		s.setHeld(d.GetRequestId(), true)
	}
	return d, err
}

// Settle implements pb.RateLimiterServer.
func (s *service) Settle(ctx context.Context, r *pb.SettleRequest) (*pb.Settlement, error) {
	m, final := Settle, r.Final == nil || r.GetFinal()
	if !final {
		m = Progress
	}
	if err := s.fail(m); err != nil {
		return nil, err
	}
	done, err := s.Service.Settle(ctx, r)
	if err == nil && final {
		s.setHeld(r.GetRequestId(), false)
	}
	return done, err
}

// Cancel implements pb.RateLimiterServer.
func (s *service) Cancel(ctx context.Context, r *pb.CancelRequest) (*pb.Settlement, error) {
	if err := s.fail(Cancel); err != nil {
		return nil, err
	}
	done, err := s.Service.Cancel(ctx, r)
	if err == nil {
		s.setHeld(r.GetRequestId(), false)
	}
	return done, err
}

// Peek implements pb.RateLimiterServer.
func (s *service) Peek(ctx context.Context, r *pb.PeekRequest) (*pb.PeekResponse, error) {
	if err := s.fail(Peek); err != nil {
		return nil, err
	}
	return s.Service.Peek(ctx, r)
}
