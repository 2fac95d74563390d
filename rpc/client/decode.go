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
func (c *decisionCall) Decode(result []byte) error {
	d, other, err := codec.Decisions.Decode(result)
	if d == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Decisions.Release(d)
	c.outcome = outcome{answered: true}
	if c.item.GetTakesSlice() {
		c.lent, c.lentWith = codec.Lent(result)
	}
	return c.setAnswer(d)
}

// Decode implements link.Decoder.
func (c *settlementCall) Decode(result []byte) error {
	s, other, err := codec.Settlements.Decode(result)
	if s == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Settlements.Release(s)
	c.outcome = outcome{answered: true}
	return c.setAnswer(s)
}

// Decode implements link.Decoder.
func (c *stateCall) Decode(result []byte) error {
	p, other, err := codec.Peeks.Decode(result)
	if p == nil {
		return c.setOutcome(other, err)
	}
	defer codec.Peeks.Release(p)
	c.outcome = outcome{answered: true}
	return c.setAnswer(p)
}

// setOutcome sets the outcome of an item that has no answer.
func (e *envelope) setOutcome(r *pb.Result, err error) error {
	e.outcome = outcome{rejected: r.GetError(), redirect: r.GetRedirect()}
	return err
}
