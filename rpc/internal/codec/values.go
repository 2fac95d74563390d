// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"errors"
	"time"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Encoded is an encoded pb.Result, with what it refers to.
type Encoded struct {
	Result      []byte
	Definitions Definitions // of its stream, when it arrived
	Key         string      // of the call; valid UTF-8
}

// A State is one limit of an answer that refers to definitions.
type State struct {
	*Definition
	Scope                                   string // a part of [Encoded].Key
	Window                                  time.Duration
	Remaining, Debt, Cost, Headroom, Credit int64
	Reset                                   int64 // in Unix nanoseconds; 0: absent
	Exceeded, PerModel                      bool
}

// Values are the limits of an answer that refers to definitions. The zero value is of an
// answer that has its limits in full. They are valid as long as the [Encoded] result.
type Values struct {
	encoded Encoded // with the values only
	count   int
}

var (
	errScope     = errors.New("answer: the scope of a limit is no level of the key")
	errBothForms = errors.New("answer: limits in full and by definitions")
	errNoLimits  = errors.New("answer: limits of a result that has none")
)

// Len returns how many limits are left.
func (v *Values) Len() int { return v.count }

// Next reads the next limit, of which there are Len.
func (v *Values) Next(into *State) error {
	_, _, tag := protowire.ConsumeTag(v.encoded.Result)
	if tag < 0 {
		return protowire.ParseError(tag)
	}
	encoded, n := protowire.ConsumeBytes(v.encoded.Result[tag:])
	if n < 0 {
		return protowire.ParseError(n)
	}
	v.encoded.Result = v.encoded.Result[tag+n:]
	v.count--
	var m pb.LimitValues
	if err := m.UnmarshalVTUnsafe(encoded); err != nil {
		return err
	}
	return v.encoded.state(into, &m)
}

// state makes a limit of its values.
func (e *Encoded) state(s *State, m *pb.LimitValues) (err error) {
	if s.Definition, err = e.Definitions.find(m.Definition); err != nil {
		return err
	}
	n := int(m.ScopeBytes)
	if !isLevel(e.Key, n) {
		return errScope
	}
	s.Scope, s.Window = e.Key[:n], s.Definition.Window
	if m.WindowNanos != 0 {
		s.Window = time.Duration(m.WindowNanos)
	}
	s.Remaining, s.Debt, s.Cost, s.Headroom, s.Credit = m.Remaining, m.Debt, m.Cost, m.Headroom, m.Credit
	s.Reset, s.Exceeded, s.PerModel = m.ResetNanos, m.Exceeded, m.PerModel
	return nil
}

// Message decodes the result. Its limits are in full.
func (e Encoded) Message(into *pb.Result) error {
	before, after, values := e.cut()
	if err := proto.Unmarshal(before, into); err != nil {
		return err
	}
	if err := (proto.UnmarshalOptions{Merge: true}).Unmarshal(after, into); err != nil {
		return err
	}
	n := values.Len() + len(into.GetValues())
	if n == 0 {
		return nil
	}
	if n > maxLimits {
		return errTooManyLimits
	}
	limits := limitsOf(into)
	if limits == nil {
		return errNoLimits
	}
	if len(*limits) > 0 {
		return errBothForms
	}
	made, list := make([]fullLimit, n), make([]*pb.LimitState, n)
	for i := range made {
		var s State
		var err error
		if values.Len() > 0 {
			err = values.Next(&s)
		} else { // those that other fields separate from the first
			err = e.state(&s, into.GetValues()[i-n+len(into.GetValues())])
		}
		if err != nil {
			return err
		}
		list[i] = made[i].fill(&s)
	}
	into.Values, *limits = nil, list
	return nil
}

// cut returns the first values of the result that follow each other, and what is before and
// after them.
func (e Encoded) cut() (before, after []byte, values Values) {
	from, to, count := len(e.Result), len(e.Result), 0
	for rest := e.Result; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return e.Result, nil, Values{}
		}
		m := protowire.ConsumeFieldValue(number, kind, rest[n:])
		if m < 0 {
			return e.Result, nil, Values{}
		}
		at := len(e.Result) - len(rest)
		if number == resultValues && kind == protowire.BytesType {
			if count++; count == 1 {
				from = at
			}
		} else if count > 0 {
			to = at
			break
		}
		rest = rest[n+m:]
	}
	before, after = e.Result[:from], e.Result[to:]
	e.Result = e.Result[from:to]
	return before, after, Values{e, count}
}

// limitsOf returns where the answer in r has its limits; nil if it has none.
func limitsOf(r *pb.Result) *[]*pb.LimitState {
	switch a := r.GetResult().(type) {
	case *pb.Result_Decision:
		return &a.Decision.Limits
	case *pb.Result_Settlement:
		return &a.Settlement.Limits
	case *pb.Result_Limits:
		return &a.Limits.Limits
	}
	return nil
}

// fullLimit is a pb.LimitState in one piece with what it points to.
type fullLimit struct {
	state           pb.LimitState
	reset           timestamppb.Timestamp
	window, maxWait durationpb.Duration
}

// fill makes the limit in memory that is zero.
func (f *fullLimit) fill(s *State) *pb.LimitState {
	p := &f.state
	p.Name, p.Dimension, p.Algorithm, p.Scope = s.Name, s.Dimension, s.Algorithm, s.Scope
	p.Limit, p.Capacity, p.Shadow, p.Hidden = s.Limit, s.Capacity, s.Shadow, s.Hidden
	p.Remaining, p.Debt, p.Cost, p.Headroom, p.Credit = s.Remaining, s.Debt, s.Cost, s.Headroom, s.Credit
	p.Exceeded, p.PerModel = s.Exceeded, s.PerModel
	if s.Reset != 0 {
		f.reset.Seconds, f.reset.Nanos = split(s.Reset)
		p.ResetAt = &f.reset
	}
	if s.Window != 0 {
		f.window.Seconds, f.window.Nanos = split(int64(s.Window))
		p.Window = &f.window
	}
	if s.MaxWait != 0 {
		f.maxWait.Seconds, f.maxWait.Nanos = split(int64(s.MaxWait))
		p.MaxWait = &f.maxWait
	}
	return p
}

// split turns nanoseconds into the form of protobuf.
func split(ns int64) (seconds int64, nanos int32) { return ns / 1e9, int32(ns % 1e9) }
