// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/internal/fields"
	"github.com/bucketring/bucketring/rpc/pb"
	"github.com/bucketring/bucketring/rpc/server"
)

// field is a member that an object may have, and where its value is stored: a
// *string, *int64, **int64, **bool, *map[string]int64, *pb.Priority for the name of a class, or
// **durationpb.Duration for seconds, which may be null.
type field struct {
	name string
	to   any
}

// readObject reads body, which must be one JSON object, into the known fields. Other members
// and repeated ones are errors.
func readObject(body []byte, known []field) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return becauseOf(server.BadMessage, "body", "must be a JSON object, got nothing")
	}
	if !json.Valid(body) {
		return becauseOf(server.BadMessage, "body", "must be valid JSON: "+syntaxProblem(body))
	}
	d := tokens{body}
	if t := d.next(); t[0] != '{' {
		return becauseOf(server.BadMessage, "body", "must be a JSON object, got "+t.String())
	}
	var seen uint64 // bit i: known[i]; there are fewer than 64
	for d.more() {
		t := d.next()
		i := slices.IndexFunc(known, func(f field) bool { return t.is(f.name) })
		if i < 0 {
			return unknown(t.unquoted(), names(known))
		}
		if seen&(1<<i) != 0 {
			return invalid(known[i].name, fields.Twice)
		}
		seen |= 1 << i
		if err := known[i].read(&d); err != nil {
			return err
		}
	}
	return nil
}

func syntaxProblem(body []byte) string {
	err := json.Unmarshal(body, new(json.RawMessage))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("%v at byte %d", err, syntax.Offset)
	}
	return err.Error()
}

func indexOf(known []field, name string) int {
	return slices.IndexFunc(known, func(f field) bool { return f.name == name })
}

func names(fields []field) []string {
	list := make([]string, len(fields))
	for i := range fields {
		list[i] = fields[i].name
	}
	return list
}

func unknown(name string, known []string) error {
	problem := "unknown field" + nearest.Hint(name, known)
	p := becauseOf(server.UnknownField, name, problem)
	if len(name) > text.MaxShown || !utf8.ValidString(name) || name == "" {
		p.Field = text.Quote(name)
		p.Message = p.Field + ": " + problem
	}
	return p
}

// read reads the field's value from d.
func (f *field) read(d *tokens) error {
	t := d.next()
	if t.isNull() {
		if _, ok := f.to.(**durationpb.Duration); ok {
			return nil
		}
		return invalid(f.name, "must not be null: leave the field out")
	}
	switch to := f.to.(type) {
	case *string:
		return readText(f.name, t, to)
	case *int64:
		return readNumber(f.name, t, to)
	case **int64:
		*to = new(int64)
		return readNumber(f.name, t, *to)
	case *bool:
		return readBool(f.name, t, to)
	case **bool:
		*to = new(bool)
		return readBool(f.name, t, *to)
	case **durationpb.Duration:
		return readSeconds(f.name, t, to)
	case *pb.Priority:
		return readClass(f.name, t, to)
	case *map[string]int64:
		if t[0] != '{' {
			return invalid(f.name, "must be an object of numbers, got "+t.String())
		}
		return readNumbers(f.name, d, to)
	default:
		panic(fmt.Sprintf("field %s goes to a %T", f.name, f.to))
	}
}

// readText reads a string.
func readText(name string, t token, to *string) error {
	if !t.isText() {
		return invalid(name, "must be a string, got "+t.String())
	}
	return takeText(name, t.unquoted(), to)
}

// takeText rejects U+FFFD, which encoding/json puts in place of invalid UTF-8: two different
// keys must not become one.
func takeText(name, s string, to *string) error {
	if strings.ContainsRune(s, utf8.RuneError) {
		return invalid(name, "must be valid UTF-8, got "+text.Quote(s))
	}
	*to = s
	return nil
}

func readBool(name string, t token, to *bool) error {
	if t[0] != 't' && t[0] != 'f' {
		return invalid(name, "must be true or false, got "+t.String())
	}
	*to = t[0] == 't'
	return nil
}

func readNumber(name string, t token, to *int64) error {
	if !t.isNumber() {
		return invalid(name, fields.NotNumber+", got "+t.String())
	}
	n, problem := fields.Whole(string(t))
	if problem != "" {
		return invalid(name, problem+", got "+t.String())
	}
	*to = n
	return nil
}

// readSeconds reads a number of seconds up to the longest that a call may wait. It need not
// be whole.
func readSeconds(name string, t token, to **durationpb.Duration) error {
	if !t.isNumber() {
		return invalid(name, fields.NotNumber+", got "+t.String())
	}
	d, problem := fields.Seconds(string(t))
	if problem != "" {
		return invalid(name, problem+", got "+t.String())
	}
	*to = durationpb.New(d)
	return nil
}

// readClass reads the name of a class.
func readClass(name string, t token, to *pb.Priority) error {
	var class string
	if err := readText(name, t, &class); err != nil {
		return err
	}
	p, problem := fields.Class(class)
	if problem != "" {
		return invalid(name, problem+", got "+t.String())
	}
	*to = p
	return nil
}

// readNumbers reads the rest of an object of numbers.
func readNumbers(name string, d *tokens, to *map[string]int64) error {
	numbers := map[string]int64{}
	for d.more() {
		if len(numbers) == fields.MaxNumbers {
			return invalid(name, "has too many members")
		}
		var member string
		if err := readText(name, d.next(), &member); err != nil {
			return err
		}
		full := name + "." + member
		if len(member) > text.MaxShown {
			full = name + "." + text.Quote(member)
		}
		if _, ok := numbers[member]; ok {
			return invalid(full, fields.Twice)
		}
		t := d.next()
		if t.isNull() {
			return invalid(full, "must not be null: leave it out")
		}
		var n int64
		if err := readNumber(full, t, &n); err != nil {
			return err
		}
		numbers[member] = n
	}
	d.next() // the closing brace
	*to = numbers
	return nil
}
