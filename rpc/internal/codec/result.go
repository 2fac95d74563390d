// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"fmt"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

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

// Decode decodes an encoded pb.Result. If it has no answer of type M, answer is nil
// and other is the result.
//
// The texts of answer point into result and may be invalid UTF-8. An absent
// timestamp or duration of a limit may be a zero one. The answer must not be used
// after Release.
func (d *Decoder[M, P]) Decode(result []byte) (answer P, other *pb.Result, err error) {
	if len(result) > maxAnswerBytes {
		return nil, nil, errAnswerTooLarge
	}
	if body, ok := only(result, d.field); ok {
		answer, _ = d.free.Get().(P)
		if answer == nil {
			answer = new(M)
		}
		if err := answer.UnmarshalVTUnsafe(body); err == nil {
			if len(*d.limits(answer)) > maxLimits {
				return nil, nil, errTooManyLimits
			}
			return answer, nil, nil
		}
		// The generated code of vtprotobuf rejects more than it has to.
	}
	r := &pb.Result{}
	if err := proto.Unmarshal(result, r); err != nil {
		return nil, nil, err
	}
	if answer = d.get(r); answer == nil {
		return nil, r, nil
	}
	if len(*d.limits(answer)) > maxLimits {
		return nil, nil, errTooManyLimits
	}
	return answer, nil, nil
}

// Release ends the use of answer.
func (d *Decoder[M, P]) Release(answer P) {
	limits := *d.limits(answer)
	if len(limits) > maxKeptLimits {
		return
	}
	for _, l := range limits {
		reset, window := l.ResetAt, l.Window
		l.Reset()
		if reset != nil {
			reset.Reset()
		}
		if window != nil {
			window.Reset()
		}
		l.ResetAt, l.Window = reset, window
	}
	answer.Reset()
	*d.limits(answer) = limits[:0]
	d.free.Put(answer)
}

// only returns the message in a field of an encoded pb.Result, if the result has it once
// and nothing else but a term.
func only(result []byte, field protowire.Number) (body []byte, ok bool) {
	for len(result) > 0 {
		number, kind, n := protowire.ConsumeTag(result)
		if n < 0 {
			return nil, false
		}
		result = result[n:]
		switch {
		case number == field && kind == protowire.BytesType && !ok:
			body, n = protowire.ConsumeBytes(result)
			ok = true
		case number == resultTerm && kind == protowire.VarintType:
			_, n = protowire.ConsumeVarint(result)
		default:
			return nil, false
		}
		if n < 0 {
			return nil, false
		}
		result = result[n:]
	}
	return body, ok
}
