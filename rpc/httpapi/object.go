// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/nearest"
	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/server"
)

// field is a member that an object may have, and where its value is stored: a
// *string, *int64, **int64, **bool or *map[string]int64.
type field struct {
	name string
	to   any
}

// readObject reads body, which must be one JSON object, into fields. Other members
// and repeated ones are errors.
func readObject(body []byte, fields []field) error {
	if len(bytes.TrimSpace(body)) == 0 {
		return becauseOf(server.BadMessage, "body", "must be a JSON object, got nothing")
	}
	if !json.Valid(body) {
		return becauseOf(server.BadMessage, "body", "must be valid JSON: "+syntaxProblem(body))
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	if t := next(d); t != json.Delim('{') {
		return becauseOf(server.BadMessage, "body", "must be a JSON object, got "+describe(t))
	}
	var seen uint64 // bit i: fields[i]; there are fewer than 64
	for d.More() {
		name := next(d).(string)
		i := indexOf(fields, name)
		if i < 0 {
			return unknown(name, names(fields))
		}
		if seen&(1<<i) != 0 {
			return invalid(name, "is given twice")
		}
		seen |= 1 << i
		if err := fields[i].read(d); err != nil {
			return err
		}
	}
	return nil
}

// next returns the next token. The text must be valid JSON.
func next(d *json.Decoder) json.Token {
	t, err := d.Token()
	if err != nil {
		panic(fmt.Sprintf("valid JSON has no next token: %v", err))
	}
	return t
}

func syntaxProblem(body []byte) string {
	err := json.Unmarshal(body, new(json.RawMessage))
	if syntax, ok := errors.AsType[*json.SyntaxError](err); ok {
		return fmt.Sprintf("%v at byte %d", err, syntax.Offset)
	}
	return err.Error()
}

func indexOf(fields []field, name string) int {
	for i := range fields {
		if fields[i].name == name {
			return i
		}
	}
	return -1
}

func names(fields []field) []string {
	list := make([]string, len(fields))
	for i := range fields {
		list[i] = fields[i].name
	}
	return list
}

func unknown(name string, known []string) error {
	hint := didYouMean(name, known)
	if hint == "" {
		hint = "; known are " + strings.Join(known, ", ")
	}
	p := becauseOf(server.UnknownField, name, "unknown field"+hint)
	if len(name) > text.MaxShown || !utf8.ValidString(name) || name == "" {
		p.Field = text.Quote(name)
		p.Message = p.Field + ": unknown field" + hint
	}
	return p
}

// didYouMean names the candidate that name is probably a misspelling of.
func didYouMean(name string, candidates []string) string {
	if near := nearest.Word(name, candidates); near != "" {
		return "; did you mean " + near + "?"
	}
	return ""
}

// read reads the field's value from d.
func (f *field) read(d *json.Decoder) error {
	t := next(d)
	if t == nil {
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
	case *map[string]int64:
		if t != json.Delim('{') {
			return invalid(f.name, "must be an object of numbers, got "+describe(t))
		}
		return readNumbers(f.name, d, to)
	default:
		panic(fmt.Sprintf("field %s goes to a %T", f.name, f.to))
	}
}

// readText reads a string. It rejects U+FFFD, which encoding/json puts in place of
// invalid UTF-8: two different keys must not become one.
func readText(name string, t json.Token, to *string) error {
	s, ok := t.(string)
	if !ok {
		return invalid(name, "must be a string, got "+describe(t))
	}
	if strings.ContainsRune(s, utf8.RuneError) {
		return invalid(name, "must be valid UTF-8, got "+text.Quote(s))
	}
	*to = s
	return nil
}

func readBool(name string, t json.Token, to *bool) error {
	b, ok := t.(bool)
	if !ok {
		return invalid(name, "must be true or false, got "+describe(t))
	}
	*to = b
	return nil
}

func readNumber(name string, t json.Token, to *int64) error {
	number, ok := t.(json.Number)
	if !ok {
		return invalid(name, "must be a number, got "+describe(t))
	}
	n, problem := parseWhole(string(number))
	if problem != "" {
		return invalid(name, problem+", got "+describe(t))
	}
	*to = n
	return nil
}

// maxNumbers bounds the memory of an object of numbers, of which the service takes fewer.
const maxNumbers = 256

// readNumbers reads the rest of an object of numbers.
func readNumbers(name string, d *json.Decoder, to *map[string]int64) error {
	numbers := map[string]int64{}
	for d.More() {
		if len(numbers) == maxNumbers {
			return invalid(name, "has too many members")
		}
		var member string
		if err := readText(name, next(d), &member); err != nil {
			return err
		}
		full := name + "." + member
		if len(member) > text.MaxShown {
			full = name + "." + text.Quote(member)
		}
		if _, ok := numbers[member]; ok {
			return invalid(full, "is given twice")
		}
		t := next(d)
		if t == nil {
			return invalid(full, "must not be null: leave it out")
		}
		var n int64
		if err := readNumber(full, t, &n); err != nil {
			return err
		}
		numbers[member] = n
	}
	next(d) // the closing brace
	*to = numbers
	return nil
}

// parseWhole parses a JSON number that is a whole number from 0 to 2^53, in any
// notation: 1000, 1e3 and 1000.0 are the same.
func parseWhole(number string) (n int64, problem string) {
	const tooLarge = "must be at most " + amount.MaxText
	if number[0] == '-' {
		return 0, "must not be negative"
	}
	mantissa, exponent := number, 0
	if i := strings.IndexAny(number, "eE"); i >= 0 {
		const limit = math.MaxInt32 // Atoi returns the bound of an int if it overflows
		e, _ := strconv.Atoi(number[i+1:])
		mantissa, exponent = number[:i], max(-limit, min(e, limit))
	}
	integer, fraction, _ := strings.Cut(mantissa, ".")
	digits := strings.TrimLeft(integer+fraction, "0")
	significant := strings.TrimRight(digits, "0")
	exponent += len(digits) - len(significant) - len(fraction)
	switch {
	case significant == "":
		return 0, ""
	case exponent < 0:
		return 0, "must be a whole number"
	case len(significant)+exponent > 16: // 2^53 has 16 digits
		return 0, tooLarge
	}
	n, err := strconv.ParseInt(significant+strings.Repeat("0", exponent), 10, 64)
	if err != nil || n > amount.Max {
		return 0, tooLarge
	}
	return n, ""
}

// describe names a token in a message.
func describe(t json.Token) string {
	switch t := t.(type) {
	case nil:
		return "null"
	case string:
		return text.Quote(t)
	case json.Number:
		if len(t) > text.MaxShown {
			return fmt.Sprintf("%s... (%d digits)", t[:text.MaxShown], len(t))
		}
		return string(t)
	case json.Delim:
		if t == '{' {
			return "an object"
		}
		return "a list"
	default:
		return fmt.Sprint(t)
	}
}
