// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/text"
	"github.com/bucketring/bucketring/rpc/internal/fields"
)

// tokens reads text that encoding/json found to be valid, so that it need not check it. That
// package's decoder makes several pieces of memory for each token.
type tokens struct{ rest []byte }

// token is a value as it was written, or the brace or bracket that begins or ends one.
type token []byte

// next returns the next token, of which there must be one. Commas and colons are none.
func (s *tokens) next() token {
	s.skip()
	n := 1
	switch c := s.rest[0]; {
	case c == '"':
		for ; s.rest[n] != '"'; n++ {
			if s.rest[n] == '\\' {
				n++
			}
		}
		n++
	case isDelimiter(c):
	default:
		for n < len(s.rest) && !isDelimiter(s.rest[n]) && !isSeparator(s.rest[n]) {
			n++
		}
	}
	t := s.rest[:n]
	s.rest = s.rest[n:]
	return t
}

// more reports whether the object that is being read has another member.
func (s *tokens) more() bool {
	s.skip()
	return s.rest[0] != '}'
}

func (s *tokens) skip() {
	for len(s.rest) > 0 && isSeparator(s.rest[0]) {
		s.rest = s.rest[1:]
	}
}

func isDelimiter(c byte) bool { return c == '{' || c == '}' || c == '[' || c == ']' }

func isSeparator(c byte) bool {
	return c == ' ' || c == '\n' || c == '\t' || c == '\r' || c == ',' || c == ':'
}

func (t token) isNull() bool { return t[0] == 'n' }

func (t token) isText() bool { return t[0] == '"' }

func (t token) isNumber() bool { return t[0] == '-' || t[0] >= '0' && t[0] <= '9' }

// plain returns a text as it was written, if it stands for itself.
func (t token) plain() (inner []byte, ok bool) {
	inner = t[1 : len(t)-1]
	return inner, bytes.IndexByte(inner, '\\') < 0 && utf8.Valid(inner)
}

// unquoted returns a text. What is not valid UTF-8 is U+FFFD in it.
func (t token) unquoted() string {
	if inner, ok := t.plain(); ok {
		return string(inner)
	}
	var s string
	if err := json.Unmarshal(t, &s); err != nil {
		panic(fmt.Sprintf("valid JSON has an invalid text: %v", err))
	}
	return s
}

// is reports whether a text is s.
func (t token) is(s string) bool {
	if inner, ok := t.plain(); ok {
		return string(inner) == s
	}
	return t.unquoted() == s
}

// String is how messages name a token.
func (t token) String() string {
	switch {
	case t.isText():
		return text.Quote(t.unquoted())
	case t[0] == '{':
		return "an object"
	case t[0] == '[':
		return "a list"
	case t.isNumber():
		return fields.Show(string(t))
	}
	return string(t)
}
