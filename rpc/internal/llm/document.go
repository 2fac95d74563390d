// SPDX-License-Identifier: Apache-2.0

package llm

// maxUsageBytes is how long a usage block may be to be read.
const maxUsageBytes = 4 << 10

// label is a name that a document is searched for.
type label uint8

const (
	otherLabel label = iota
	usageLabel
	choicesLabel
	outputLabel
	contentLabel
	responseLabel
	messageLabel
	deltaLabel
	typeLabel
	finishLabel
	markLabel // of what tells things apart: no text
	textLabel // of generated text, wherever it is
)

func labelOf(name []byte) label {
	switch string(name) {
	case "usage":
		return usageLabel
	case "choices":
		return choicesLabel
	case "output":
		return outputLabel
	case "content":
		return contentLabel
	case "response":
		return responseLabel
	case "message":
		return messageLabel
	case "delta":
		return deltaLabel
	case "type":
		return typeLabel
	case "finish_reason":
		return finishLabel
	case "id", "tool_use_id", "signature":
		return markLabel
	case "text", "reasoning_content", "reasoning", "refusal", "arguments", "thinking", "partial_json", "name", "transcript", "input", "code":
		return textLabel
	}
	return otherLabel
}

const (
	kept = 8  // levels whose labels are remembered
	deep = 64 // levels that are told apart as objects and lists
)

// document reads one JSON text that comes in pieces of any size, in bounded memory:
// it finds the usage block and counts generated text, and does not judge the rest.
type document struct {
	e      Endpoint
	mode   mode // where in the text the next byte is
	depth  int
	open   uint64      // which levels are objects, the outermost is bit 0
	labels [kept]label // of the current member of each level, the outermost is 1

	name     [20]byte // of a member: as much as fits
	nameLen  int
	generate bool // the string at hand is generated text
	noting   bool // the string at hand is the kind
	escaping int  // bytes of an escape so far
	unit     rune // of that escape

	usage     []byte // the last usage block, or as much of it as came
	capturing int    // the level that it is at, 0: none is at hand

	// What was found.
	began      bool
	done       bool // a whole object
	odd        bool // no object, or deeper than can be followed: all bytes are text
	tooDeep    bool
	tooLong    bool // a usage block was longer than maxUsageBytes
	hasUsage   bool // usage is whole
	hasChoices bool // there is a list of choices
	choices    bool // there is one in it
	finishes   int64
	kind       [32]byte // the value of type, outermost
	kindLen    int
	text       int64 // bytes of generated text
}

type mode uint8

const (
	between mode = iota // anything but a name may come
	wantName
	inName
	inString
	inScalar
)

// restart begins another text, and keeps the buffer.
func (d *document) restart() { *d = document{e: d.e, usage: d.usage[:0]} }

// feed takes the next bytes of the text.
func (d *document) feed(p []byte) {
	for i := 0; i < len(p); {
		switch {
		case d.odd:
			d.text += int64(len(p) - i)
			return
		case d.mode == inName, d.mode == inString:
			n := d.string(p[i:])
			if d.capturing > 0 {
				d.capture(p[i : i+n])
			}
			i += n
			continue
		}
		if d.capturing > 0 {
			d.capture(p[i : i+1])
		}
		d.structure(p[i])
		if !d.odd {
			i++
		}
	}
}

// capture adds to the usage block.
func (d *document) capture(p []byte) {
	if len(d.usage)+len(p) > maxUsageBytes {
		d.capturing, d.tooLong = 0, true
		return
	}
	d.usage = append(d.usage, p...)
}

// structure takes a byte outside of strings.
func (d *document) structure(c byte) {
	switch c {
	case ' ', '\t', '\n', '\r':
		return
	}
	if !d.began {
		d.began = true
		d.odd = c != '{'
	}
	if d.done {
		d.text++ // more than one text: no reader takes it, but it came
	}
	if d.odd || d.done {
		return
	}
	switch c {
	case '"':
		d.beginString()
	case '{', '[':
		d.beginValue()
		d.enter(c)
	case '}', ']':
		d.leave()
	case ',':
		d.mode = between
		if d.isObject(d.depth) {
			d.mode = wantName
		}
	case ':':
		d.mode = between
	default:
		if d.mode != inScalar {
			d.mode = inScalar
			d.beginValue()
		}
	}
}

// beginValue notes the first choice.
func (d *document) beginValue() {
	if d.depth == 2 && d.labels[1] == choicesLabel && !d.isObject(2) {
		d.choices = true
	}
}

func (d *document) beginString() {
	d.escaping = 0
	if d.mode == wantName {
		d.mode, d.nameLen = inName, 0
		return
	}
	d.mode = inString
	d.beginValue()
	d.generate = d.isGenerated()
	d.noting = d.depth == 1 && d.labels[1] == typeLabel
	if d.noting {
		d.kindLen = 0
	}
	if d.label() == finishLabel && d.labels[1] == choicesLabel {
		d.finishes++
	}
}

func (d *document) enter(c byte) {
	if d.depth == deep {
		d.odd, d.tooDeep = true, true
		return
	}
	inherited := d.label()
	if c == '{' && d.isUsage() {
		d.capturing, d.hasUsage = d.depth, false
		d.usage = append(d.usage[:0], c)
	}
	d.mode = between
	d.open &^= 1 << d.depth
	if c == '{' {
		d.open |= 1 << d.depth
		d.mode = wantName
		inherited = otherLabel
	}
	d.depth++
	if d.depth < kept {
		d.labels[d.depth] = inherited // the elements of a list are labelled as it is
	}
}

func (d *document) leave() {
	d.mode = between
	d.depth--
	if d.capturing > 0 && d.depth == d.capturing {
		d.capturing, d.hasUsage = 0, true
	}
	d.done = d.depth == 0
}

// isObject reports whether a level is an object and not a list.
func (d *document) isObject(level int) bool { return d.open>>(level-1)&1 == 1 }

// label is that of the current member.
func (d *document) label() label {
	if d.depth >= kept {
		return otherLabel
	}
	return d.labels[d.depth]
}

// isUsage reports whether the object that begins is the usage block.
func (d *document) isUsage() bool {
	switch {
	case d.capturing > 0 || d.label() != usageLabel:
		return false
	case d.depth == 1:
		return true
	}
	return d.depth == 2 && (d.labels[1] == responseLabel || d.labels[1] == messageLabel)
}

// isGenerated reports whether the string that begins was written by the model. In
// a stream only what is new counts: its last events repeat the whole.
func (d *document) isGenerated() bool {
	at, top := d.label(), d.labels[1]
	switch d.e {
	case ChatCompletions, Completions:
		return top == choicesLabel && (at == textLabel || at == contentLabel)
	case Responses:
		return d.depth == 1 && top == deltaLabel || top == outputLabel && (at == textLabel || at == contentLabel)
	case Messages:
		return top == deltaLabel && at == textLabel || top == contentLabel && at != typeLabel && at != markLabel
	}
	return false
}

// string takes bytes of a string, and its end if that is among them.
func (d *document) string(p []byte) int {
	for i := 0; i < len(p); {
		if d.escaping > 0 {
			d.escape(p[i])
			i++
			continue
		}
		from := i
		for i < len(p) && p[i] != '"' && p[i] != '\\' {
			i++
		}
		d.chars(p[from:i], i-from)
		if i == len(p) {
			break
		}
		if p[i] == '"' {
			d.endString()
			return i + 1
		}
		d.escaping = 1
		i++
	}
	return len(p)
}

// escape takes a byte after a backslash.
func (d *document) escape(c byte) {
	if d.escaping == 1 && c != 'u' {
		d.escaping = 0
		d.chars(escaped, 1)
		return
	}
	if d.escaping == 1 {
		d.unit = 0
	} else {
		digit, _ := hexDigit(c)
		d.unit = d.unit<<4 | digit
	}
	d.escaping++
	if d.escaping == len(`\uFFFF`) {
		d.escaping = 0
		d.chars(escaped, sizeOf(d.unit))
	}
}

// escaped stands for any character that was an escape: no name or kind that matters
// has one.
var escaped = []byte("?")

// chars takes characters that have size bytes.
func (d *document) chars(b []byte, size int) {
	switch {
	case d.mode == inName:
		if d.nameLen < len(d.name) {
			copy(d.name[d.nameLen:], b)
		}
		d.nameLen += len(b)
	case d.noting:
		if d.kindLen < len(d.kind) {
			copy(d.kind[d.kindLen:], b)
		}
		d.kindLen += len(b)
	case d.generate:
		d.text += int64(size)
	}
}

func (d *document) endString() {
	wasName := d.mode == inName
	d.mode = between
	if !wasName || d.depth >= kept {
		return
	}
	l := otherLabel
	if d.nameLen <= len(d.name) {
		l = labelOf(d.name[:d.nameLen])
	}
	d.labels[d.depth] = l
	if d.depth == 1 && l == choicesLabel {
		d.hasChoices = true
	}
}

// typed is the value of type, outermost; "" if there is none that matters.
func (d *document) typed() []byte {
	if d.kindLen > len(d.kind) {
		return nil
	}
	return d.kind[:d.kindLen]
}
