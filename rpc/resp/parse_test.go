// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// TestParsingIsWriting: commands arrive as they were sent, however they are cut, and nothing is
// taken of an incomplete one.
func TestParsingIsWriting(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		sent := rapid.SliceOfN(rapid.SliceOfN(rapid.StringN(0, 40, 2000), 1, 40), 1, 4).Draw(t, "commands")
		var text []byte
		for _, args := range sent {
			text = fmt.Appendf(text, "*%d\r\n", len(args))
			for _, a := range args {
				text = fmt.Appendf(text, "$%d\r\n%s\r\n", len(a), a)
			}
		}
		at, have := 0, rapid.IntRange(0, len(text)).Draw(t, "first read")
		var got [][]string
		for at < len(text) {
			n, args, err := next(text[at:have], nil)
			switch {
			case err != nil:
				t.Fatalf("next(%q) = %v", text[at:have], err)
			case n > 0:
				got, at = append(got, args), at+n
			case have == len(text):
				t.Fatalf("all is there, and a command is incomplete: %q", text[at:])
			default:
				have = min(have+rapid.IntRange(1, 500).Draw(t, "read"), len(text))
			}
		}
		if !slices.EqualFunc(got, sent, slices.Equal) {
			t.Fatalf("got %q, want %q", got, sent)
		}
	})
}

// FuzzParse: no input makes the parser panic, take more than there is, or keep the memory of
// the buffer, and an incomplete command grows to maxCommand only.
func FuzzParse(f *testing.F) {
	for _, s := range []string{
		"", "*", "*1", "*1\r", "*1\r\n", "*-1\r\n", "*0\r\n", "*1\r\n$", "*1\r\n$-2\r\n", "*2\r\n$1\r\na\r\n$0\r\n\r\n", "PING\r\n", "echo \"a b\" 'c'\r\n", "\n", "$1 a\r\n",
		"*9223372036854775807\r\n", "*1\r\n$9223372036854775807\r\n", "*1\r\n$00000000001\r\na\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		n, args, err := next(b, nil)
		if n < 0 || n > len(b) || err != nil && n != 0 || n == 0 && len(args) > 0 && err == nil {
			t.Fatalf("next(%q) = %d, %q, %v", b, n, args, err)
		}
		if n == 0 && err == nil && len(b) > maxCommand {
			t.Fatalf("%d bytes are an incomplete command", len(b))
		}
		before := strings.Join(args, "\x00")
		for i := range b {
			b[i] = 'x'
		}
		if after := strings.Join(args, "\x00"); after != before {
			t.Fatalf("the arguments change with the buffer: %q, before %q", after, before)
		}
	})
}

// FuzzArguments: no arguments make a command panic, and each is a call or an error.
func FuzzArguments(f *testing.F) {
	f.Add("a tier free input_tokens 5")
	f.Add("a r output_tokens 5 final 0 costs a=1,b=2")
	f.Add("a max_wait_seconds 1e-400 priority batch")
	f.Fuzz(func(t *testing.T, line string) {
		args := strings.Split(line, " ")
		var r requests
		commands := allCommands()
		for i := range commands {
			one := &commands[i]
			if one.message == nil || len(args) < one.least || one.most >= 0 && len(args) > one.most {
				continue
			}
			made, p := one.message(&r, args)
			if p == nil && made.Key != args[0] {
				t.Errorf("%s %q is for key %q", one.name, line, made.Key)
			}
			if p != nil && p.message == "" {
				t.Errorf("%s %q has an empty error", one.name, line)
			}
		}
	})
}

// TestObjects: headers of any length are written in front of what is in the object.
func TestObjects(t *testing.T) {
	for _, resp3 := range []bool{false, true} {
		for _, pairs := range []int{0, 1, 4, 5, 9, 10, 49, 50, 99, 100, 1000} {
			o := begin([]byte("before"), resp3)
			want := "before"
			if resp3 {
				want += fmt.Sprintf("%%%d\r\n", pairs)
			} else {
				want += fmt.Sprintf("*%d\r\n", 2*pairs)
			}
			for i := range pairs {
				o.number("n", int64(i))
				want += fmt.Sprintf("$1\r\nn\r\n:%d\r\n", i)
			}
			if got := string(o.end()); got != want {
				t.Errorf("%d pairs: %.60q, want %.60q", pairs, got, want)
			}
		}
	}
}
