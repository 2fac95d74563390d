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

// A method is a call of the service, alone and in a batch.
type method[Req any, Res comparable] struct {
	alone func(pb.RateLimiterClient, context.Context, Req, ...grpc.CallOption) (Res, error)
	of    func(*pb.Result) Res // nil if the result is another one
}

var (
	checkMethod   = method[*pb.CheckRequest, *pb.Decision]{pb.RateLimiterClient.Check, (*pb.Result).GetDecision}
	reserveMethod = method[*pb.ReserveRequest, *pb.Decision]{pb.RateLimiterClient.Reserve, (*pb.Result).GetDecision}
	settleMethod  = method[*pb.SettleRequest, *pb.Settlement]{pb.RateLimiterClient.Settle, (*pb.Result).GetSettlement}
	cancelMethod  = method[*pb.CancelRequest, *pb.Settlement]{pb.RateLimiterClient.Cancel, (*pb.Result).GetSettlement}
	peekMethod    = method[*pb.PeekRequest, *pb.PeekResponse]{pb.RateLimiterClient.Peek, (*pb.Result).GetLimits}
)

// madeInFallback is how the id of a reservation begins that was made without
// the owner. The nodes know whom it belongs to.
const madeInFallback = "fallback:"

// ask gets the answer to one call: from the owner of its key, in a batch with
// the calls of others, or else from any node, alone. The request id stays the
// same, so that it does not matter what became of an earlier attempt.
func ask[Req any, Res comparable](ctx context.Context, c *Client, m method[Req, Res], t texts, req Req, e *envelope) (Res, error) {
	var none Res
	if err := t.check(); err != nil {
		return none, err
	}
	trial, err := c.begin(ctx)
	if err != nil {
		return none, err
	}
	if c.ring != nil && !t.large() && !strings.HasPrefix(t.id, madeInFallback) {
		result, err := c.askOwner(ctx, &trial, t.key, e)
		if err != nil {
			return none, err
		}
		if answer := m.of(result); answer != none {
			return answer, nil
		}
		// No result, or one to another question: there is no answer.
	}
	return do(ctx, c, &trial, m.alone, req)
}

// askOwner asks the owner of a key, and the one that it names if it is not. An
// error is the end of the call; without a result, any node is to be asked.
func (c *Client) askOwner(ctx context.Context, t *trial, key string, e *envelope) (*pb.Result, error) {
	m := c.ring.view.Load().owner(key)
	if m == nil || !m.direct() {
		return nil, nil
	}
	result, err := c.exchange(ctx, t, m.peer, e)
	redirect := result.GetRedirect()
	if redirect == nil {
		return result, err
	}
	c.ring.doubt(m.peer.node)
	next := c.ring.view.Load().member(redirect.GetOwner())
	if next == nil || next.peer == m.peer || !next.direct() {
		return nil, nil
	}
	return c.exchange(ctx, t, next.peer, e)
}

// exchange asks one member. See [Client.askOwner].
func (c *Client) exchange(ctx context.Context, t *trial, p *peer, e *envelope) (*pb.Result, error) {
	if t.attempts >= c.attempts {
		return nil, nil
	}
	e.share = deadline{ctx, time.Now().Add(c.share(t))}
	result, err := p.link.Do(&e.share, &e.item)
	if err == nil {
		refused := result.GetError()
		if refused == nil {
			p.node.judge(true)
			return result, nil
		}
		err = refusalOf(refused)
		if !unanswered(err) {
			p.node.judge(true)
			return nil, explainItem(refused, err)
		}
		t.lost(p.node, err)
		return nil, nil
	}
	if ctx.Err() == context.Canceled {
		return nil, ctx.Err()
	}
	switch {
	case errors.Is(err, link.ErrLate):
		t.lost(p.node, status.Error(codes.DeadlineExceeded, err.Error()))
		p.node.judge(false)
		c.ring.doubt(p.node)
	case errors.Is(err, link.ErrBroken):
		t.lost(p.node, status.Error(codes.Unavailable, err.Error()))
		p.node.judge(false)
		c.ring.doubt(p.node)
	case errors.Is(err, link.ErrBreaker): // not sent
		p.node.judge(false)
		c.ring.doubt(p.node)
	}
	return nil, nil
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
