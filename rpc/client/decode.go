// SPDX-License-Identifier: Apache-2.0

package client

import (
	"github.com/bucketring/bucketring/rpc/internal/codec"
	"github.com/bucketring/bucketring/rpc/pb"
)

// outcome is what the result of an item says. At most one field is set; none if it
// answers another kind of call.
type outcome struct {
	answered bool
	rejected *pb.Error
	redirect *pb.Redirect
}

// Decode implements link.Decoder.
func (c *decisionCall) Decode(e codec.Encoded) error {
	d, values, other, err := codec.Decisions.Decode(e)
	if d == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Decisions.Release(d)
	c.outcome = outcome{answered: true}
	if c.item.GetTakesSlice() {
		c.lent, c.lentWith = codec.Lent(e)
	}
	c.batched = true
	return c.set(d, values)
}

// Decode implements link.Decoder.
func (c *settlementCall) Decode(e codec.Encoded) error {
	s, values, other, err := codec.Settlements.Decode(e)
	if s == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Settlements.Release(s)
	c.outcome = outcome{answered: true}
	return c.set(s, values)
}

// Decode implements link.Decoder.
func (c *stateCall) Decode(e codec.Encoded) error {
	p, values, other, err := codec.Peeks.Decode(e)
	if p == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Peeks.Release(p)
	c.outcome = outcome{answered: true}
	return c.set(p, values)
}

// setOutcome sets the outcome of an item that has no answer.
func (e *envelope) setOutcome(r *pb.Result, err error) error {
	e.outcome = outcome{rejected: r.GetError(), redirect: r.GetRedirect()}
	return err
}
