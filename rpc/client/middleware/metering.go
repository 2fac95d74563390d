// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"

	"github.com/bucketring/bucketring/rpc/client"
)

// maxLease is the longest lease that nodes accept.
const maxLease = time.Hour

// maxCancels bounds the background cancels of reservations whose answer was lost.
const maxCancels = 64

// metering is what all calls of one [Middleware] or [GRPC] share.
type metering struct {
	limiter    Limiter
	lease      time.Duration
	interval   time.Duration // between two reports of progress
	logger     *slog.Logger
	registerer prometheus.Registerer
	onDone     func(Result)
	access     accessLog
	undecided  UndecidedMode
	tracer     trace.Tracer   // nil: no spans
	maxWait    *time.Duration // of calls whose estimate has none; nil: as the policy says

	// Set by start.
	outage  *outageLog
	late    *lateCharges
	metrics *metrics
	renewer *renewer
	cancels chan struct{} // semaphore of maxCancels; never closed
}

func (m metering) withDefaults() metering {
	if m.lease == 0 {
		m.lease = DefaultLease
	}
	if m.interval == 0 {
		m.interval = m.lease / 3
	}
	return m
}

// validate returns all problems of m, which has its defaults.
func (m metering) validate() error {
	var errs []error
	if m.limiter == nil {
		errs = append(errs, errors.New("client: must be set"))
	}
	if m.lease < time.Second || m.lease > maxLease {
		errs = append(errs, fmt.Errorf("lease: must be between 1s and 1h, got %v", m.lease))
	}
	if m.interval < 0 || m.interval >= m.lease && m.lease > 0 {
		errs = append(errs, fmt.Errorf("progress_interval: must be shorter than the lease of %v, got %v", m.lease, m.interval))
	}
	if m.maxWait != nil && (*m.maxWait < 0 || *m.maxWait > maxMaxWait) {
		errs = append(errs, fmt.Errorf("max_wait: must be between 0s and 10m, got %v", *m.maxWait))
	}
	return errors.Join(errs...)
}

// start returns a copy of m that is ready for calls.
func (m metering) start() (*metering, error) {
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if m.metrics, err = newMetrics(m.registerer); err != nil {
		return nil, err
	}
	m.renewer = newRenewer(m.interval, (*Call).reportProgress)
	m.cancels = make(chan struct{}, maxCancels)
	started := &m
	started.access.logger = m.logger
	started.outage = &outageLog{began: time.Now()}
	started.late = newLateCharges(m.limiter)
	started.late.charged = started.lateCharged
	started.late.dropped = started.lateDropped
	return started, nil
}

// lateCharged counts a charge that was settled or left to the client's outbox, and logs
// that its usage was replaced.
func (m *metering) lateCharged(c lateCharge, tier string, s settlement) {
	m.metrics.late.WithLabelValues(lateCharged).Inc()
	m.metrics.charged.add(tier, c.model, &s.usage, s.spend)
	if s.err != nil {
		m.metrics.failures.Inc()
		m.logger.LogAttrs(context.Background(), slog.LevelError, "settlement failed", m.access.failure(c.key, s.err, slog.String("request_id", c.id))...)
	}
}

// lateDropped counts and logs a charge that no node accepted.
func (m *metering) lateDropped(c lateCharge, err error) {
	m.metrics.late.WithLabelValues(lateDropped).Inc()
	m.logger.LogAttrs(context.Background(), slog.LevelError, "usage of a call without a decision was not reported", m.access.failure(c.key, err)...)
}

// report logs and counts a call that has ended.
func (m *metering) report(r *Result) {
	m.metrics.ended(r)
	m.access.write(r)
}

// reserve makes a reservation, for which the call may have to wait in line. When ctx ends, the
// call leaves the line. The outcome is unknown then, so that the reservation is cancelled. The
// limiter bounds how long it takes: a deadline of ctx would make it take longer if no node
// answers.
//
// The lease of an allowed call is renewed until [Call.finish].
func (m *metering) reserve(ctx context.Context, e client.Estimate, method string) (*Call, error) {
	started := time.Now()
	e.RequestID, e.Once, e.TTL = rand.Text(), true, m.lease
	if e.MaxWait == nil {
		e.MaxWait = m.maxWait
	}
	reserving, span := m.span(ctx, "reserve")
	reserving, stop := withoutDeadline(reserving)
	r, err := m.limiter.Reserve(reserving, e)
	stop()
	endReserve(span, &e, r, err)
	if err != nil {
		left := ctx.Err() != nil
		if left || errors.Is(err, client.ErrUnreachable) {
			m.cancelLost(ctx, e)
		}
		if !left && noNodeAnswered(err) {
			m.outage.add(m.access, m.undecided, e.Key, err)
			if m.undecided == AllowUndecided {
				return m.runUndecided(ctx, e, method, started), nil
			}
		}
		return nil, err
	}
	c := &Call{metering: m, reservation: r, estimate: e, method: method, started: started, ctx: ctx, reservedInput: e.InputTokens}
	m.metrics.decided(r.Outcome)
	if !r.Denied() {
		m.metrics.running.Inc()
		m.renewer.add(c)
	}
	return c, nil
}

// withoutDeadline returns a context without the deadline of ctx, which ends when ctx does. stop
// must be called.
func withoutDeadline(ctx context.Context) (detached context.Context, stop func()) {
	detached, cancel := context.WithCancel(context.WithoutCancel(ctx))
	forget := context.AfterFunc(ctx, cancel)
	return detached, func() {
		forget()
		cancel()
	}
}

// runUndecided returns a call that runs although no node has decided it.
func (m *metering) runUndecided(ctx context.Context, e client.Estimate, method string, started time.Time) *Call {
	m.metrics.decided(OutcomeUndecided)
	m.metrics.running.Inc()
	r := &client.Reservation{Key: e.Key, Decision: client.Decision{Outcome: client.Allowed, RequestID: e.RequestID, Tier: e.Tier}}
	return &Call{metering: m, reservation: r, undecided: true, estimate: e, method: method, started: started, ctx: ctx, reservedInput: e.InputTokens}
}

// cancelLost cancels, in the background, a reservation that a node may have made
// although its answer was lost. If that fails, or too many cancels are in flight,
// the reservation expires.
func (m *metering) cancelLost(ctx context.Context, e client.Estimate) {
	l, ok := m.limiter.(reopener)
	if !ok {
		return
	}
	select {
	case m.cancels <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-m.cancels }()
		_ = l.Reservation(e.Key, e.RequestID).Cancel(context.WithoutCancel(ctx))
	}()
}

// reopener is an optional interface of a limiter: it returns a handle on an
// existing reservation.
type reopener interface {
	Reservation(key, requestID string) *client.Reservation
}

var _ reopener = (*client.Client)(nil)

// cancelHandle returns a handle on r whose Cancel refunds everything because no
// progress was reported with it. It returns r if the limiter cannot make one.
func (m *metering) cancelHandle(r *client.Reservation) *client.Reservation {
	if l, ok := m.limiter.(reopener); ok {
		return l.Reservation(r.Key, r.RequestID)
	}
	return r
}
