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

	"github.com/bucketring/bucketring/rpc/client"
)

// maxAmount is the largest number that nodes take.
const maxAmount = 1 << 53

// maxLease is what nodes allow.
const maxLease = time.Hour

// maxAbandoning bounds how many reservations that nobody knows of are given back
// at once.
const maxAbandoning = 64

// metering is what the calls of one [Middleware] or [GRPC] share.
type metering struct {
	limiter    Limiter
	lease      time.Duration
	every      time.Duration // between two reports of progress
	logger     *slog.Logger
	registerer prometheus.Registerer
	onDone     func(Result)

	// Since start.
	metrics    *metrics
	keeper     *keeper
	abandoning chan struct{} // one for each call under way of abandon; its capacity bounds them; never closed
}

func (m metering) withDefaults() metering {
	if m.lease == 0 {
		m.lease = DefaultLease
	}
	if m.every == 0 {
		m.every = m.lease / 3
	}
	return m
}

// validate returns every problem of m, which has its defaults.
func (m metering) validate() error {
	var errs []error
	if m.limiter == nil {
		errs = append(errs, errors.New("client: must be set"))
	}
	if m.lease < time.Second || m.lease > maxLease {
		errs = append(errs, fmt.Errorf("lease: must be between 1s and 1h, got %v", m.lease))
	}
	if m.every < 0 || m.every >= m.lease && m.lease > 0 {
		errs = append(errs, fmt.Errorf("progress_every: must be shorter than the lease of %v, got %v", m.lease, m.every))
	}
	return errors.Join(errs...)
}

// start returns m, ready for calls.
func (m metering) start() (*metering, error) {
	if m.logger == nil {
		m.logger = slog.New(slog.DiscardHandler)
	}
	var err error
	if m.metrics, err = newMetrics(m.registerer); err != nil {
		return nil, err
	}
	m.keeper = newKeeper(m.every, (*Call).progress)
	m.abandoning = make(chan struct{}, maxAbandoning)
	return &m, nil
}

// reserve makes a call of an estimate. It does not end with ctx: what became
// of a reservation whose caller leaves meanwhile would not be known, and its
// slot would be gone for a lease. The limiter bounds how long it takes.
//
// A call that was not denied is kept until [Call.finish].
func (m *metering) reserve(ctx context.Context, e client.Estimate, method string) (*Call, error) {
	started := time.Now()
	e.RequestID, e.TTL = rand.Text(), m.lease
	r, err := m.limiter.Reserve(context.WithoutCancel(ctx), e)
	if err != nil {
		if errors.Is(err, client.ErrUnreachable) {
			m.abandon(ctx, e)
		}
		return nil, err
	}
	c := &Call{metering: m, reservation: r, estimate: e, method: method, started: started, ctx: ctx}
	m.metrics.decided(r.Outcome)
	if !r.Denied() {
		m.metrics.running.Inc()
		m.keeper.add(c)
	}
	return c, nil
}

// abandon gives back, in the background, what a node may have reserved whose
// answer did not come. If that fails too, or many try, the lease runs out.
func (m *metering) abandon(ctx context.Context, e client.Estimate) {
	l, ok := m.limiter.(again)
	if !ok {
		return
	}
	select {
	case m.abandoning <- struct{}{}:
	default:
		return
	}
	go func() {
		defer func() { <-m.abandoning }()
		_ = l.Reservation(e.Key, e.RequestID).Cancel(context.WithoutCancel(ctx))
	}()
}

// again is what a limiter also has that can make a handle on a reservation.
type again interface {
	Reservation(key, requestID string) *client.Reservation
}

var _ again = (*client.Client)(nil)

// handle returns a handle that has reported no progress, with which Cancel
// gives everything back. If the limiter makes none, that is r.
func (m *metering) handle(r *client.Reservation) *client.Reservation {
	if l, ok := m.limiter.(again); ok {
		return l.Reservation(r.Key, r.RequestID)
	}
	return r
}
