// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"errors"
	"fmt"
	"slices"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/rpc/pb"
)

// AppendResult appends r to the encoded results of a pb.Answers. An error whose text
// is not valid UTF-8 is left out: no receiver could decode it.
func AppendResult(answers []byte, r *pb.Result) []byte {
	return appendResult(answers, answersResults, r)
}

// AppendBatchResult is AppendResult for a pb.BatchResponse.
func AppendBatchResult(response []byte, r *pb.Result) []byte {
	return appendResult(response, batchResults, r)
}

func appendResult(to []byte, field protowire.Number, r *pb.Result) []byte {
	if e := r.GetError(); e != nil && (!utf8.ValidString(e.GetMessage()) || !utf8.ValidString(e.GetField())) {
		r = &pb.Result{Term: r.GetTerm()}
	}
	n := r.SizeVT()
	to = protowire.AppendTag(to, field, protowire.BytesType)
	to = protowire.AppendVarint(to, uint64(n))
	return appendSized(to, r, n)
}

// AppendAnswer appends an encoded answer: a decision, a settlement or the limits of a peek.
func AppendAnswer(to []byte, m Marshaler) []byte { return appendSized(to, m, m.SizeVT()) }

// Marshaler is a message with the faster code of vtprotobuf.
type Marshaler interface {
	SizeVT() int
	MarshalToSizedBufferVT(to []byte) (int, error)
}

func appendSized(to []byte, m Marshaler, n int) []byte {
	to = slices.Grow(to, n)
	end := len(to) + n
	if _, err := m.MarshalToSizedBufferVT(to[len(to):end]); err != nil {
		panic(err) // no message of ours has a field that can fail
	}
	return to[:end]
}

// MaxResults is far above the items of any batch.
const MaxResults = 1 << 16

// ErrTooManyResults is the error of Parse for more than MaxResults.
var ErrTooManyResults = fmt.Errorf("answers: more than %d results", MaxResults)

// Answers are the parts of an encoded pb.Answers, which they point into. They are still
// encoded, and not validated.
type Answers struct {
	Sequence    uint64
	Results     [][]byte
	Definitions [][]byte
}

// Parse sets a from an encoded pb.Answers. It uses the memory of the lists of a.
func (a *Answers) Parse(b []byte) error {
	a.Sequence, a.Results, a.Definitions = 0, a.Results[:0], a.Definitions[:0]
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
		var part []byte
		switch {
		case number == answersSequence && kind == protowire.VarintType:
			a.Sequence, n = protowire.ConsumeVarint(b)
		case number == answersResults && kind == protowire.BytesType:
			if part, n = protowire.ConsumeBytes(b); n >= 0 {
				if len(a.Results) == MaxResults {
					return ErrTooManyResults
				}
				a.Results = append(a.Results, part)
			}
		case number == answersDefinitions && kind == protowire.BytesType:
			if part, n = protowire.ConsumeBytes(b); n >= 0 {
				if len(a.Definitions) == MaxDefinitions {
					return errTooManyDefinitions
				}
				a.Definitions = append(a.Definitions, part)
			}
		default:
			n = protowire.ConsumeFieldValue(number, kind, b)
		}
		if n < 0 {
			return malformed(n)
		}
		b = b[n:]
	}
	return nil
}

// ErrNoAnswers is the error of PeerAnswers for another message.
var ErrNoAnswers = errors.New("a message between members has no answers, or more than one")

// PeerAnswers returns the encoded pb.Answers in an encoded pb.PeerAnswer. It points into
// m.
func PeerAnswers(m []byte) (answers []byte, err error) {
	found := false
	for len(m) > 0 {
		number, kind, n := protowire.ConsumeField(m)
		if n < 0 {
			return nil, fmt.Errorf("a message between members: %w", protowire.ParseError(n))
		}
		if number == peerAnswers && kind == protowire.BytesType {
			if found {
				return nil, ErrNoAnswers
			}
			_, _, tag := protowire.ConsumeTag(m)
			answers, _ = protowire.ConsumeBytes(m[tag:n])
			found = true
		}
		m = m[n:]
	}
	if !found {
		return nil, ErrNoAnswers
	}
	return answers, nil
}

func malformed(n int) error { return fmt.Errorf("answers: %w", protowire.ParseError(n)) }

// IsOverloaded reports whether an encoded pb.Result is the refusal of a call because the
// member is overloaded. It costs next to nothing for results that are answers.
func IsOverloaded(result []byte) bool {
	for len(result) > 0 {
		number, kind, n := protowire.ConsumeTag(result)
		if n < 0 {
			return false
		}
		result = result[n:]
		switch {
		case number == resultTerm && kind == protowire.VarintType:
			_, n = protowire.ConsumeVarint(result)
		case number == resultError && kind == protowire.BytesType:
			encoded, n := protowire.ConsumeBytes(result)
			return n >= 0 && hasRetryAfter(encoded)
		default:
			return false // a result has one field beside its term
		}
		if n < 0 {
			return false
		}
		result = result[n:]
	}
	return false
}

// hasRetryAfter reports whether an encoded pb.Error says when to retry.
func hasRetryAfter(encoded []byte) bool {
	for len(encoded) > 0 {
		number, _, n := protowire.ConsumeField(encoded)
		if n < 0 {
			return false
		}
		if number == errorRetryAfter {
			return true
		}
		encoded = encoded[n:]
	}
	return false
}
