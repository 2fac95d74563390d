// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"bytes"
	"strconv"

	"github.com/tidwall/redcon"

	"github.com/bucketring/bucketring/internal/text"
)

// maxCommand bounds a command, in bytes, far above any that the service takes.
const maxCommand = 64 << 10

// longCommand is the length from which on the arguments of a command do not share memory, so
// that what remembers a key does not keep all of a long command.
const longCommand = 1 << 10

// maxHeader bounds the line of a count or a length: a sign, 10 digits, and the line's end.
const maxHeader = 16

// protocolError is why a connection cannot go on: where its next command begins is not known.
// It is answered, as Redis does, and the connection is closed.
type protocolError string

// Error implements error.
func (e protocolError) Error() string { return "Protocol error: " + string(e) }

const (
	errCount  protocolError = "invalid multibulk length"
	errLength protocolError = "invalid bulk length"
	errEnd    protocolError = "a bulk string does not end with CRLF"
	errQuotes protocolError = "unbalanced quotes in request"
)

var errTooLong = protocolError("a command must have at most " + strconv.Itoa(maxCommand) + " bytes")

// next parses the command that b begins with. It returns its length, 0 if it is incomplete, and
// its arguments in the memory of args. Those of a short command share one string. None shares
// memory with b. A command may have no arguments: then it is to be ignored.
//
// The reader of redcon is not used for this: a length near 2^63, or a negative one, makes it
// panic, and a large count keeps it busy for ever.
func next(b []byte, args []string) (n int, _ []string, err error) {
	args = args[:0]
	if len(b) == 0 {
		return 0, args, nil
	}
	if b[0] != '*' {
		return inline(b, args)
	}
	count, at, err := header(b, 1, errCount)
	if at == 0 || err != nil {
		return 0, args, err
	}
	if count > maxCommand/len("$0\r\n\r\n") {
		return 0, args, errCount
	}
	var buffer [32]span
	spans := buffer[:0]
	for range count {
		if at == len(b) {
			return 0, args, incomplete(b)
		}
		if b[at] != '$' {
			return 0, args, protocolError("expected '$', got " + text.Quote(string(b[at:at+1])))
		}
		length, begin, err := header(b, at+1, errLength)
		if err != nil {
			return 0, args, err
		}
		if begin == 0 {
			return 0, args, incomplete(b)
		}
		if length < 0 || length > maxCommand {
			return 0, args, errLength
		}
		end := begin + length
		if end+2 > len(b) {
			return 0, args, incomplete(b)
		}
		if b[end] != '\r' || b[end+1] != '\n' {
			return 0, args, errEnd
		}
		spans, at = append(spans, span{begin, end}), end+2
	}
	if at > maxCommand {
		return 0, args, errTooLong
	}
	if len(spans) == 0 {
		return at, args, nil
	}
	first := spans[0].begin
	if at > longCommand {
		for _, s := range spans {
			args = append(args, string(b[s.begin:s.end]))
		}
		return at, args, nil
	}
	all := string(b[first:spans[len(spans)-1].end])
	for _, s := range spans {
		args = append(args, all[s.begin-first:s.end-first])
	}
	return at, args, nil
}

// span is where an argument is.
type span struct{ begin, end int }

// incomplete returns an error if b, an incomplete command, is too long already.
func incomplete(b []byte) error {
	if len(b) > maxCommand {
		return errTooLong
	}
	return nil
}

// header parses a number and the end of its line from at on. It returns where the next line
// begins, 0 if the line is incomplete.
func header(b []byte, at int, wrong protocolError) (n, next int, err error) {
	negative := at < len(b) && b[at] == '-'
	i := at
	if negative {
		i++
	}
	for digits := 0; i < len(b); i++ {
		switch c := b[i]; {
		case '0' <= c && c <= '9' && digits < 10:
			n, digits = 10*n+int(c-'0'), digits+1
		case c == '\r' && digits > 0:
			if i+1 == len(b) {
				return 0, 0, nil
			}
			if b[i+1] != '\n' {
				return 0, 0, wrong
			}
			if negative {
				n = -n
			}
			return n, i + 2, nil
		default:
			return 0, 0, wrong
		}
	}
	if i-at > maxHeader {
		return 0, 0, wrong
	}
	return 0, 0, nil
}

// inline parses a command that a person types: a line of words.
func inline(b []byte, args []string) (n int, _ []string, err error) {
	end := bytes.IndexByte(b, '\n')
	if end < 0 {
		return 0, args, incomplete(b)
	}
	if n = end + 1; n > maxCommand {
		return 0, args, errTooLong
	}
	if b[0] == '$' { // of another protocol, for redcon
		return 0, args, protocolError("expected '*', got '$'")
	}
	_, words, _, _, err := redcon.ReadNextCommand(b[:n], nil)
	if err != nil {
		return 0, args, errQuotes
	}
	for _, word := range words {
		args = append(args, string(word))
	}
	return n, args, nil
}
