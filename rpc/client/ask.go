// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/internal/requestid"
	"github.com/bucketring/bucketring/rpc/pb"
)

// pendingCall is a call without an answer yet. A result of a batch is decoded by
// Decode; the answer of a unary call is passed to setAnswer.
type pendingCall[Res any] interface {
	link.Decoder
	wrapping() *envelope
	setAnswer(Res) error
}

// method is a unary method of the service.
type method[Req, Res any] func(pb.RateLimiterClient, context.Context, Req, ...grpc.CallOption) (Res, error)

// ask gets the answer to one call: from the owner of its key, in a batch, or
// otherwise from any node, by a unary call. Every attempt has the same request id,
// so an earlier attempt that was decided does no harm.
func ask[Req, Res any](ctx context.Context, c *Client, m method[Req, Res], f callFields, req Req, call pendingCall[Res]) error {
	if err := f.validate(); err != nil {
		return err
	}
	attempts, err := c.newAttempts(ctx)
	if err != nil {
		return err
	}
	if c.closed.Load() {
		return ErrClosed
	}
	c.budget.Deposit()
	e := call.wrapping()
	e.hints = hints{&c.strings, f.key, f.requestID}
	if c.trace != nil {
		ctx = traced(ctx, e, c.trace(ctx))
	}
	// The owner may not know the id of a reservation that another member made, in fallback or
	// from a slice; every node can find that member.
	if maker, _ := requestid.Split(f.requestID); c.ring != nil && !f.tooLarge() && maker == "" {
		answered, err := c.askOwner(ctx, &attempts, f.key, e, call)
		if answered || err != nil {
			return c.orClosed(err)
		}
	}
	if c.ring != nil { // else nobody withdraws them
		m = withAttempts(e, m)
	}
	answer, err := askAny(ctx, c, &attempts, m, req, mayBeRefused(&e.item))
	if err != nil {
		return c.orClosed(err)
	}
	return call.setAnswer(answer)
}

// orClosed adds ErrClosed to the error of a call without an answer if c was closed meanwhile.
func (c *Client) orClosed(err error) error {
	if err == nil || !c.closed.Load() {
		return err
	}
	switch status.Code(err) {
	case codes.Canceled, codes.Unavailable, codes.DeadlineExceeded:
		return fmt.Errorf("%w: %w", ErrClosed, err)
	}
	return err
}

// askOwner asks the owner of a key, follows redirects, and waits while nobody is the owner. An error ends the
// call; if it is not answered, any node is to be asked.
func (c *Client) askOwner(ctx context.Context, a *attempts, key string, e *envelope, d link.Decoder) (answered bool, err error) {
	m := c.ring.view.Load().owner(key)
	if m == nil || !m.direct() {
		return false, nil
	}
	e.tried.number(&e.item)
	for wait := redirectWait; ; wait = min(2*wait, maxRedirectWait) {
		result, err := c.askMember(ctx, a, m.peer, e, d)
		if result.redirect == nil {
			return result.answered, err
		}
		e.tried.add(&e.item) // the member may have decided it, and not be the owner any more
		c.ring.reportStale(m.peer.node)
		// To the next owner it is the same attempt: what the last one has decided comes along.
		next := c.ring.view.Load().member(result.redirect.GetOwner())
		if next != nil && next.peer != m.peer && next.direct() {
			if result, err = c.askMember(ctx, a, next.peer, e, d); result.redirect == nil {
				return result.answered, err
			}
		}
		if !pause(ctx, a.deadline, wait) {
			a.redirected++
			return false, nil
		}
		if m = c.ring.view.Load().owner(key); m == nil || !m.direct() {
			a.redirected++
			return false, nil
		}
	}
}

// A member that may not decide a call, because it waits for its heir or another member takes
// over, is asked again after a while, twice as long each time.
const (
	redirectWait    = 20 * time.Millisecond
	maxRedirectWait = 160 * time.Millisecond
)

// pause waits, and reports whether a third of the time until the deadline is left then.
func pause(ctx context.Context, deadline time.Time, wait time.Duration) bool {
	if left := time.Until(deadline); left < 3*wait {
		return false
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// askMember asks one member. An error ends the call.
//
// A member that does not answer anything for its share of the deadline may be gone: the
// call is not answered then, and another node is asked. One that answers other calls is
// slow; another node would only ask it again, so the call waits until its deadline.
func (c *Client) askMember(ctx context.Context, a *attempts, p *peer, e *envelope, d link.Decoder) (outcome, error) {
	if a.used() >= c.maxAttempts {
		return outcome{}, nil
	}
	p.node.budget.Deposit()
	e.ctx = link.WithDeadline(ctx, a.deadline).WithPatience(c.attemptTimeout(a))
	asked := c.askSlice(e)
	err := p.link.DoInto(&e.ctx, &e.item, d)
	c.endAskSlice(e, asked)
	if err == nil {
		return c.takeOutcome(a, p.node, e)
	}
	sent := link.MayBeDecided(err)
	if sent {
		e.tried.add(&e.item)
	}
	switch {
	case ctx.Err() == context.Canceled:
		return outcome{}, ctx.Err()
	case errors.Is(err, link.ErrOverloaded):
		return outcome{}, overloadedByLink(err)
	case link.IsSlow(err) && !sent && mayBeRefused(&e.item):
		return outcome{}, overloaded(lateRetry, err.Error())
	case link.IsSlow(err):
		a.failed(p.node, status.Error(codes.DeadlineExceeded, err.Error()))
		return outcome{}, a.unreachable()
	case errors.Is(err, link.ErrTimeout): // even if it was not sent: the member may be slow
		a.failed(p.node, status.Error(codes.DeadlineExceeded, err.Error()))
	case errors.Is(err, link.ErrBroken) && sent:
		a.failed(p.node, status.Error(codes.Unavailable, err.Error()))
	case errors.Is(err, link.ErrBroken), errors.Is(err, link.ErrBreakerOpen): // not sent: the next attempt is no retry
	default:
		return outcome{}, nil
	}
	p.node.setHealthy(false)
	for _, seed := range c.seeds {
		if seed.addr == p.node.addr { // the same member: the next attempt goes to another one
			seed.setHealthy(false)
		}
	}
	c.ring.reportStale(p.node)
	return outcome{}, nil
}

// lateRetry is when to try a call again that was not sent in time.
const lateRetry = 250 * time.Millisecond

// takeOutcome returns what a member said, or the error that ends the call.
func (c *Client) takeOutcome(a *attempts, n *node, e *envelope) (outcome, error) {
	rejected := e.outcome.rejected
	if rejected == nil {
		n.setHealthy(true)
		return e.outcome, nil
	}
	err := itemStatus(rejected)
	if retryable(err) {
		a.failed(n, err)
		return outcome{}, nil
	}
	n.setHealthy(true)
	return outcome{}, itemError(rejected, err)
}

// refuse returns the error of a call if the link to the owner of its key refuses calls now,
// so that they cost as little as possible.
func (c *Client) refuse(ctx context.Context, key string) error {
	if c.ring == nil {
		return nil
	}
	m := c.ring.view.Load().owner(key)
	if m == nil || !m.direct() {
		return nil
	}
	if err := m.peer.link.Refuse(); err != nil && ctx.Err() == nil {
		return overloadedByLink(err)
	}
	return nil
}

// itemStatus returns the error of an item of a batch as a gRPC status.
func itemStatus(e *pb.Error) error {
	code := codes.Code(max(e.GetCode(), 0))
	if code == codes.OK {
		code = codes.Unknown
	}
	return status.Error(code, e.GetMessage())
}

// itemError is [callError] for an item of a batch.
func itemError(e *pb.Error, err error) error {
	switch status.Code(err) {
	case codes.InvalidArgument:
		return &InvalidError{Field: e.GetField(), Message: e.GetMessage(), status: err}
	case codes.ResourceExhausted:
		if ms := e.GetRetryAfterMs(); ms > 0 {
			return overloaded(time.Duration(ms)*time.Millisecond, e.GetMessage())
		}
	}
	return callError(err)
}
