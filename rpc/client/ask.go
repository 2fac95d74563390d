// SPDX-License-Identifier: Apache-2.0

package client

import (
	"context"
	"errors"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/internal/link"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A question is a call that is to be answered: with a batch, by Decode, or alone,
// by take.
type question[Res any] interface {
	link.Decoder
	wrapping() *envelope
	take(Res) error
}

// method is a call of the service, alone.
type method[Req, Res any] func(pb.RateLimiterClient, context.Context, Req, ...grpc.CallOption) (Res, error)

// madeInFallback is how the id of a reservation begins that was made without
// the owner. The nodes know whom it belongs to.
const madeInFallback = "fallback:"

// ask gets the answer to one call: from the owner of its key, in a batch with
// the calls of others, or else from any node, alone. The request id stays the
// same, so that it does not matter what became of an earlier attempt.
func ask[Req, Res any](ctx context.Context, c *Client, m method[Req, Res], t texts, req Req, q question[Res]) error {
	if err := t.check(); err != nil {
		return err
	}
	trial, err := c.begin(ctx)
	if err != nil {
		return err
	}
	e := q.wrapping()
	e.hints = hints{&c.strings, t.key, t.id}
	if c.ring != nil && !t.large() && !strings.HasPrefix(t.id, madeInFallback) {
		answered, err := c.askOwner(ctx, &trial, t.key, e, q)
		if answered || err != nil {
			return err
		}
		// No result, or one to another question: there is no answer.
	}
	answer, err := do(ctx, c, &trial, m, req)
	if err != nil {
		return err
	}
	return q.take(answer)
}

// askOwner asks the owner of a key, and the one that it names if it is not. An
// error is the end of the call; without an answer, any node is to be asked.
func (c *Client) askOwner(ctx context.Context, t *trial, key string, e *envelope, d link.Decoder) (answered bool, err error) {
	m := c.ring.view.Load().owner(key)
	if m == nil || !m.direct() {
		return false, nil
	}
	result, err := c.exchange(ctx, t, m.peer, e, d)
	if result.redirect == nil {
		return result.answered, err
	}
	c.ring.doubt(m.peer.node)
	next := c.ring.view.Load().member(result.redirect.GetOwner())
	if next == nil || next.peer == m.peer || !next.direct() {
		return false, nil
	}
	result, err = c.exchange(ctx, t, next.peer, e, d)
	return result.answered, err
}

// exchange asks one member. See [Client.askOwner].
func (c *Client) exchange(ctx context.Context, t *trial, p *peer, e *envelope, d link.Decoder) (outcome, error) {
	if t.attempts >= c.attempts {
		return outcome{}, nil
	}
	e.share = deadline{ctx, time.Now().Add(c.share(t))}
	e.lost.next(&e.item)
	err := p.link.DoInto(&e.share, &e.item, d)
	if err == nil {
		refused := e.outcome.refused
		if refused == nil {
			p.node.judge(true)
			return e.outcome, nil
		}
		err = refusalOf(refused)
		if !unanswered(err) {
			p.node.judge(true)
			return outcome{}, explainItem(refused, err)
		}
		t.lost(p.node, err)
		return outcome{}, nil
	}
	if ctx.Err() == context.Canceled {
		return outcome{}, ctx.Err()
	}
	switch {
	case errors.Is(err, link.ErrLate):
		t.lost(p.node, status.Error(codes.DeadlineExceeded, err.Error()))
		e.lost.lost(&e.item)
		p.node.judge(false)
		c.ring.doubt(p.node)
	case errors.Is(err, link.ErrBroken):
		t.lost(p.node, status.Error(codes.Unavailable, err.Error()))
		e.lost.lost(&e.item)
		p.node.judge(false)
		c.ring.doubt(p.node)
	case errors.Is(err, link.ErrBreaker): // not sent
		p.node.judge(false)
		c.ring.doubt(p.node)
	}
	return outcome{}, nil
}

// deadline is a context with an earlier one, for those that ask for it before
// they wait. It costs no timer.
type deadline struct {
	context.Context
	at time.Time
}

// Deadline implements context.Context.
func (d *deadline) Deadline() (time.Time, bool) { return d.at, true }

// refusalOf returns why an item of a batch has no answer, as a gRPC status.
func refusalOf(e *pb.Error) error {
	code := codes.Code(max(e.GetCode(), 0))
	if code == codes.OK {
		code = codes.Unknown
	}
	return status.Error(code, e.GetMessage())
}

// explainItem is explain for an item of a batch.
func explainItem(e *pb.Error, err error) error {
	if status.Code(err) == codes.InvalidArgument {
		return &InvalidError{Field: e.GetField(), Message: e.GetMessage(), status: err}
	}
	return explain(err)
}
