// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"fmt"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

const (
	// maxDepth is how deep objects and lists may nest.
	maxDepth = 128
	// maxMembers is how many members an object may have. Their names are kept while
	// it is read.
	maxMembers = 1 << 16
)

// scanner reads JSON text value by value. encoding/json does not offer this in one
// package: offsets of values, so that a rewritten body keeps all other bytes;
// detection of repeated names at every depth; the path of an invalid value; and no
// allocation per text, since each event of a stream is one.
//
// The first problem is kept. After it every method does nothing, so that callers
// check failed once at the end. After member and element the caller must read or
// skip the value.
type scanner struct {
	b      []byte
	i      int
	frames []frame
	names  [][]byte // of all open objects, in order

	problem string // "": none
	field   string // path of the invalid value; "": the text as a whole
}

// frame is an open object or list.
type frame struct {
	object bool
	began  bool                // at or past the first member or element
	name   []byte              // of the current member
	index  int                 // of the current element
	names  int                 // index of its first name in scanner.names
	set    map[string]struct{} // its names, if there are many
}

// span is the position of a string in the text, quotes included.
type span struct {
	start, end int
	size       int // bytes when unescaped
	escaped    bool
}

func (s *scanner) reset(b []byte) {
	*s = scanner{b: b, frames: s.frames[:0], names: s.names[:0]}
}

func (s *scanner) failed() bool { return s.problem != "" }

// fail records a problem of the current value.
func (s *scanner) fail(problem string) {
	if s.failed() {
		return
	}
	s.problem, s.field = problem, s.path()
}

// syntaxError records that the text is not JSON.
func (s *scanner) syntaxError(problem string) {
	if s.failed() {
		return
	}
	s.problem = "must be valid JSON: " + problem + " at byte " + strconv.Itoa(s.i)
}

// path is the path of the current value: messages[2].content.
func (s *scanner) path() string {
	var path []byte
	for _, f := range s.frames {
		switch {
		case !f.object:
			path = fmt.Appendf(path, "[%d]", f.index)
		case len(path) > 0:
			path = append(append(path, '.'), pathName(f.name)...)
		default:
			path = append(path, pathName(f.name)...)
		}
	}
	return string(path)
}

// peek skips white space and returns the first byte of the next value, or 0 at the
// end of the text.
func (s *scanner) peek() byte {
	for s.i < len(s.b) {
		switch s.b[s.i] {
		case ' ', '\t', '\n', '\r':
			s.i++
		default:
			return s.b[s.i]
		}
	}
	return 0
}

// enter begins an object or a list.
func (s *scanner) enter(open byte) {
	if s.failed() {
		return
	}
	if s.peek() != open {
		s.syntaxError("want " + strconv.QuoteRune(rune(open)))
		return
	}
	if len(s.frames) == maxDepth {
		s.fail("is nested more than " + strconv.Itoa(maxDepth) + " deep")
		return
	}
	s.i++
	s.frames = append(s.frames, frame{object: open == '{', index: -1, names: len(s.names)})
}

// member moves to the next member of the object, whose name is name. It returns
// false at the end of the object.
func (s *scanner) member() bool {
	if !s.next('}') {
		return false
	}
	if s.peek() != '"' {
		s.syntaxError("want a name")
		return false
	}
	at := s.text()
	if s.failed() {
		return false
	}
	name := s.b[at.start+1 : at.end-1]
	if at.escaped {
		name = unescape(name)
	}
	f := &s.frames[len(s.frames)-1]
	f.name = name
	if len(f.set) == maxMembers {
		s.fail("is one too many: an object may have " + strconv.Itoa(maxMembers) + " members")
		return false
	}
	if !s.addName(f, name) {
		s.fail("is given twice")
		return false
	}
	if s.peek() != ':' {
		s.syntaxError("want ':'")
		return false
	}
	s.i++
	return true
}

// maxLinearNames is how many names of an object are compared one by one.
const maxLinearNames = 24

// addName records a name. It is false if the object already has it.
func (s *scanner) addName(f *frame, name []byte) bool {
	mine := s.names[f.names:]
	if len(mine) < maxLinearNames {
		for _, n := range mine {
			if bytes.Equal(n, name) {
				return false
			}
		}
		s.names = append(s.names, name)
		return true
	}
	if f.set == nil {
		f.set = make(map[string]struct{}, 2*maxLinearNames)
		for _, n := range mine {
			f.set[string(n)] = struct{}{}
		}
	}
	if _, ok := f.set[string(name)]; ok {
		return false
	}
	f.set[string(name)] = struct{}{}
	return true
}

// name is the name of the current member, unescaped.
func (s *scanner) name() []byte { return s.frames[len(s.frames)-1].name }

// element moves to the next element of the list. It returns false at the end of the
// list.
func (s *scanner) element() bool {
	if !s.next(']') {
		return false
	}
	s.frames[len(s.frames)-1].index++
	return true
}

// next moves to the next member or element, or past the end of the object or list.
func (s *scanner) next(end byte) bool {
	if s.failed() {
		return false
	}
	f := &s.frames[len(s.frames)-1]
	switch c := s.peek(); {
	case c == end:
		s.i++
		s.names = s.names[:f.names]
		s.frames = s.frames[:len(s.frames)-1]
		return false
	case !f.began:
		f.began = true
	case c == ',':
		s.i++
		if s.peek() == end {
			s.syntaxError("want no comma before " + strconv.QuoteRune(rune(end)))
			return false
		}
	default:
		s.syntaxError("want ',' or " + strconv.QuoteRune(rune(end)))
		return false
	}
	return true
}

// text reads a string.
func (s *scanner) text() span {
	at := span{start: s.i, end: s.i}
	if s.failed() {
		return at
	}
	if s.peek() != '"' {
		s.syntaxError("want a string")
		return at
	}
	at.start = s.i
	for i := s.i + 1; i < len(s.b); i++ {
		from := i
		for i < len(s.b) && s.b[i] >= ' ' && s.b[i] != '"' && s.b[i] != '\\' {
			i++
		}
		at.size += i - from
		if i == len(s.b) {
			break
		}
		switch s.b[i] {
		case '"':
			s.i, at.end = i+1, i+1
			return at
		case '\\':
			n, size := escape(s.b[i:])
			if n == 0 {
				s.i = i
				s.syntaxError("a wrong escape in a string")
				return at
			}
			at.escaped = true
			at.size += size
			i += n - 1
		default:
			s.i = i
			s.syntaxError("a control character in a string")
			return at
		}
	}
	s.i = len(s.b)
	s.syntaxError("a string without end")
	return at
}

// escape returns the length of the escape at the start of b, 0 if it is invalid, and
// the size of its character in UTF-8. Half a surrogate pair counts as two bytes.
func escape(b []byte) (n, size int) {
	if len(b) < 2 {
		return 0, 0
	}
	switch b[1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		return 2, 1
	case 'u':
		if r, ok := hex4(b[2:]); ok {
			return 6, sizeOf(r)
		}
	}
	return 0, 0
}

// sizeOf is the size in UTF-8 of the UTF-16 code unit r.
func sizeOf(r rune) int {
	switch {
	case r < 0x80:
		return 1
	case r < 0x800, utf16.IsSurrogate(r):
		return 2
	}
	return 3
}

func hex4(b []byte) (rune, bool) {
	if len(b) < 4 {
		return 0, false
	}
	var r rune
	for _, c := range b[:4] {
		d, ok := hexDigit(c)
		if !ok {
			return 0, false
		}
		r = r<<4 | d
	}
	return r, true
}

func hexDigit(c byte) (rune, bool) {
	switch {
	case c >= '0' && c <= '9':
		return rune(c - '0'), true
	case c >= 'a' && c <= 'f':
		return rune(c-'a') + 10, true
	case c >= 'A' && c <= 'F':
		return rune(c-'A') + 10, true
	}
	return 0, false
}

// unescape unescapes the inside of a valid string. Half a surrogate pair becomes
// U+FFFD.
func unescape(b []byte) []byte {
	out := make([]byte, 0, len(b))
	for i := 0; i < len(b); i++ {
		if b[i] != '\\' {
			out = append(out, b[i])
			continue
		}
		i++
		switch b[i] {
		case 'b':
			out = append(out, '\b')
		case 'f':
			out = append(out, '\f')
		case 'n':
			out = append(out, '\n')
		case 'r':
			out = append(out, '\r')
		case 't':
			out = append(out, '\t')
		case 'u':
			r, _ := hex4(b[i+1:])
			i += 4
			if utf16.IsSurrogate(r) {
				high := r
				r = utf8.RuneError
				if i+2 < len(b) && b[i+1] == '\\' && b[i+2] == 'u' {
					low, _ := hex4(b[i+3:])
					if pair := utf16.DecodeRune(high, low); pair != utf8.RuneError {
						r = pair
						i += 6
					}
				}
			}
			out = utf8.AppendRune(out, r)
		default:
			out = append(out, b[i])
		}
	}
	return out
}

// scalar reads a number, true, false or null, and returns its text.
func (s *scanner) scalar() []byte {
	if s.failed() {
		return nil
	}
	s.peek()
	start := s.i
	for s.i < len(s.b) && isScalarByte(s.b[s.i]) {
		s.i++
	}
	word := s.b[start:s.i]
	switch string(word) {
	case "true", "false", "null":
		return word
	}
	if !isNumber(word) {
		s.i = start
		s.syntaxError("want a value")
		return nil
	}
	return word
}

// isScalarByte reports whether c may be part of a number or a literal.
func isScalarByte(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c == '-' || c == '+' || c == '.'
}

// isNumber reports whether b is a JSON number.
func isNumber(b []byte) bool {
	b = bytes.TrimPrefix(b, []byte("-"))
	integer := countDigits(b)
	if integer == 0 || integer > 1 && b[0] == '0' {
		return false
	}
	b = b[integer:]
	if len(b) > 0 && b[0] == '.' {
		fraction := countDigits(b[1:])
		if fraction == 0 {
			return false
		}
		b = b[1+fraction:]
	}
	if len(b) > 0 && (b[0] == 'e' || b[0] == 'E') {
		b = b[1:]
		if len(b) > 0 && (b[0] == '+' || b[0] == '-') {
			b = b[1:]
		}
		exponent := countDigits(b)
		if exponent == 0 {
			return false
		}
		b = b[exponent:]
	}
	return len(b) == 0
}

// countDigits is the number of digits at the start of b.
func countDigits(b []byte) int {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n
}

// skip reads a value of any type.
func (s *scanner) skip() {
	if s.failed() {
		return
	}
	switch s.peek() {
	case '{':
		for s.enter('{'); s.member(); {
			s.skip()
		}
	case '[':
		for s.enter('['); s.element(); {
			s.skip()
		}
	case '"':
		s.text()
	default:
		s.scalar()
	}
}
