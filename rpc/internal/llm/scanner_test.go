// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestStringsMatchEncodingJSON: the scanner reads strings as encoding/json does, and the
// sizes of prompts and of generated text agree. The size of half a surrogate pair is
// not checked.
func TestStringsMatchEncodingJSON(t *testing.T) {
	parts := []string{`\b`, `\f`, `\n`, `\r`, `\t`, `\/`, `\\`, `\"`, `\u0041`, `\u00E4`, `\u20ac`, `\ud83d\uDE00`, "a", "ä", "€", "😀", " "}
	halves := []string{`\ud83d`, `\ude00`}
	rapid.Check(t, func(t *rapid.T) {
		whole := rapid.Bool().Draw(t, "whole pairs")
		from := parts
		if !whole {
			from = append(halves, parts...)
		}
		text := `"` + strings.Join(rapid.SliceOf(rapid.SampledFrom(from)).Draw(t, "text"), "") + `"`
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		var s scanner
		s.reset([]byte(text))
		at := s.text()
		if got := string(at.in(s.b)); s.failed() || got != want || at.end != len(text) {
			t.Fatalf("%s is %q, %s, want %q", text, got, s.problem, want)
		}
		if !whole {
			return
		}
		r, err := Parse(ChatCompletions, []byte(`{"messages":`+text+`}`))
		if err != nil || r.InputBytes != int64(len(want)) {
			t.Fatalf("a prompt %s is %v, %v, want %d bytes", text, r, err, len(want))
		}
		m := NewMeter(r, 200, "application/json")
		run(m, `{"choices":[{"text":`+text+`}]}`)
		if m.OutputBytes() != int64(len(want)) {
			t.Fatalf("generated text %s is %d bytes, want %d", text, m.OutputBytes(), len(want))
		}
	})
}

// TestNumbersMatchEncodingJSON compares the grammar of numbers.
func TestNumbersMatchEncodingJSON(t *testing.T) {
	alphabet := rapid.SampledFrom([]byte("00123456789.-+eE"))
	rapid.Check(t, func(t *rapid.T) {
		text := rapid.SliceOfN(alphabet, 1, 8).Draw(t, "text")
		if got, want := isNumber(text), json.Valid(text); got != want {
			t.Fatalf("%s is a number: %v, want %v", text, got, want)
		}
	})
}
