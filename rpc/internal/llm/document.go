// SPDX-License-Identifier: Apache-2.0

package llm

// maxUsageBytes is the size of the longest usage block that is read.
const maxUsageBytes = 4 << 10

// label is a member name that matters in a document.
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
	tierLabel
	groqLabel
	metadataLabel // usage in Gemini's format
	metaLabel     // has Cohere's usage
	billedLabel   // Cohere's usage
	dataLabel
	imagesLabel
	itemLabel
	contentBlockLabel
	actionLabel
	statusLabel
	idLabel   // identifiers, which are not text
	textLabel // generated text at any level
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
	case "service_tier":
		return tierLabel
	case "x_groq":
		return groqLabel
	case "usageMetadata", "usage_metadata":
		return metadataLabel
	case "meta":
		return metaLabel
	case "billed_units":
		return billedLabel
	case "data":
		return dataLabel
	case "images":
		return imagesLabel
	case "item":
		return itemLabel
	case "content_block":
		return contentBlockLabel
	case "action":
		return actionLabel
	case "status":
		return statusLabel
	case "id", "tool_use_id", "signature":
		return idLabel
	case "text", "reasoning_content", "reasoning", "refusal", "arguments", "thinking", "partial_json", "name", "transcript", "input", "code":
		return textLabel
	}
	return otherLabel
}

const (
	maxLabels = 8  // levels whose labels are kept
	maxLevels = 64 // levels that can be followed
)

// document reads one JSON text in pieces of any size, in bounded memory. It finds the
// usage block and counts generated text. It does not validate the rest.
type document struct {
	e          Endpoint
	oneChoice  bool // the answer has one choice
	removeNull bool // find the member "usage":null
	hasImages  bool // the answer is a list of images

	read    int64 // bytes of the text so far
	mode    mode  // context of the next byte
	depth   int
	objects uint64           // bit i: level i+1 is an object, not a list
	labels  [maxLabels]label // of the current member of each level; the outermost level is 1

	name        [20]byte // the beginning of a member name
	nameLen     int
	inGenerated bool // the current string is generated text
	inType      bool // the current string is the outermost type
	inTier      bool // the current string is the service tier
	escapeLen   int  // bytes of the current escape so far
	escapeRune  rune // of the current escape

	usage      []byte // the last usage block, or the part of it that came
	usageLevel int    // level of the usage block that is being read; 0: none

	// Results.
	began      bool
	complete   bool // a whole object
	unparsable bool // not an object, or nested too deep: all bytes count as text
	trailing   bool // bytes follow the object
	done       int  // bytes of the mark of the end of a stream that follow it
	tooDeep    bool
	tooLong    bool     // a usage block is longer than maxUsageBytes
	hasUsage   bool     // usage is whole
	hasChoices bool     // there is a list of choices
	choices    bool     // the list of choices is not empty
	finishes   int64    // choices with a finish_reason
	typeValue  [48]byte // the beginning of the value of type, outermost
	typeLen    int
	tier       [maxTierBytes]byte // the beginning of the service tier
	tierLen    int
	null       nullMember
	text       int64 // bytes of generated text
	item       item
	single     extras // items of their own
	listed     extras // items in a list of all items
	data       int64  // elements of data
	imageList  int64  // elements of images
}

type mode uint8

const (
	between mode = iota // anything but a name may follow
	wantName
	inName
	inString
	inScalar
)

// reset begins another text and keeps the buffer.
func (d *document) reset() {
	*d = document{e: d.e, oneChoice: d.oneChoice, removeNull: d.removeNull, hasImages: d.hasImages, null: nullMember{first: true}, usage: d.usage[:0]}
}

// feed reads the next bytes of the text.
func (d *document) feed(p []byte) {
	start := d.read
	d.read += int64(len(p))
	for i := 0; i < len(p); {
		switch {
		case d.unparsable:
			d.text += int64(len(p) - i)
			return
		case d.mode == inName, d.mode == inString:
			n := d.string(p[i:])
			if d.usageLevel > 0 {
				d.capture(p[i : i+n])
			}
			i += n
			continue
		}
		if d.usageLevel > 0 {
			d.capture(p[i : i+1])
		}
		if d.removeNull && d.depth == 1 {
			d.null.next(p[i], start+int64(i), d.labels[1] == usageLabel)
		}
		d.structure(p[i])
		if !d.unparsable {
			i++
		}
	}
}

// capture adds to the usage block.
func (d *document) capture(p []byte) {
	if len(d.usage)+len(p) > maxUsageBytes {
		d.usageLevel, d.tooLong = 0, true
		return
	}
	d.usage = append(d.usage, p...)
}

// structure reads a byte outside of strings.
func (d *document) structure(c byte) {
	switch c {
	case ' ', '\t', '\n', '\r':
		return
	case byteOrderMark[0], byteOrderMark[1], byteOrderMark[2]:
		if !d.began {
			return
		}
	}
	if !d.began {
		d.began = true
		d.unparsable = c != '{'
	}
	if d.complete {
		d.afterEnd(c)
	}
	if d.unparsable || d.complete {
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

// afterEnd reads a byte after the object. It counts as text, unless it belongs to the mark
// of the end of a stream, which relays append to whole answers.
func (d *document) afterEnd(c byte) {
	const mark = "data:" + doneData
	if !d.trailing && d.done < len(mark) && c == mark[d.done] {
		d.done++
		return
	}
	if !d.trailing {
		d.text += int64(d.done)
	}
	d.text++
	d.trailing = true
}

// beginValue records whether there are choices.
func (d *document) beginValue() {
	if d.depth == 2 && d.labels[1] == choicesLabel && !d.isObject(2) {
		d.choices = true
	}
}

func (d *document) beginString() {
	d.escapeLen = 0
	if d.mode == wantName {
		d.mode, d.nameLen = inName, 0
		return
	}
	d.mode = inString
	d.beginValue()
	if d.depth == 2 && !d.isObject(2) {
		d.countImage()
	}
	d.beginItemText()
	d.inGenerated = d.isGenerated()
	d.inType = d.depth == 1 && d.labels[1] == typeLabel
	if d.inType {
		d.typeLen = 0
	}
	if d.inTier = d.isTier(); d.inTier {
		d.tierLen = 0
	}
	if d.label() == finishLabel && d.labels[1] == choicesLabel {
		d.finishes++
	}
}

func (d *document) enter(c byte) {
	if d.depth == maxLevels {
		d.unparsable, d.tooDeep = true, true
		return
	}
	inherited := d.label()
	if c == '{' && d.isUsage() {
		d.usageLevel, d.hasUsage = d.depth, false
		d.usage = append(d.usage[:0], c)
	}
	d.enterItem(c)
	d.mode = between
	d.objects &^= 1 << d.depth
	if c == '{' {
		d.objects |= 1 << d.depth
		d.mode = wantName
		inherited = otherLabel
	}
	d.depth++
	if d.depth < maxLabels {
		d.labels[d.depth] = inherited // elements of a list have the label of the list
	}
}

func (d *document) leave() {
	d.mode = between
	d.depth--
	if d.usageLevel > 0 && d.depth == d.usageLevel {
		d.usageLevel, d.hasUsage = 0, true
	}
	if d.item.level > 0 && d.depth < d.item.level {
		d.leaveItem()
	}
	d.complete = d.depth == 0
}

// isObject reports whether a level is an object, not a list.
func (d *document) isObject(level int) bool { return d.objects>>(level-1)&1 == 1 }

// label is the label of the current member.
func (d *document) label() label {
	if d.depth >= maxLabels {
		return otherLabel
	}
	return d.labels[d.depth]
}

// isUsage reports whether the object that begins is the usage block: of the document,
// of a response, message or delta in it, of the only choice of a chunk (Moonshot), or one
// under the name that Gemini and Cohere have for it. That of the document itself is
// preferred.
func (d *document) isUsage() bool {
	switch {
	case d.usageLevel > 0:
		return false
	case d.depth == 1 && d.label() == metadataLabel, d.depth == 2 && d.labels[1] == metaLabel && d.label() == billedLabel:
		return !d.hasUsage
	case d.label() != usageLabel:
		return false
	case d.depth == 1:
		return true
	case d.hasUsage:
		return false
	case d.depth == 3:
		return d.oneChoice && d.labels[1] == choicesLabel && !d.isObject(2)
	case d.depth != 2:
		return false
	}
	switch d.labels[1] {
	case responseLabel, messageLabel, groqLabel, deltaLabel:
		return true
	}
	return false
}

// isTier reports whether the string that begins is the service tier of the document, or
// of a response or message in it.
func (d *document) isTier() bool {
	if d.label() != tierLabel {
		return false
	}
	return d.depth == 1 || d.depth == 2 && (d.labels[1] == responseLabel || d.labels[1] == messageLabel)
}

// isGenerated reports whether the string that begins is generated text. Events that
// repeat the text of a stream do not count.
func (d *document) isGenerated() bool {
	at, top := d.label(), d.labels[1]
	switch d.e {
	case ChatCompletions, Completions:
		return top == choicesLabel && (at == textLabel || at == contentLabel)
	case Responses:
		return d.depth == 1 && top == deltaLabel || top == outputLabel && (at == textLabel || at == contentLabel)
	case Messages:
		return top == deltaLabel && at == textLabel || top == contentLabel && at != typeLabel && at != idLabel
	}
	return false
}

// string reads bytes of a string up to its end, and returns how many.
func (d *document) string(p []byte) int {
	for i := 0; i < len(p); {
		if d.escapeLen > 0 {
			d.escape(p[i])
			i++
			continue
		}
		from := i
		for i < len(p) && p[i] != '"' && p[i] != '\\' {
			i++
		}
		d.addChars(p[from:i], i-from)
		if i == len(p) {
			break
		}
		if p[i] == '"' {
			d.endString()
			return i + 1
		}
		d.escapeLen = 1
		i++
	}
	return len(p)
}

// escape reads a byte of an escape, after the backslash.
func (d *document) escape(c byte) {
	if d.escapeLen == 1 && c != 'u' {
		d.escapeLen = 0
		d.addChars(escaped, 1)
		return
	}
	if d.escapeLen == 1 {
		d.escapeRune = 0
	} else {
		digit, _ := hexDigit(c)
		d.escapeRune = d.escapeRune<<4 | digit
	}
	d.escapeLen++
	if d.escapeLen == len(`\uFFFF`) {
		d.escapeLen = 0
		d.addChars(escaped, sizeOf(d.escapeRune))
	}
}

// escaped replaces an escaped character. No name or type that matters has one.
var escaped = []byte("?")

// addChars adds characters that have size bytes when unescaped.
func (d *document) addChars(b []byte, size int) {
	switch {
	case d.mode == inName:
		if d.nameLen < len(d.name) {
			copy(d.name[d.nameLen:], b)
		}
		d.nameLen += len(b)
	case d.inType:
		if d.typeLen < len(d.typeValue) {
			copy(d.typeValue[d.typeLen:], b)
		}
		d.typeLen += len(b)
	case d.item.reading:
		if d.item.textLen < len(d.item.text) {
			copy(d.item.text[d.item.textLen:], b)
		}
		d.item.textLen += len(b)
	case d.inTier:
		if d.tierLen < len(d.tier) {
			copy(d.tier[d.tierLen:], b)
		}
		d.tierLen += len(b)
	case d.inGenerated:
		d.text += int64(size)
	}
}

func (d *document) endString() {
	wasName := d.mode == inName
	d.mode = between
	if !wasName {
		d.inTier = false
		if d.item.reading {
			d.endItemText()
		}
	}
	if !wasName || d.depth >= maxLabels {
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

// eventType is the value of the outermost type, or nil if there is none that matters.
func (d *document) eventType() []byte {
	if d.typeLen > len(d.typeValue) {
		return nil
	}
	return d.typeValue[:d.typeLen]
}

// tierValue is the service tier, or nil if there is none.
func (d *document) tierValue() []byte {
	if d.tierLen > len(d.tier) || d.inTier {
		return nil
	}
	return d.tier[:d.tierLen]
}
