// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"sync"
	"time"
)

// A Grant is what a call that [Client.Do] runs may use. Its methods are safe for concurrent
// use; its fields must not be changed.
type Grant struct {
	Decision // allowed or degraded
	Key      string
	// OutputTokens is what the call may generate, per choice: the max_tokens for the model.
	OutputTokens int64

	mu struct {
		sync.Mutex
		used     Usage // as last reported
		reported bool
	}
}

// Progress says what the call has used so far, for a stream. It asks no node and returns at
// once, so it may be called for each token: Do sends the last report along when it renews the
// lease. Numbers are cumulative, and a report replaces the one before. If the function then
// fails or panics, the last report is charged.
func (g *Grant) Progress(u Usage) {
	u = u.copied()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.mu.used, g.mu.reported = u, true
}

// progress returns the last report. reported is false if there is none.
func (g *Grant) progress() (u Usage, reported bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.mu.used, g.mu.reported
}

// final returns the usage of a call that returned u. known is false if nothing was said of it.
func (g *Grant) final(u Usage) (final Usage, known bool) {
	last, reported := g.progress()
	switch {
	case u.isZero():
		return last, reported
	case u.OutputTokens == nil && reported:
		u.OutputTokens = last.OutputTokens
	}
	return u, true
}

// isZero reports whether u says nothing.
func (u *Usage) isZero() bool {
	return u.InputTokens == nil && u.CachedInputTokens == 0 && u.OutputTokens == nil && u.CacheWriteTokens == 0 &&
		u.CacheWrite1hTokens == 0 && u.Images == 0 && u.Searches == 0 && u.ServiceTier == "" && !u.Rejected && u.Costs == nil
}

// Do reserves e, calls run if the call is allowed or degraded, and reports what it used. run
// is called once, with ctx, and must generate no more than [Grant].OutputTokens.
//
// Do ends the reservation when run has returned, also if ctx has ended:
//
//   - If run returns no error, the call is settled with the usage that it returns. Usage{} is
//     the one last reported with [Grant.Progress] or, without a report, the estimated input
//     and no output.
//   - If run returns an error and has used something, the call is settled with that: the usage
//     that it returns or, if it returns Usage{}, the one last reported.
//   - If run returns an error and Usage{}, and has reported nothing, the call is cancelled,
//     which gives the whole charge back.
//   - If run panics, the call ends in the same way, and the panic goes on.
//
// The lease is renewed while run runs, however long that takes. If no node can be reached at
// the end, the usage is reported in the background, as by [Reservation.SettleLater]: call
// [Client.Flush] before [Client.Close].
//
// A denial is a [*DeniedError], and any other error of the reserve that of [Client.Reserve];
// run is not called then, nor if ctx has ended meanwhile. Otherwise Do returns the error of
// run as it is, and joined with it, if the call could not be settled or cancelled, the reason.
//
// With Estimate.RequestID, a second Do runs the function again, and charges nothing if its
// usage is the same. If it is another, the error is an [ErrConflict].
func (c *Client) Do(ctx context.Context, e Estimate, run func(context.Context, *Grant) (Usage, error)) (err error) {
	r, err := c.Reserve(ctx, e)
	if err != nil {
		return err
	}
	if err := r.Err(); err != nil {
		return err
	}
	g := &Grant{Decision: r.Decision, Key: r.Key, OutputTokens: r.Granted()}
	stop := r.keepLease(ctx, g, renewalInterval(e.TTL))
	var used Usage
	returned := false
	defer func() { // does not recover: a panic goes on afterwards
		stop()
		final, known := g.final(used)
		failed := err != nil || !returned
		var endErr error
		if failed && !known {
			endErr = r.cancelOrReportLater(ctx, e.Costs)
		} else {
			endErr = r.settleOrReportLater(ctx, final)
		}
		switch {
		case err == nil:
			err = endErr
		case endErr != nil:
			err = errors.Join(err, endErr)
		}
	}()
	if err = ctx.Err(); err == nil {
		used, err = run(ctx, g)
	}
	returned = true
	return err
}

// settleOrReportLater settles r with u, in the background if no node can be reached.
func (r *Reservation) settleOrReportLater(ctx context.Context, u Usage) error {
	_, err := r.Settle(ctx, u)
	if !errors.Is(err, ErrUnreachable) {
		return err
	}
	if later := r.SettleLater(u); later != nil {
		return errors.Join(err, later)
	}
	return nil
}

// cancelOrReportLater cancels r. If no node can be reached, it reports in the background that
// nothing was used, which gives back everything but the request itself.
func (r *Reservation) cancelOrReportLater(ctx context.Context, costs map[string]int64) error {
	err := r.Cancel(ctx)
	if !errors.Is(err, ErrUnreachable) {
		return err
	}
	nothing := Usage{InputTokens: new(int64(0)), OutputTokens: new(int64(0)), Rejected: true}
	for name := range costs {
		if nothing.Costs == nil {
			nothing.Costs = map[string]int64{}
		}
		nothing.Costs[name] = 0
	}
	if later := r.SettleLater(nothing); later != nil {
		return errors.Join(err, later)
	}
	return nil
}

// renewalInterval is the time between two renewals of a lease.
func renewalInterval(ttl time.Duration) time.Duration {
	if ttl <= 0 {
		return defaultTTL / 3
	}
	return time.Duration(wholeSeconds(ttl)) * time.Second / 3
}

// keepLease renews the lease of r and reports the progress of g until stop is called, which
// waits for a report in flight. It has a goroutine only after the first interval.
func (r *Reservation) keepLease(ctx context.Context, g *Grant, interval time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx)) // run may go on after its context has ended
	ended := make(chan struct{})
	timer := time.AfterFunc(interval, func() {
		defer close(ended)
		for {
			wait := interval
			if r.renew(ctx, g) != nil {
				wait = interval / 4 // the next one may succeed in time
			}
			if !sleep(ctx, wait) {
				return
			}
		}
	})
	return func() {
		cancel()
		if !timer.Stop() {
			<-ended
		}
	}
}

// renew reports the progress of g. A renewal without any is not progress: Cancel then still
// gives everything back.
func (r *Reservation) renew(ctx context.Context, g *Grant) error {
	u, reported := g.progress()
	if reported {
		_, err := r.Progress(ctx, u)
		return err
	}
	_, err := r.report(ctx, "progress", u, false)
	return err
}
