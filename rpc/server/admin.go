// SPDX-License-Identifier: Apache-2.0

package server

import (
	"cmp"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Bounds of what is listed of a key.
const (
	defaultListed = 100
	maxListed     = 1000
)

// admin is a call of an operator, and its answer.
type admin struct {
	call   *pb.AdminCall
	answer *pb.AdminAnswer
}

func (a *admin) result() *pb.Result {
	return &pb.Result{Result: &pb.Result_Admin{Admin: cmp.Or(a.answer, &pb.AdminAnswer{})}}
}

// operator validates c and fills x.request and x.admin.
func (x *scratch) operator(c *pb.AdminCall) error {
	x.admin.call = c
	var key, tier, model, id string
	change := true
	switch q := c.GetCall().(type) {
	case *pb.AdminCall_Inspect:
		key, tier, model, change = q.Inspect.GetKey(), q.Inspect.GetTier(), q.Inspect.GetModel(), false
		if err := checkNumber("reservations", int64(q.Inspect.GetReservations()), 0, maxListed); err != nil {
			return err
		}
	case *pb.AdminCall_ResetLimits:
		key, tier, model, id = q.ResetLimits.GetKey(), q.ResetLimits.GetTier(), q.ResetLimits.GetModel(), q.ResetLimits.GetRequestId()
		if err := checkText("limit", q.ResetLimits.GetLimit(), 0, maxNameBytes); err != nil {
			return err
		}
	case *pb.AdminCall_Grant:
		key, tier, model, id = q.Grant.GetKey(), q.Grant.GetTier(), q.Grant.GetModel(), q.Grant.GetRequestId()
		if err := checkText("limit", q.Grant.GetLimit(), 1, maxNameBytes); err != nil {
			return err
		}
		if err := checkNumber("amount", q.Grant.GetAmount(), 1, limiter.MaxAmount); err != nil {
			return err
		}
		if err := checkNumber("lasts_seconds", q.Grant.GetLastsSeconds(), 0, maxCreditSeconds); err != nil {
			return err
		}
	case *pb.AdminCall_End:
		key, id = q.End.GetKey(), q.End.GetRequestId()
		if err := checkText("reservation", q.End.GetReservation(), 1, maxReservationBytes); err != nil {
			return err
		}
		if n := q.End.GetCharge(); n < 0 || n > pb.EndCharge_END_CHARGE_NOTHING {
			return wrong("charge", decimal(int64(n)), "must be progress, estimate or nothing")
		}
	default:
		return wrong("call", "none", "must be a call of the service Admin")
	}
	if c.GetKey() != key {
		return wrongText("key", c.GetKey(), "must be the key of the call")
	}
	if change {
		if err := checkText("request_id", id, 1, maxIDBytes); err != nil {
			return err
		}
	}
	x.request.ID = id
	return x.scope(key, tier, model)
}

// maxReservationBytes bounds the id of a reservation, which may name the member that made it.
const maxReservationBytes = 3 * maxIDBytes

// maxCreditSeconds is how long a credit may last: 400 days.
const maxCreditSeconds = 400 * 24 * 3600

// operate does what an operator asks for.
func (s *Service) operate(now limiter.Time, x *scratch) error {
	c := x.admin.call
	if q := c.GetEnd(); q == nil {
		if err := s.resolve(now, x); err != nil {
			return err
		}
	}
	var d limiter.Adjustment
	var err error
	switch q := c.GetCall().(type) {
	case *pb.AdminCall_Inspect:
		return s.inspect(now, x, q.Inspect)
	case *pb.AdminCall_ResetLimits:
		err = s.engine.Reset(now, &x.request, q.ResetLimits.GetLimit(), &d)
	case *pb.AdminCall_Grant:
		err = s.engine.Grant(now, &x.request, q.Grant.GetLimit(), q.Grant.GetAmount(), time.Duration(q.Grant.GetLastsSeconds())*time.Second, &d)
	case *pb.AdminCall_End:
		err = s.engine.End(now, &x.request, reservationAtOwner(q.End.GetReservation()), endCharge(q.End.GetCharge()), &d)
	}
	if err != nil {
		return describeAdjustment(err)
	}
	x.decision.Change, x.decision.Large = d.Change, d.Large
	change := &pb.Change{RequestId: x.request.ID, Status: d.Status.String(), Replayed: d.Replayed, Owner: s.owner}
	for i := range d.Limits {
		l := &d.Limits[i]
		change.Limits = append(change.Limits, &pb.ChangedLimit{
			Name: l.Name, Dimension: string(l.Dimension), Scope: l.Scope, PerModel: l.PerModel, Before: l.Before, After: l.After, CreditEnds: l.Until,
		})
	}
	x.admin.answer = &pb.AdminAnswer{Answer: &pb.AdminAnswer_Change{Change: change}}
	return nil
}

// reservationAtOwner returns the id that the owner has of a reservation, which may name the
// member that made it.
func reservationAtOwner(id string) string {
	_, own := requestid.Split(id)
	return own
}

func endCharge(c pb.EndCharge) limiter.EndCharge {
	switch c {
	case pb.EndCharge_END_CHARGE_ESTIMATE:
		return limiter.ChargeEstimate
	case pb.EndCharge_END_CHARGE_NOTHING:
		return limiter.ChargeNothing
	}
	return limiter.ChargeProgress
}

// describeAdjustment gives the errors of changes by operators the form of the wire.
func describeAdjustment(err error) error {
	if unknown, ok := errors.AsType[*limiter.UnknownLimitError](err); ok {
		problem := "must be a limit of " + text.Quote(unknown.Key) + didYouMean(unknown.Limit, unknown.Known) + "; its limits are " + strings.Join(unknown.Known, ", ")
		return wrongText("limit", unknown.Limit, problem)
	}
	if errors.Is(err, limiter.ErrNoRoom) {
		return grpcstatus.Error(codes.Unavailable, err.Error())
	}
	return err
}

func didYouMean(name string, known []string) string {
	if near := nearest.Word(name, known); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// inspect answers what the state of a key is.
func (s *Service) inspect(now limiter.Time, x *scratch, q *pb.InspectKeyRequest) error {
	most := int(q.GetReservations())
	if most == 0 {
		most = defaultListed
	}
	var k limiter.KeyState
	if err := s.engine.Look(now, &x.request, most, &k); err != nil {
		return err
	}
	x.decision.Change = 0
	state := &pb.InspectKeyResponse{
		Key: x.request.Key, Tier: k.Tier, PolicyVersion: s.versionOf(k.Version), Owner: s.owner,
		Running: int64(k.Running), RequestIds: int64(k.IDs),
	}
	for i := range k.Limits {
		l := &k.Limits[i]
		state.Limits = append(state.Limits, &pb.KeyLimit{
			Name: l.Name, Dimension: string(l.Dimension), Scope: l.Scope, Algorithm: l.Algorithm.String(), Limit: l.Limit, Capacity: l.Capacity,
			Used: l.Capacity - l.Remaining + l.Debt, Remaining: l.Remaining, Debt: l.Debt, Lent: k.Lent[i], Credit: l.Credit, CreditEnds: k.CreditEnds[i],
			ResetAt: l.ResetAt, Shadow: l.Shadow, PerModel: l.PerModel,
		})
	}
	for i := range k.Reservations {
		r := &k.Reservations[i]
		running := &pb.RunningReservation{Ref: r.Ref, Key: r.Key, Tier: r.Tier, SinceNanos: int64(r.Since), LeftNanos: int64(r.Left), OutputTokens: r.Output}
		for _, c := range r.Charges {
			running.Charges = append(running.Charges, &pb.ReservationCharge{Limit: c.Name, Dimension: string(c.Dimension), Scope: c.Scope, Charged: c.Charged})
		}
		state.Reservations = append(state.Reservations, running)
	}
	x.admin.answer = &pb.AdminAnswer{Answer: &pb.AdminAnswer_State{State: state}}
	return nil
}

// State returns the state of a key that this member has found because call i, of an
// operator, asked for it, so that more can be added. Otherwise it is nil.
func (r *Results) State(i int) *pb.InspectKeyResponse {
	if x := r.list[i].scratch; x != nil && r.list[i].done == nil {
		return x.admin.answer.GetState()
	}
	return nil
}
