// SPDX-License-Identifier: Apache-2.0

// Package admin serves operators: it decides who may ask, sends calls about keys to their
// owners, and writes changes to the audit log.
package admin

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/audit"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// Options configure a [Service]. All fields but Registry are needed.
type Options struct {
	// Name is that of this member.
	Name string
	// Administer sends a call to the owner of its key. Its error has a gRPC status.
	Administer func(context.Context, *pb.AdminCall) (*pb.AdminAnswer, error)
	// Reload reads all files of the node again. It returns why some were not read, and the
	// digest of the policy.
	Reload func() (problems []string, digest string)
	// Drain begins to drain the node, and reports whether that is done, in words, too.
	Drain func() (done bool, message string)
	// NewID makes a request id.
	NewID func() string
	// Audit is where changes are written to.
	Audit  *audit.Log
	Logger *slog.Logger
	// Registry registers the metrics. Nil: they are not exported.
	Registry prometheus.Registerer
}

// Service implements pb.AdminServer. It is safe for concurrent use.
type Service struct {
	pb.UnimplementedAdminServer
	o Options
	// now is the clock of the audit log.
	now func() time.Time

	calls       *prometheus.CounterVec
	auditErrors prometheus.Counter
	omitted     prometheus.Counter

	losses struct {
		sync.Mutex
		AuditStatus
	}

	draining sync.Mutex
	drained  string // the request id of the last drain

	forgetting struct {
		sync.Mutex
		last forgetting // that is not complete; zero: none
	}
}

var _ pb.AdminServer = (*Service)(nil)

// New returns a service.
func New(o Options) *Service {
	s := &Service{
		o: o, now: time.Now,
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "bucketring_admin_calls_total", Help: "Calls of operators to this node, by action and result.",
		}, []string{"action", "result"}),
		auditErrors: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_audit_errors_total", Help: "Lines that could not be written to the audit log.",
		}),
		omitted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "bucketring_audit_omitted_total", Help: "Refused attempts to administer that the audit log leaves out, because there were too many in a minute.",
		}),
	}
	for _, action := range [...]string{"inspect", "reset", "grant", "end", "reload", "drain"} {
		for _, result := range [...]string{resultDone, resultReplayed, resultRefused, resultUnknown} {
			s.calls.WithLabelValues(action, result)
		}
	}
	if o.Registry != nil {
		o.Registry.MustRegister(s.calls, s.auditErrors, s.omitted)
	}
	return s
}

// GRPC returns the service for [server.NewGRPC].
func (s *Service) GRPC() server.UnaryService {
	return server.UnaryService{Desc: pb.Admin_ServiceDesc, Server: s}
}

// The results of calls, in the audit log and in metrics.
const (
	resultStarted  = "started"
	resultDone     = "done"
	resultReplayed = "replayed"
	resultRefused  = "refused"
	resultUnknown  = "unknown"
	resultPending  = "pending"
)

// InspectKey implements pb.AdminServer. It changes nothing, so the audit log has only those
// that are refused because of who asks.
func (s *Service) InspectKey(ctx context.Context, q *pb.InspectKeyRequest) (*pb.InspectKeyResponse, error) {
	e := &audit.Entry{Action: "inspect", Key: q.GetKey(), Tier: q.GetTier(), Model: q.GetModel()}
	if err := s.authorize(ctx, e); err != nil {
		return nil, err
	}
	answer, err := s.o.Administer(ctx, &pb.AdminCall{Key: q.GetKey(), Call: &pb.AdminCall_Inspect{Inspect: q}})
	if err != nil {
		s.calls.WithLabelValues(e.Action, resultOf(err)).Inc()
		return nil, err
	}
	s.calls.WithLabelValues(e.Action, resultDone).Inc()
	return answer.GetState(), nil
}

// ResetLimits implements pb.AdminServer.
func (s *Service) ResetLimits(ctx context.Context, q *pb.ResetLimitsRequest) (*pb.Change, error) {
	id := s.idOr(q.GetRequestId())
	q = &pb.ResetLimitsRequest{Key: q.GetKey(), Tier: q.GetTier(), Model: q.GetModel(), Limit: q.GetLimit(), RequestId: id}
	e := &audit.Entry{Action: "reset", Key: q.GetKey(), Tier: q.GetTier(), Model: q.GetModel(), Limit: q.GetLimit(), RequestID: id}
	return s.change(ctx, e, &pb.AdminCall{Key: q.GetKey(), Call: &pb.AdminCall_ResetLimits{ResetLimits: q}})
}

// GrantCredit implements pb.AdminServer.
func (s *Service) GrantCredit(ctx context.Context, q *pb.GrantCreditRequest) (*pb.Change, error) {
	id := s.idOr(q.GetRequestId())
	q = &pb.GrantCreditRequest{
		Key: q.GetKey(), Tier: q.GetTier(), Model: q.GetModel(), Limit: q.GetLimit(), Amount: q.GetAmount(), LastsSeconds: q.GetLastsSeconds(), RequestId: id,
	}
	e := &audit.Entry{
		Action: "grant", Key: q.GetKey(), Tier: q.GetTier(), Model: q.GetModel(), Limit: q.GetLimit(), Amount: q.GetAmount(), Lasts: q.GetLastsSeconds(), RequestID: id,
	}
	return s.change(ctx, e, &pb.AdminCall{Key: q.GetKey(), Call: &pb.AdminCall_Grant{Grant: q}})
}

// EndReservation implements pb.AdminServer.
func (s *Service) EndReservation(ctx context.Context, q *pb.EndReservationRequest) (*pb.Change, error) {
	id := s.idOr(q.GetRequestId())
	q = &pb.EndReservationRequest{Key: q.GetKey(), Reservation: q.GetReservation(), Charge: q.GetCharge(), RequestId: id}
	e := &audit.Entry{Action: "end", Key: q.GetKey(), Reservation: q.GetReservation(), Charge: chargeName(q.GetCharge()), RequestID: id}
	return s.change(ctx, e, &pb.AdminCall{Key: q.GetKey(), Call: &pb.AdminCall_End{End: q}})
}

func chargeName(c pb.EndCharge) string {
	switch c {
	case pb.EndCharge_END_CHARGE_UNSPECIFIED, pb.EndCharge_END_CHARGE_PROGRESS:
		return "progress"
	case pb.EndCharge_END_CHARGE_ESTIMATE:
		return "estimate"
	case pb.EndCharge_END_CHARGE_NOTHING:
		return "nothing"
	}
	return c.String()
}

// Reload implements pb.AdminServer. To repeat it reads the files again.
func (s *Service) Reload(ctx context.Context, q *pb.ReloadRequest) (*pb.ReloadResponse, error) {
	e := &audit.Entry{Action: "reload", RequestID: s.idOr(q.GetRequestId())}
	if err := s.begin(ctx, e); err != nil {
		return nil, err
	}
	problems, digest := s.o.Reload()
	for i, p := range problems {
		if i > 0 {
			e.Error += "; "
		}
		e.Error += p
	}
	s.end(e, resultDone)
	return &pb.ReloadResponse{RequestId: e.RequestID, Member: s.o.Name, Problems: problems, PolicyDigest: digest}, nil
}

// Drain implements pb.AdminServer. To repeat it with the same id shows how far it is, which
// the audit log leaves out.
func (s *Service) Drain(ctx context.Context, q *pb.DrainRequest) (*pb.DrainResponse, error) {
	e := &audit.Entry{Action: "drain", RequestID: s.idOr(q.GetRequestId())}
	if err := s.authorize(ctx, e); err != nil {
		return nil, err
	}
	s.draining.Lock()
	defer s.draining.Unlock()
	repeated := s.drained == e.RequestID
	if !repeated {
		if err := s.announce(e); err != nil {
			return nil, err
		}
	}
	done, message := s.o.Drain()
	if !repeated {
		s.drained = e.RequestID
		s.end(e, resultDone)
	}
	return &pb.DrainResponse{RequestId: e.RequestID, Member: s.o.Name, Drained: done, Message: message}, nil
}

func (s *Service) idOr(id string) string {
	if id == "" {
		return s.o.NewID()
	}
	return id
}

// change has the owner of a key make a change.
func (s *Service) change(ctx context.Context, e *audit.Entry, c *pb.AdminCall) (*pb.Change, error) {
	if err := s.begin(ctx, e); err != nil {
		return nil, err
	}
	answer, err := s.o.Administer(ctx, c)
	if err != nil {
		e.Error = server.Describe(err).GetMessage()
		s.end(e, resultOf(err))
		return nil, err
	}
	change, result := answer.GetChange(), resultDone
	if change.GetReplayed() {
		result = resultReplayed
	}
	for _, l := range change.GetLimits() {
		e.Limits = append(e.Limits, audit.Limit{Name: l.GetName(), Scope: l.GetScope(), Before: l.GetBefore(), After: l.GetAfter()})
	}
	e.Status = change.GetStatus()
	s.end(e, result)
	return change, nil
}

// resultOf returns the result of a call that failed.
func resultOf(err error) string {
	switch codes.Code(server.Describe(err).GetCode()) {
	case codes.Unavailable, codes.DeadlineExceeded, codes.Canceled, codes.Internal:
		return resultUnknown
	}
	return resultRefused
}

// begin decides whether a change may be made, and writes that it begins. If there is a file
// for the audit log, a change that cannot be written to it is not made.
func (s *Service) begin(ctx context.Context, e *audit.Entry) error {
	if err := s.authorize(ctx, e); err != nil {
		return err
	}
	return s.announce(e)
}

// announce writes that a change begins.
func (s *Service) announce(e *audit.Entry) error {
	if err := s.write(e, resultStarted); err != nil {
		s.calls.WithLabelValues(e.Action, resultRefused).Inc()
		return grpcstatus.Errorf(codes.Unavailable, "nothing was changed, because the audit log cannot be written: %v", err)
	}
	return nil
}

// authorize sets the caller of e, and returns an error if it may not administer the node. This
// is the only place that decides that. With a list of callers, those whom it refuses do not
// come here: see [Service.Refused].
func (s *Service) authorize(ctx context.Context, e *audit.Entry) error {
	who, err := caller(ctx)
	e.Caller = who
	if err != nil {
		e.Error = server.Describe(err).GetMessage()
		s.refuse(e, addressOf(ctx))
	}
	return err
}

// end writes the result of a call.
func (s *Service) end(e *audit.Entry, result string) {
	s.calls.WithLabelValues(e.Action, result).Inc()
	_ = s.write(e, result) // it is logged and counted
}

func (s *Service) write(e *audit.Entry, result string) error {
	s.stamp(e, result)
	err := s.o.Audit.Write(e)
	s.wrote(e, err)
	return err
}
