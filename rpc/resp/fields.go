// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"strings"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/internal/fields"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// field is a name that may be followed by a value, and where the value goes in a message M: one
// of the functions is set.
type field[M any] struct {
	name         string
	text         func(*M) *string
	number       func(*M) *int64
	optional     func(*M) **int64
	flag         func(*M) *bool
	optionalFlag func(*M) **bool
	costs        func(*M) *map[string]int64
	seconds      func(*M) **durationpb.Duration
	class        func(*M) *pb.Priority
}

// memory is what optional fields of a message point to.
type memory struct {
	numbers [maxOptional]int64
	flags   [2]bool
	seconds durationpb.Duration

	usedNumbers, usedFlags int
}

// maxOptional is the most optional numbers of a message: those of a settle.
const maxOptional = 7

// read reads pairs of names and values into m. Fields whose bit is in seen were given already.
func read[M any](known []field[M], m *M, x *memory, seen uint64, pairs []string) *problem {
	x.usedNumbers, x.usedFlags = 0, 0
	for i := 0; i < len(pairs); i += 2 {
		j := find(known, pairs[i])
		if j < 0 {
			return unknownField(known, pairs[i])
		}
		f := &known[j]
		if seen&(1<<j) != 0 {
			return invalid(f.name, fields.Twice)
		}
		seen |= 1 << j
		if i+1 == len(pairs) {
			return invalid(f.name, "must be followed by a value")
		}
		if p := f.read(m, x, pairs[i+1]); p != nil {
			return p
		}
	}
	return nil
}

// find returns the index of the field with a name, in any case, or -1.
func find[M any](known []field[M], name string) int {
	for j := range known {
		if len(known[j].name) == len(name) && strings.EqualFold(known[j].name, name) {
			return j
		}
	}
	return -1
}

func unknownField[M any](known []field[M], name string) *problem {
	names := make([]string, len(known))
	for j := range known {
		names[j] = known[j].name
	}
	return &problem{code: codeERR, message: text.Quote(name) + ": unknown field" + nearest.Hint(name, names), why: server.UnknownField}
}

// read reads the value of the field.
func (f *field[M]) read(m *M, x *memory, value string) *problem {
	switch {
	case f.text != nil:
		*f.text(m) = value
	case f.number != nil:
		return f.whole(value, f.number(m))
	case f.optional != nil:
		n := &x.numbers[x.usedNumbers]
		x.usedNumbers++
		*f.optional(m) = n
		return f.whole(value, n)
	case f.flag != nil:
		return f.truth(value, f.flag(m))
	case f.optionalFlag != nil:
		b := &x.flags[x.usedFlags]
		x.usedFlags++
		*f.optionalFlag(m) = b
		return f.truth(value, b)
	case f.costs != nil:
		return f.readCosts(value, f.costs(m))
	case f.seconds != nil:
		if !fields.IsNumber(value) {
			return f.wrong(fields.NotNumber, text.Quote(value))
		}
		d, problem := fields.Seconds(value)
		if problem != "" {
			return f.wrong(problem, fields.Show(value))
		}
		x.seconds.Seconds, x.seconds.Nanos = int64(d/time.Second), int32(d%time.Second)
		*f.seconds(m) = &x.seconds
	default:
		p, problem := fields.Class(value)
		if problem != "" {
			return f.wrong(problem, text.Quote(value))
		}
		*f.class(m) = p
	}
	return nil
}

func (f *field[M]) wrong(problem, value string) *problem {
	return invalid(f.name, problem+", got "+value)
}

func (f *field[M]) whole(value string, to *int64) *problem { return whole(f.name, value, to) }

// whole reads a whole number from 0 to 2^53.
func whole(name, value string, to *int64) *problem {
	if !fields.IsNumber(value) {
		return invalid(name, fields.NotNumber+", got "+text.Quote(value))
	}
	n, problem := fields.Whole(value)
	if problem != "" {
		return invalid(name, problem+", got "+fields.Show(value))
	}
	*to = n
	return nil
}

func (f *field[M]) truth(value string, to *bool) *problem {
	switch {
	case value == "1", strings.EqualFold(value, "true"):
		*to = true
	case value == "0", strings.EqualFold(value, "false"):
		*to = false
	default:
		return f.wrong("must be 1, 0, true or false", text.Quote(value))
	}
	return nil
}

// readCosts reads costs: images=2,videos=1.
func (f *field[M]) readCosts(value string, to *map[string]int64) *problem {
	costs := map[string]int64{}
	if value == "" {
		return f.wrong("must be in the form images=2,videos=1", text.Quote(value))
	}
	for one := range strings.SplitSeq(value, ",") {
		name, amount, ok := strings.Cut(one, "=")
		if !ok || name == "" {
			return f.wrong("must be in the form images=2,videos=1", text.Quote(one))
		}
		full := f.name + "." + name
		if len(name) > text.MaxShown {
			full = f.name + "." + text.Quote(name)
		}
		if _, ok := costs[name]; ok {
			return invalid(full, fields.Twice)
		}
		if len(costs) == fields.MaxNumbers {
			return invalid(f.name, "has too many members")
		}
		var n int64
		if p := whole(full, amount, &n); p != nil {
			return p
		}
		costs[name] = n
	}
	*to = costs
	return nil
}
