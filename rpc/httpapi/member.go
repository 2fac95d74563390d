// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strconv"
	"unicode/utf8"
)

// Members of a JSON object are appended to one that has been begun. Names stand for themselves.

// appendName appends the name of the next member.
func appendName(b []byte, name string) []byte {
	if b[len(b)-1] != '{' {
		b = append(b, ',')
	}
	b = append(append(b, '"'), name...)
	return append(b, '"', ':')
}

// appendMember appends a member that is a text.
func appendMember(b []byte, name, value string) []byte {
	return appendText(appendName(b, name), value)
}

// appendGiven is appendMember for a text that is left out if it is empty.
func appendGiven(b []byte, name, value string) []byte {
	if value == "" {
		return b
	}
	return appendMember(b, name, value)
}

func appendNumber(b []byte, name string, n int64) []byte {
	return strconv.AppendInt(appendName(b, name), n, 10)
}

// appendNonzero is appendNumber for a number that is left out if it is 0.
func appendNonzero(b []byte, name string, n int64) []byte {
	if n == 0 {
		return b
	}
	return appendNumber(b, name, n)
}

// appendTrue appends a flag that is left out if it is false.
func appendTrue(b []byte, name string, flag bool) []byte {
	if !flag {
		return b
	}
	return append(appendName(b, name), "true"...)
}

// appendText appends a text in quotes, as encoding/json does without escapes for HTML.
func appendText(b []byte, s string) []byte {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c == '"' || c == '\\' || c >= utf8.RuneSelf {
			return appendEscaped(b, s)
		}
	}
	b = append(append(b, '"'), s...)
	return append(b, '"')
}

// appendEscaped is appendText for unusual texts.
func appendEscaped(b []byte, s string) []byte {
	var escaped bytes.Buffer
	e := json.NewEncoder(&escaped)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		panic(fmt.Sprintf("a text cannot be encoded: %v", err)) // which has no error
	}
	return append(b, bytes.TrimSuffix(escaped.Bytes(), []byte{'\n'})...)
}
