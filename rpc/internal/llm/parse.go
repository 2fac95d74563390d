// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/internal/text"
)

// thinkingRoom is the least output, in tokens, that must fit after the thinking.
const thinkingRoom = 256

// responsesFloor is the smallest output bound that the Responses API accepts.
const responsesFloor = 16

// parser parses a body into a request.
type parser struct {
	scanner
	r *Request

	prompts  int64
	embedded int64 // prompts
	thinking int64 // tokens
	tools    bool
	noTools  bool // tool_choice is none
}

func (p *parser) parse() error {
	if !utf8.Valid(p.r.body) {
		return &FieldError{"body", "must be valid UTF-8"}
	}
	p.reset(p.r.body)
	if c := p.peek(); c != '{' {
		return &FieldError{"body", "must be a JSON object, got " + p.describeNext()}
	}
	p.r.firstMember = p.i + 1
	p.r.empty = true
	for p.enter('{'); p.member(); {
		p.r.empty = false
		p.readMember(p.name())
	}
	if p.peek(); !p.failed() && p.i < len(p.b) {
		p.syntaxError("want nothing after the object")
	}
	if !p.failed() {
		p.finish()
	}
	if p.failed() {
		if p.field == "" {
			p.field = "body"
		}
		return &FieldError{p.field, p.problem}
	}
	return nil
}

// readMember reads the value of a member of the body.
func (p *parser) readMember(name []byte) {
	r := p.r
	fields := endpoints[r.Endpoint].fields
	kind, ok := fields[string(name)]
	if !ok {
		if known, ok := misspelled(fields, name); ok {
			p.fail("must be spelled " + known)
		}
		p.skip()
		return
	}
	start := p.nextStart()
	if p.skipNull() {
		p.keepNull(kind, start)
		return
	}
	switch kind {
	case modelField:
		r.Model = p.validText()
	case truncateField:
		r.truncated = p.truncates()
	case serviceTierField:
		r.ServiceTier = p.validText()
	case boundField:
		n, quoted := p.bound()
		p.addBound(memberSpan{start, p.i, n, string(name) == "n_predict", quoted})
		r.MaxOutput = max(r.MaxOutput, n)
	case minimumField:
		r.MinOutput = p.wholeNumber(0)
	case choicesField:
		r.N = max(r.N, p.wholeNumber(1))
	case streamField:
		r.Stream = p.boolean()
	case streamOptionsField:
		p.streamOptions(start)
	case contentField:
		r.InputBytes += p.countContent(true)
	case predictionField:
		certain := r.textBytes
		r.InputBytes += p.countContent(true)
		r.textBytes = certain
	case textField:
		r.InputBytes += p.countText()
	case toolsField:
		p.toolList()
	case toolChoiceField:
		p.toolChoice()
	case formatField:
		p.format()
	case formatObjectField:
		p.formatObject()
	case grammarField:
		r.NoTruncation = true
		r.InputBytes += p.countText()
	case promptField:
		p.countPrompt()
	case thinkingField:
		p.thinkingBudget()
	case storedField:
		p.stored()
		r.InputBytes += p.countText()
	case embedsField:
		p.embeds()
	case backgroundField:
		if p.boolean() {
			p.fail("must not be true: the usage of a background response cannot be metered")
		}
	}
}

// nextStart is the offset of the next value.
func (p *parser) nextStart() int {
	p.peek()
	return p.i
}

// skipNull reads the next value if it is null, which means that the field is absent.
func (p *parser) skipNull() bool {
	if p.peek() != 'n' {
		return false
	}
	p.scalar()
	return true
}

// keepNull keeps the position of a null that Rewrite may replace.
func (p *parser) keepNull(kind field, start int) {
	switch {
	case p.failed():
	case kind == boundField && string(p.name()) == endpoints[p.r.Endpoint].bound:
		p.addBound(memberSpan{start: start, end: p.i, n: nullBound})
	case kind == streamOptionsField:
		p.r.streamOptions = memberSpan{start: start, end: p.i}
	}
}

// addBound keeps the position of an output bound, in the order of the body.
func (p *parser) addBound(m memberSpan) {
	at := 0
	for p.r.bounds[at].end > 0 { // there are at most three names, and none is repeated
		at++
	}
	p.r.bounds[at] = m
}

// finish sets what depends on several fields.
func (p *parser) finish() {
	r := p.r
	p.prompts = max(p.prompts, p.embedded)
	if p.prompts > amount.Max/r.N {
		p.problem, p.field = "must be at most "+amount.MaxText+" for all prompts together, got "+strconv.FormatInt(r.N, 10), "n"
		return
	}
	r.N *= p.prompts
	if p.tools && !p.noTools {
		r.NoTruncation = true
	}
	switch r.Endpoint {
	case Embeddings:
		r.MaxOutput, r.N = 0, 1
		r.textBytes = 0 // many servers read only the beginning of long texts
	case Responses:
		r.MinOutput = responsesFloor
	}
	if p.thinking > 0 {
		r.MinOutput = max(r.MinOutput, p.thinking+thinkingRoom)
	}
	if r.MaxOutput >= 0 {
		r.MinOutput = min(r.MinOutput, r.MaxOutput)
	}
}

// describeNext describes the next value for a message.
func (p *parser) describeNext() string {
	c := p.peek()
	if p.i == len(p.b) {
		return "nothing"
	}
	switch c {
	case '{':
		return "an object"
	case '[':
		return "a list"
	case '"':
		probe := scanner{b: p.b, i: p.i}
		at := probe.text()
		if probe.failed() {
			return "a string without end"
		}
		return text.Quote(string(at.in(p.b)))
	default:
		end := p.i
		for end < len(p.b) && isScalarByte(p.b[end]) {
			end++
		}
		if end == p.i {
			r, _ := utf8.DecodeRune(p.b[p.i:])
			return strconv.QuoteRune(r)
		}
		word := p.b[p.i:end]
		if len(word) > text.MaxShown {
			return string(word[:text.MaxShown]) + "... (" + strconv.Itoa(len(word)) + " digits)"
		}
		return string(word)
	}
}

// in returns the string in b, unescaped.
func (at span) in(b []byte) []byte {
	inner := b[at.start+1 : at.end-1]
	if at.escaped {
		return unescape(inner)
	}
	return inner
}

// wrongType records that the next value is of the wrong type.
func (p *parser) wrongType(want string) { p.fail("must be " + want + ", got " + p.describeNext()) }

// validText reads the name of a model or a service tier. It rejects U+FFFD, which
// replaces half a surrogate pair: two different names must not become one.
func (p *parser) validText() string {
	if p.peek() != '"' {
		p.wrongType("a string")
		return ""
	}
	at := p.text()
	if p.failed() {
		return ""
	}
	name := string(at.in(p.b))
	if strings.ContainsRune(name, utf8.RuneError) {
		p.fail("must be valid UTF-8, got " + text.Quote(name))
	}
	return name
}

// boolean reads true or false, or what servers in Python read as such: 1, 0 or a string.
// Rewrite replaces those.
func (p *parser) boolean() bool {
	start, value, text := p.nextStart(), false, ""
	switch c := p.peek(); c {
	case 't', 'f':
		return string(p.scalar()) == "true"
	case '0', '1', '"':
		probe := p.scanner
		if c == '"' {
			if at := probe.text(); !probe.failed() {
				text = strings.ToLower(string(at.in(p.b)))
			}
		} else {
			text = string(probe.scalar())
		}
		if value = text == "true" || text == "1"; value || text == "false" || text == "0" {
			p.scanner = probe
			p.r.literals = append(p.r.literals, edit{start: start, end: p.i, text: strconv.FormatBool(value)})
			return value
		}
	}
	p.wrongType("true or false")
	return false
}

// truncates reads whether the server shortens a prompt that is too long: a number of
// tokens, true, or anything but "disabled".
func (p *parser) truncates() bool {
	start := p.nextStart()
	p.skip()
	if p.failed() {
		return false
	}
	value := string(p.b[start:p.i])
	return value != "false" && value != `"disabled"`
}

// wholeNumber reads a whole number from least to 2^53, or a string with its digits, which
// Rewrite replaces.
func (p *parser) wholeNumber(least int64) int64 {
	start, got := p.nextStart(), p.describeNext()
	number, quoted := p.number()
	if p.failed() {
		return 0
	}
	n, ok := parseWhole(number)
	switch {
	case !ok, n < least:
		p.fail("must be a whole number of at least " + strconv.FormatInt(least, 10) + ", got " + got)
	case n > amount.Max:
		p.fail("must be at most " + amount.MaxText + ", got " + got)
	case quoted:
		p.r.literals = append(p.r.literals, edit{start: start, end: p.i, text: strconv.FormatInt(n, 10)})
	}
	return n
}

// number reads a number, or a string with digits: servers in Python read "100" as 100, and
// llama.cpp as no number.
func (p *parser) number() (number []byte, quoted bool) {
	switch c := p.peek(); {
	case c == '-', c >= '0' && c <= '9':
		return p.scalar(), false
	case c == '"':
		probe := p.scanner
		if at := probe.text(); !probe.failed() {
			if digits := bytes.TrimSpace(at.in(p.b)); isDigits(digits) {
				p.text()
				return digits, true
			}
		}
	}
	p.wrongType("a number")
	return nil, false
}

// isDigits reports whether a text is a whole number in digits.
func isDigits(s []byte) bool {
	s = bytes.TrimPrefix(s, []byte("-"))
	return len(s) > 0 && countDigits(s) == len(s)
}

// bound reads an output bound: a number from 0 to 2^53, or noBound. llama.cpp and Ollama
// take any negative number for no bound, and Ollama also 0, which vLLM rejects; so 0 is a
// bound only where it has a meaning of its own: for log probabilities of a prompt, and for
// filling a cache. A fraction, which llama.cpp truncates and others reject, is rounded up.
func (p *parser) bound() (n int64, quoted bool) {
	got := p.describeNext()
	number, quoted := p.number()
	if p.failed() {
		return 0, false
	}
	n, ok := parseWhole(number)
	if !ok {
		f, _ := strconv.ParseFloat(string(number), 64)
		n = int64(math.Ceil(f))
		if f < 0 {
			n = noBound
		}
	}
	switch e := p.r.Endpoint; {
	case n > amount.Max:
		p.fail("must be at most " + amount.MaxText + ", got " + got)
	case n < 0, n == 0 && e != Completions && e != Messages:
		return noBound, quoted
	}
	return n, quoted
}

// parseWhole parses a JSON number in any notation, since servers in Python read 1e3 as
// 1000. It is false if the number is not whole. Numbers beyond 2^53 and -2^53 are
// returned as 2^53+1 and -2^53-1.
func parseWhole(number []byte) (int64, bool) {
	if countDigits(number) == len(number) && len(number) <= 18 {
		var n int64
		for _, c := range number {
			n = 10*n + int64(c-'0')
		}
		return min(n, amount.Max+1), true
	}
	if n, err := strconv.ParseInt(string(number), 10, 64); err == nil {
		return max(-amount.Max-1, min(n, amount.Max+1)), true
	}
	f, err := strconv.ParseFloat(string(number), 64) // the only error is an overflow
	switch {
	case err != nil, f > amount.Max, f < -amount.Max:
		if f < 0 {
			return -amount.Max - 1, true
		}
		return amount.Max + 1, true
	case f != math.Trunc(f):
		return 0, false
	}
	return int64(f), true
}

func (p *parser) streamOptions(start int) {
	if p.peek() != '{' {
		p.wrongType("an object")
		return
	}
	r := p.r
	r.optionsStart = p.i + 1
	r.optionsEmpty = true
	for p.enter('{'); p.member(); {
		r.optionsEmpty = false
		if string(p.name()) != "include_usage" {
			if bytes.EqualFold(p.name(), []byte("include_usage")) {
				p.fail("must be spelled include_usage")
			}
			p.skip()
			continue
		}
		at := p.nextStart()
		if !p.skipNull() {
			r.IncludeUsage = p.boolean()
		}
		r.includeUsage = memberSpan{start: at, end: p.i}
	}
	r.streamOptions = memberSpan{start: start, end: p.i}
}
