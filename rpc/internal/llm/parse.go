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
		least := int64(1)
		if r.Endpoint == Completions || r.Endpoint == Messages {
			least = 0 // returns only log probabilities of the prompt, or fills a cache
		}
		llamaCPP := string(name) == "n_predict" // -2: until the context is full
		n := p.bound(least, llamaCPP)
		p.addBound(memberSpan{start, p.i, n, llamaCPP})
		r.MaxOutput = max(r.MaxOutput, n)
	case minimumField:
		r.MinOutput = p.wholeNumber(0)
	case choicesField:
		r.N = max(r.N, p.choices())
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
	switch {
	case len(bytes.TrimSpace(p.b)) == 0:
		return "nothing"
	case p.i == len(p.b):
		return "the end of the body, which is not valid JSON"
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

func (p *parser) boolean() bool {
	switch p.peek() {
	case 't', 'f':
		return string(p.scalar()) == "true"
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

// wholeNumber reads a whole number from least to 2^53.
func (p *parser) wholeNumber(least int64) int64 {
	if c := p.peek(); c != '-' && (c < '0' || c > '9') {
		p.wrongType("a number")
		return 0
	}
	got := p.describeNext()
	number := p.scalar()
	if p.failed() {
		return 0
	}
	n, ok := parseWhole(number)
	switch {
	case !ok, n < least:
		p.fail("must be a whole number of at least " + strconv.FormatInt(least, 10) + ", got " + got)
	case n > amount.Max:
		p.fail("must be at most " + amount.MaxText + ", got " + got)
	}
	return n
}

// maxChoices is more than the choices of one prompt that servers accept in practice. There
// may be any number of prompts.
const maxChoices = 1024

// choices reads the number of choices of a prompt.
func (p *parser) choices() int64 {
	got := p.describeNext()
	n := p.wholeNumber(1)
	if n > maxChoices && !p.failed() {
		p.fail("must be at most " + strconv.Itoa(maxChoices) + ", got " + got)
	}
	return n
}

// bound reads an output bound: a whole number from least to 2^53, or noBound, which is -1,
// or any negative number where that is what servers read.
func (p *parser) bound(least int64, anyNegative bool) int64 {
	at := p.nextStart()
	if p.peek() == '-' {
		if n, ok := parseWhole(p.scalar()); ok && (n == -1 || n < 0 && anyNegative) {
			return noBound
		}
		p.i = at
	}
	return p.wholeNumber(least)
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
