// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/rpc/pb"
)

// Decoders of the answers to calls: a check or reserve, a settle or cancel, a peek.
var (
	Decisions = Decoder[pb.Decision, *pb.Decision]{
		field:  resultDecision,
		get:    (*pb.Result).GetDecision,
		limits: func(d *pb.Decision) *[]*pb.LimitState { return &d.Limits },
	}
	Settlements = Decoder[pb.Settlement, *pb.Settlement]{
		field:  resultSettlement,
		get:    (*pb.Result).GetSettlement,
		limits: func(s *pb.Settlement) *[]*pb.LimitState { return &s.Limits },
	}
	Peeks = Decoder[pb.PeekResponse, *pb.PeekResponse]{
		field:  resultLimits,
		get:    (*pb.Result).GetLimits,
		limits: func(p *pb.PeekResponse) *[]*pb.LimitState { return &p.Limits },
	}
)

// A Decoder decodes results that should have an answer of type M. It is safe for
// concurrent use.
type Decoder[M any, P answer[M]] struct {
	field  protowire.Number // of pb.Result
	get    func(*pb.Result) P
	limits func(P) *[]*pb.LimitState
	free   sync.Pool // of P, empty but for the memory of their limits
}

type answer[M any] interface {
	*M
	Reset()
	UnmarshalVTUnsafe(b []byte) error
}

// Bounds of an answer, far above what any key has. An empty limit is 2 bytes on the
// wire and 250 in memory.
const (
	maxAnswerBytes = 256 << 10
	maxLimits      = 1 << 12
	maxKeptLimits  = 64 // in the memory of an answer that is reused
)

var (
	errAnswerTooLarge = fmt.Errorf("answer: more than %d bytes", maxAnswerBytes)
	errTooManyLimits  = fmt.Errorf("answer: more than %d limits", maxLimits)
)

// Decode decodes a result. If it has no answer of type M, answer is nil and other is the
// result. An answer has its limits itself or, if it refers to definitions, in values.
//
// The texts of answer point into the result and may be invalid UTF-8. An absent
// timestamp or duration of a limit may be a zero one. The answer must not be used
// after Release.
func (d *Decoder[M, P]) Decode(e Encoded) (answer P, values Values, other *pb.Result, err error) {
	if len(e.Result) > maxAnswerBytes {
		return nil, Values{}, nil, errAnswerTooLarge
	}
	if body, values, ok := e.only(d.field); ok {
		answer, _ = d.free.Get().(P)
		if answer == nil {
			answer = new(M)
		}
		if err := answer.UnmarshalVTUnsafe(body); err == nil {
			limits := len(*d.limits(answer))
			switch {
			case limits+values.Len() > maxLimits:
				return nil, Values{}, nil, errTooManyLimits
			case limits > 0 && values.Len() > 0:
				return nil, Values{}, nil, errBothForms
			}
			return answer, values, nil, nil
		}
		// The generated code of vtprotobuf rejects more than it has to.
	}
	r := &pb.Result{}
	if err := e.Message(r); err != nil {
		return nil, Values{}, nil, err
	}
	if answer = d.get(r); answer == nil {
		return nil, Values{}, r, nil
	}
	if len(*d.limits(answer)) > maxLimits {
		return nil, Values{}, nil, errTooManyLimits
	}
	return answer, Values{}, nil, nil
}

// Release ends the use of answer.
func (d *Decoder[M, P]) Release(answer P) {
	limits := *d.limits(answer)
	if len(limits) > maxKeptLimits {
		return
	}
	for _, l := range limits {
		reset, window, maxWait := l.ResetAt, l.Window, l.MaxWait
		l.Reset()
		if reset != nil {
			reset.Reset()
		}
		if window != nil {
			window.Reset()
		}
		if maxWait != nil {
			maxWait.Reset()
		}
		l.ResetAt, l.Window, l.MaxWait = reset, window, maxWait
	}
	answer.Reset()
	*d.limits(answer) = limits[:0]
	d.free.Put(answer)
}

// only returns the message in a field of the result, and the values, if the result has the
// field once, all values after each other, and nothing else but a term.
func (e Encoded) only(field protowire.Number) (body []byte, values Values, ok bool) {
	from, to, count := 0, 0, 0
	for rest := e.Result; len(rest) > 0; {
		number, kind, n := protowire.ConsumeTag(rest)
		if n < 0 {
			return nil, Values{}, false
		}
		at, content, m := len(e.Result)-len(rest), rest[n:], 0
		switch {
		case number == resultValues && kind == protowire.BytesType && (count == 0 || to == at):
			if count++; count == 1 {
				from = at
			}
			_, m = protowire.ConsumeBytes(content)
			to = at + n + m
		case number == field && kind == protowire.BytesType && !ok:
			body, m = protowire.ConsumeBytes(content)
			ok = true
		case number == resultTerm && kind == protowire.VarintType:
			_, m = protowire.ConsumeVarint(content)
		default:
			return nil, Values{}, false
		}
		if m < 0 {
			return nil, Values{}, false
		}
		rest = content[m:]
	}
	e.Result = e.Result[from:to]
	return body, Values{e, count}, ok
}
