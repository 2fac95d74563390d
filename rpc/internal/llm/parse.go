// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"math"
	"strconv"
	"strings"
	"unicode/utf8"
)

// thinkingRoom is the least that is left for an answer after the thinking.
const thinkingRoom = 256

// responsesFloor is the smallest output bound that the Responses API takes.
const responsesFloor = 16

// parser reads one body into a request.
type parser struct {
	scanner
	r *Request

	prompts  int64
	thinking int64 // tokens
	tools    bool
	noTools  bool // the choice is to call none
}

func (p *parser) parse() error {
	if !utf8.Valid(p.r.body) {
		return &FieldError{"body", "must be valid UTF-8"}
	}
	p.reset(p.r.body)
	if c := p.kind(); c != '{' {
		return &FieldError{"body", "must be a JSON object, got " + p.what()}
	}
	p.r.first = p.i + 1
	p.r.empty = true
	for p.enter('{'); p.member(); {
		p.r.empty = false
		p.read(p.name())
	}
	if p.kind(); !p.failed() && p.i < len(p.b) {
		p.broken("want nothing after the object")
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

// read reads the value of a member of the body.
func (p *parser) read(name []byte) {
	r := p.r
	fields := endpoints[r.Endpoint].fields
	kind, ok := fields[string(name)]
	if !ok {
		if known, ok := lookalike(fields, name); ok {
			p.fail("must be spelled " + known)
		}
		p.skip()
		return
	}
	start := p.start()
	if p.null() {
		p.readNull(kind, start)
		return
	}
	switch kind {
	case modelField:
		r.Model = p.modelName()
	case boundField:
		least := int64(1)
		if r.Endpoint == Completions || r.Endpoint == Messages {
			least = 0 // to have the prompt's log probabilities, or to fill the cache
		}
		n := p.whole(least)
		p.bound(member{start, p.i, n})
		r.MaxOutput = max(r.MaxOutput, n)
	case minimumField:
		r.MinOutput = p.whole(0)
	case choicesField:
		r.N = max(r.N, p.whole(1))
	case streamField:
		r.Stream = p.boolean()
	case optionsField:
		p.streamOptions(start)
	case readField:
		r.InputBytes += p.parts()
	case plainField:
		r.InputBytes += p.words()
	case toolsField:
		p.toolList()
	case toolChoiceField:
		p.toolChoice()
	case formatField:
		p.format()
	case formatsField:
		p.formats()
	case grammarField:
		r.Uncuttable = true
		r.InputBytes += p.words()
	case promptField:
		p.prompt()
	case thinkingField:
		p.thinkingBudget()
	case hiddenField:
		r.HiddenInput = true
		r.InputBytes += p.words()
	case backgroundField:
		if p.boolean() {
			p.fail("must not be true: the usage of such a response never comes by here")
		}
	}
}

// start is where the next value begins.
func (p *parser) start() int {
	p.kind()
	return p.i
}

// null reads null, if that is what comes: the field is as good as absent.
func (p *parser) null() bool {
	if p.kind() != 'n' {
		return false
	}
	p.scalar()
	return true
}

// readNull keeps where a null is that Rewrite may replace.
func (p *parser) readNull(kind field, start int) {
	switch {
	case p.failed():
	case kind == boundField && string(p.name()) == endpoints[p.r.Endpoint].bound:
		p.bound(member{start, p.i, -1})
	case kind == optionsField:
		p.r.stream = member{start: start, end: p.i}
	}
}

// bound keeps where a bound is, in the order of the body.
func (p *parser) bound(m member) {
	at := 0
	for p.r.bounds[at].end > 0 { // names are not given twice
		at++
	}
	p.r.bounds[at] = m
}

// finish decides what only the whole body tells.
func (p *parser) finish() {
	r := p.r
	if p.prompts > maxAmount/r.N {
		p.problem, p.field = "must be at most 2^53 for all prompts together, got "+strconv.FormatInt(r.N, 10), "n"
		return
	}
	r.N *= p.prompts
	if p.tools && !p.noTools {
		r.Uncuttable = true
	}
	switch r.Endpoint {
	case Embeddings:
		r.MaxOutput, r.N = 0, 1
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

// what describes the next value in a message.
func (p *parser) what() string {
	c := p.kind()
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
		return shown(at.in(p.b))
	default:
		end := p.i
		for end < len(p.b) && plain(p.b[end]) {
			end++
		}
		if end == p.i {
			r, _ := utf8.DecodeRune(p.b[p.i:])
			return strconv.QuoteRune(r)
		}
		word := p.b[p.i:end]
		if len(word) > maxShown {
			return string(word[:maxShown]) + "... (" + strconv.Itoa(len(word)) + " digits)"
		}
		return string(word)
	}
}

// in returns the string's text in b, escapes resolved.
func (at span) in(b []byte) []byte {
	inner := b[at.start+1 : at.end-1]
	if at.escaped {
		return unescape(inner)
	}
	return inner
}

// wrong fails because the value that comes next is of the wrong type.
func (p *parser) wrong(want string) { p.fail("must be " + want + ", got " + p.what()) }

// modelName refuses U+FFFD, which is what half a surrogate pair becomes: two
// models must not have one price.
func (p *parser) modelName() string {
	if p.kind() != '"' {
		p.wrong("a string")
		return ""
	}
	at := p.text()
	if p.failed() {
		return ""
	}
	name := string(at.in(p.b))
	if strings.ContainsRune(name, utf8.RuneError) {
		p.fail("must be valid UTF-8, got " + shown([]byte(name)))
	}
	return name
}

func (p *parser) boolean() bool {
	switch p.kind() {
	case 't', 'f':
		return string(p.scalar()) == "true"
	}
	p.wrong("true or false")
	return false
}

// whole reads a whole number from least to 2^53.
func (p *parser) whole(least int64) int64 {
	if c := p.kind(); c != '-' && (c < '0' || c > '9') {
		p.wrong("a number")
		return 0
	}
	got := p.what()
	text := p.scalar()
	if p.failed() {
		return 0
	}
	n, ok := wholeNumber(text)
	switch {
	case !ok, n < least:
		p.fail("must be a whole number of at least " + strconv.FormatInt(least, 10) + ", got " + got)
	case n > maxAmount:
		p.fail("must be at most 2^53, got " + got)
	}
	return n
}

// wholeNumber reads a JSON number, in whatever notation. It is false if the number
// is not whole. What is beyond 2^53 comes out as just that; servers in Python
// read 1e3 as the same number.
func wholeNumber(text []byte) (int64, bool) {
	if digits(text) == len(text) && len(text) <= 18 {
		var n int64
		for _, c := range text {
			n = 10*n + int64(c-'0')
		}
		return min(n, maxAmount+1), true
	}
	if n, err := strconv.ParseInt(string(text), 10, 64); err == nil {
		return max(-maxAmount-1, min(n, maxAmount+1)), true
	}
	f, err := strconv.ParseFloat(string(text), 64) // an error only if it is beyond all bounds
	switch {
	case err != nil, f > maxAmount, f < -maxAmount:
		if f < 0 {
			return -maxAmount - 1, true
		}
		return maxAmount + 1, true
	case f != math.Trunc(f):
		return 0, false
	}
	return int64(f), true
}

func (p *parser) streamOptions(start int) {
	if p.kind() != '{' {
		p.wrong("an object")
		return
	}
	r := p.r
	r.options = p.i + 1
	r.none = true
	for p.enter('{'); p.member(); {
		r.none = false
		if string(p.name()) != "include_usage" {
			if bytes.EqualFold(p.name(), []byte("include_usage")) {
				p.fail("must be spelled include_usage")
			}
			p.skip()
			continue
		}
		at := p.start()
		if !p.null() {
			r.IncludeUsage = p.boolean()
		}
		r.usage = member{start: at, end: p.i}
	}
	r.stream = member{start: start, end: p.i}
}
