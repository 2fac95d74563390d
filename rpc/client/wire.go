// SPDX-License-Identifier: Apache-2.0

package client

import (
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Answers that come in batches are decoded by hand, straight into what callers
// get: the messages in between took more time than all else that the client does.
// What is taken and what is refused is as with the generated code, to which a
// test compares it; fields that are not known are skipped.

// outcome is what the result of an item says. At most one is set: none if it is
// the answer to another kind of question.
type outcome struct {
	answered bool
	refused  *pb.Error
	redirect *pb.Redirect
}

// open takes an encoded pb.Result apart. It returns the answer, still encoded,
// if there is one in the field with the number wanted.
func (e *envelope) open(result []byte, wanted protowire.Number) ([]byte, error) {
	e.outcome = outcome{}
	var (
		last  protowire.Number // of the fields of which only one is there
		body  joined
		parts int
	)
	for f := (fields{rest: result}); ; {
		more, err := f.next()
		if err != nil {
			return nil, err
		}
		if !more {
			break
		}
		if f.kind != protowire.BytesType || f.number < 1 || f.number > 7 || f.number == 6 {
			continue
		}
		if f.number != last {
			last, body = f.number, joined{}
		}
		body.add(f.body)
		parts++
	}
	if parts > 1 { // nobody sends that: let others find out what is wrong with it
		if err := proto.Unmarshal(result, &pb.Result{}); err != nil {
			return nil, err
		}
	}
	switch last {
	case wanted:
		e.outcome.answered = true
		return body.bytes, nil
	case 4:
		e.outcome.refused = &pb.Error{}
		return nil, proto.Unmarshal(body.bytes, e.outcome.refused)
	case 5:
		e.outcome.redirect = &pb.Redirect{}
		return nil, proto.Unmarshal(body.bytes, e.outcome.redirect)
	}
	return nil, proto.Unmarshal(result, &pb.Result{}) // what is no answer is still to be one that can be read
}

// Decode implements link.Decoder.
func (c *decisionCall) Decode(result []byte) error {
	body, err := c.open(result, 1)
	if err != nil || !c.outcome.answered {
		return err
	}
	return c.decode(body)
}

func (c *decisionCall) decode(b []byte) error {
	d := &c.answer
	*d, c.granted = Decision{}, 0
	binding, outcome, reason, route := -1, pb.Outcome(0), pb.Reason(0), pb.Route(0)
	var retry span
	for f := (fields{rest: b}); ; {
		more, err := f.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch f.tag() {
		case number(1):
			outcome = pb.Outcome(f.value)
		case number(2):
			reason = pb.Reason(f.value)
		case text(3):
			d.RequestID, err = c.hints.id(f.body)
		case text(4):
			d.Tier, err = c.hints.words.text(f.body)
		case number(5):
			c.granted = int64(f.value)
		case text(6):
			err = retry.add(f.body)
		case number(7):
			binding = int(int32(f.value))
		case text(8):
			d.Limits, err = f.limit(d.Limits, &c.hints)
		case text(9):
			d.PolicyVersion, err = c.hints.words.text(f.body)
		case text(10):
			d.Owner, err = c.hints.words.text(f.body)
		case number(11):
			route = pb.Route(f.value)
		case number(12):
			d.Replayed = f.value != 0
		}
		if err != nil {
			return err
		}
	}
	d.Outcome, d.Reason, d.Route = word(outcomeNames[:], outcome), word(reasonNames[:], reason), word(routeNames[:], route)
	if d.RequestID == "" {
		d.RequestID = c.hints.sent
	}
	if retry.there {
		d.RetryAfter = max(retry.duration(), 1)
	}
	if binding >= 0 && binding < len(d.Limits) {
		d.Binding = d.Limits[binding]
	}
	return nil
}

// Decode implements link.Decoder.
func (c *settlementCall) Decode(result []byte) error {
	body, err := c.open(result, 2)
	if err != nil || !c.outcome.answered {
		return err
	}
	return c.decode(body)
}

func (c *settlementCall) decode(b []byte) error {
	s := &c.answer
	*s = Settlement{}
	status, route := pb.ReservationStatus(0), pb.Route(0)
	for f := (fields{rest: b}); ; {
		more, err := f.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch f.tag() {
		case text(1):
			s.RequestID, err = c.hints.id(f.body)
		case number(2):
			status = pb.ReservationStatus(f.value)
		case text(3):
			s.Tier, err = c.hints.words.text(f.body)
		case text(4):
			s.Limits, err = f.limit(s.Limits, &c.hints)
		case text(5):
			s.PolicyVersion, err = c.hints.words.text(f.body)
		case text(6):
			s.Owner, err = c.hints.words.text(f.body)
		case number(7):
			route = pb.Route(f.value)
		}
		if err != nil {
			return err
		}
	}
	s.Status, s.Route = word(statusNames[:], status), word(routeNames[:], route)
	return nil
}

// Decode implements link.Decoder.
func (c *stateCall) Decode(result []byte) error {
	body, err := c.open(result, 3)
	if err != nil || !c.outcome.answered {
		return err
	}
	return c.decode(body)
}

func (c *stateCall) decode(b []byte) error {
	s := &c.answer
	*s = State{}
	route := pb.Route(0)
	for f := (fields{rest: b}); ; {
		more, err := f.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch f.tag() {
		case text(1):
			s.Tier, err = c.hints.words.text(f.body)
		case text(2):
			s.Limits, err = f.limit(s.Limits, &c.hints)
		case text(3):
			s.PolicyVersion, err = c.hints.words.text(f.body)
		case text(4):
			s.Owner, err = c.hints.words.text(f.body)
		case number(5):
			route = pb.Route(f.value)
		}
		if err != nil {
			return err
		}
	}
	s.Route = word(routeNames[:], route)
	return nil
}

// maxLimits is far above what any key has.
const maxLimits = 1 << 12

var errLimits = fmt.Errorf("answer: more than %d limits", maxLimits)

// limit adds the limit that f is at to limits. The first one makes room for all.
func (f *fields) limit(limits []LimitState, h *hints) ([]LimitState, error) {
	if limits == nil {
		n, err := f.more()
		if err != nil {
			return nil, err
		}
		if n >= maxLimits {
			return nil, errLimits
		}
		limits = make([]LimitState, 0, 1+n)
	}
	limits = append(limits, LimitState{})
	return limits, limits[len(limits)-1].decode(f.body, h)
}

func (l *LimitState) decode(b []byte, h *hints) error {
	var reset, window span
	for f := (fields{rest: b}); ; {
		more, err := f.next()
		if err != nil {
			return err
		}
		if !more {
			break
		}
		switch f.tag() {
		case text(1):
			l.Name, err = h.words.text(f.body)
		case text(2):
			l.Dimension, err = h.words.text(f.body)
		case text(3):
			l.Scope, err = h.scope(f.body)
		case text(4):
			l.Algorithm, err = h.words.text(f.body)
		case number(5):
			l.Limit = int64(f.value)
		case number(6):
			l.Remaining = int64(f.value)
		case number(7):
			l.Debt = int64(f.value)
		case text(8):
			err = reset.add(f.body)
		case text(9):
			err = window.add(f.body)
		case number(10):
			l.Cost = int64(f.value)
		case number(11):
			l.Shadow = f.value != 0
		case number(12):
			l.Exceeded = f.value != 0
		case number(13):
			l.Capacity = int64(f.value)
		}
		if err != nil {
			return err
		}
	}
	if window.there {
		l.Window = window.duration()
	}
	if reset.there {
		l.ResetAt = time.Unix(reset.seconds, int64(reset.nanos)).UTC()
	}
	return nil
}

// joined is a message in one part or more, whose bytes follow each other: that is
// how the parts of a message are put together.
type joined struct {
	bytes []byte
	there bool
	own   bool // bytes are not those that were received
}

func (j *joined) add(b []byte) {
	switch {
	case !j.there:
		j.bytes, j.there = b, true
	case !j.own:
		j.bytes, j.own = slices.Concat(j.bytes, b), true
	default:
		j.bytes = append(j.bytes, b...)
	}
}

// span is a Timestamp or a Duration.
type span struct {
	there   bool
	seconds int64
	nanos   int32
}

// add decodes a part of s.
func (s *span) add(b []byte) error {
	s.there = true
	for f := (fields{rest: b}); ; {
		more, err := f.next()
		if err != nil || !more {
			return err
		}
		switch f.tag() {
		case number(1):
			s.seconds = int64(f.value)
		case number(2):
			s.nanos = int32(f.value)
		}
	}
}

func (s *span) duration() time.Duration {
	d := durationpb.Duration{Seconds: s.seconds, Nanos: s.nanos}
	return d.AsDuration()
}

// fields goes through the fields of a message.
type fields struct {
	rest   []byte
	number protowire.Number
	kind   protowire.Type
	value  uint64 // of a varint
	body   []byte // of a text or a message
}

// A tag is the number of a field and how it is encoded.
type tag int64

func (f *fields) tag() tag          { return tag(f.number)<<3 | tag(f.kind) }
func number(n protowire.Number) tag { return tag(n)<<3 | tag(protowire.VarintType) }
func text(n protowire.Number) tag   { return tag(n)<<3 | tag(protowire.BytesType) }

var errNumber = errors.New("answer: the number of a field is too large")

// next goes to the next field. It returns false after the last one. Nearly all
// tags, lengths and many numbers are one byte: those take the short way.
func (f *fields) next() (bool, error) {
	b := f.rest
	if len(b) < 2 {
		if len(b) == 0 {
			return false, nil
		}
		return false, malformed(-1)
	}
	first, n := b[0], 1
	if first < 0x80 && first >= 1<<3 {
		f.number, f.kind = protowire.Number(first>>3), protowire.Type(first&7)
	} else if f.number, f.kind, n = protowire.ConsumeTag(b); n < 0 {
		return false, malformed(n)
	} else if f.number > protowire.MaxValidNumber {
		return false, errNumber
	}
	b = b[n:]
	switch f.kind {
	case protowire.VarintType:
		if len(b) > 0 && b[0] < 0x80 {
			f.value, n = uint64(b[0]), 1
		} else if f.value, n = protowire.ConsumeVarint(b); n < 0 {
			return false, malformed(n)
		}
	case protowire.BytesType:
		if len(b) > 0 && int(b[0]) < len(b) && b[0] < 0x80 {
			n = 1 + int(b[0])
			f.body = b[1:n]
		} else if f.body, n = protowire.ConsumeBytes(b); n < 0 {
			return false, malformed(n)
		}
	default:
		if n = protowire.ConsumeFieldValue(f.number, f.kind, b); n < 0 {
			return false, malformed(n)
		}
	}
	f.rest = b[n:]
	return true, nil
}

// more returns how many fields with the number and kind of the current one are
// still to come.
func (f *fields) more() (n int, err error) {
	for g := *f; ; {
		more, err := g.next()
		if err != nil || !more {
			return n, err
		}
		if g.number == f.number && g.kind == f.kind {
			n++
		}
	}
}

func malformed(n int) error { return fmt.Errorf("answer: %w", protowire.ParseError(n)) }
