// SPDX-License-Identifier: Apache-2.0

package llm

import "bytes"

// maxHeld is how many bytes of an event are held back to see whether it is the usage
// chunk.
const maxHeld = 16 << 10

// events is the state of a meter in a stream of server-sent events.
type events struct {
	hideUsage bool // remove the usage chunk

	bom    int  // bytes of the byte order mark that were skipped; 3: it is over
	cr     bool // the last byte was a carriage return; a line feed belongs to it
	ended  bool // that carriage return ended an event or a comment
	hidden bool // which was hidden

	// The current line.
	part         part
	fieldName    [6]byte // the beginning of the field name
	nameLen      int
	unknownBytes int64 // bytes of a value whose field is unknown

	// The current event.
	fieldLines  int // lines with a field
	hasData     bool
	dataPrefix  [6]byte // the beginning of its data
	dataBytes   int64
	passThrough bool // it cannot be hidden: a part was passed, or it is too long

	held []byte // its bytes that were held back
	out  output
}

// part is a part of a line.
type part uint8

const (
	lineStart part = iota
	inFieldName
	afterColon
	value
)

var byteOrderMark = [...]byte{0xEF, 0xBB, 0xBF}

const doneData = "[DONE]"

// passEvents processes a piece of a stream from begin on.
func (m *Meter) passEvents(p []byte, begin int) []byte {
	s := &m.events
	s.out.begin(p)
	i := begin + m.skipMark(p[begin:])
	s.out.add(0, i)
	from := i // bytes before it were passed, held or hidden
	for i < len(p) {
		if s.cr {
			s.cr = false
			if p[i] == '\n' {
				i++
				if s.ended {
					if !s.hidden {
						s.out.add(from, i)
					}
					from = i
				}
				continue
			}
		}
		end := lineEnd(p[i:])
		m.line(p[i : i+end])
		i += end
		if m.doc.null.stage == nullFound {
			from = m.removeNull(from, i)
		}
		if i == len(p) {
			break
		}
		s.passThrough = s.passThrough || len(s.held)+i-from > maxHeld
		s.cr = p[i] == '\r'
		i++
		s.ended, s.hidden = m.endLine()
		if s.cr && i < len(p) && p[i] == '\n' {
			s.cr = false
			i++
		}
		switch {
		case s.hidden:
			s.held = s.held[:0]
			from = i
		case s.ended, s.fieldLines == 0: // a comment before the first field
			s.ended, s.passThrough = true, false
			s.out.addHeld(s)
			s.out.add(from, i)
			from = i
		}
	}
	if from < len(p) {
		if s.mayHide(&m.doc) && len(s.held)+len(p)-from <= maxHeld {
			s.held = append(s.held, p[from:]...)
		} else {
			s.passThrough = s.passThrough || s.hasFields()
			m.passButNull(from, len(p))
		}
	}
	return s.out.bytes()
}

// removeNull passes the current event up to its member "usage":null, which has been
// read up to end, and returns the position after the member. An event that had one is
// no usage chunk.
func (m *Meter) removeNull(from, end int) int {
	s, d := &m.events, &m.doc
	first, next := end-int(d.read-d.null.from), end-int(d.read-d.null.to)
	d.null.stage = nullRemoved
	s.passThrough = true
	if first < 0 { // it began in an earlier piece
		tail := s.held[len(s.held)+min(next, 0):]
		s.held = append(s.held[:len(s.held)+first], tail...)
		first = from
	}
	s.out.addHeld(s)
	s.out.add(from, first)
	return max(from, next)
}

// passButNull passes the current event up to end, and holds back the bytes at its end
// that may be a member "usage":null.
func (m *Meter) passButNull(from, end int) {
	s, d := &m.events, &m.doc
	pending, ok := d.null.pending(d.read)
	if !ok || !d.removeNull || d.depth != 1 || s.part != value || !s.isData() {
		s.out.addHeld(s)
		s.out.add(from, end)
		return
	}
	first := end - int(d.read-pending)
	if first >= from {
		s.out.addHeld(s)
		s.out.add(from, first)
		s.held = append(s.held, s.out.p[first:end]...)
		return
	}
	n := len(s.held) + first - from
	s.out.copy()
	s.out.buf = append(s.out.buf, s.held[:n]...)
	s.held = append(append(s.held[:0], s.held[n:]...), s.out.p[from:end]...)
}

// closeEvents ends the stream. Its last event may lack the empty line.
func (m *Meter) closeEvents() []byte {
	s := &m.events
	if s.part != lineStart {
		m.endLine()
	}
	if s.hasData || s.fieldLines > 0 {
		s.hidden = m.endEvent(false)
	}
	held := s.held
	if s.hidden {
		held = nil
	}
	s.held, s.hidden = nil, false
	return held
}

// line reads bytes of a line, without its end.
func (m *Meter) line(b []byte) {
	s := &m.events
	for len(b) > 0 {
		switch s.part {
		case lineStart, inFieldName:
			s.part = inFieldName
			colon := bytes.IndexByte(b, ':')
			name := b
			if colon >= 0 {
				name, b = b[:colon], b[colon+1:]
				s.part = afterColon
			} else {
				b = nil
			}
			if s.nameLen < len(s.fieldName) {
				copy(s.fieldName[s.nameLen:], name)
			}
			s.nameLen += len(name)
			if s.part == afterColon && s.isData() {
				if s.hasData {
					m.doc.feed([]byte{'\n'}) // data lines of an event are one text
				}
				s.hasData = true
			}
		case afterColon:
			s.part = value
			if b[0] == ' ' {
				b = b[1:]
			}
		case value:
			if s.isData() {
				if s.dataBytes < int64(len(s.dataPrefix)) {
					copy(s.dataPrefix[s.dataBytes:], b)
				}
				s.dataBytes += int64(len(b))
				m.doc.feed(b)
			} else if !s.isKnown() {
				s.unknownBytes += int64(len(b))
			}
			b = nil
		}
	}
}

// endLine ends a line. An empty line ends the event.
func (m *Meter) endLine() (ended, hidden bool) {
	s := &m.events
	empty, comment := s.part == lineStart, s.isComment()
	if !empty && !s.isKnown() {
		m.text += int64(s.nameLen) + s.unknownBytes // not an event: the answer may have another format
	}
	s.part, s.nameLen, s.unknownBytes = lineStart, 0, 0
	if empty {
		return true, m.endEvent(true)
	}
	if !comment {
		s.fieldLines++
	}
	return false, false
}

// endEvent ends the current event and reports whether to hide it. terminated: it
// ended with an empty line.
func (m *Meter) endEvent(terminated bool) (hidden bool) {
	s, d := &m.events, &m.doc
	switch {
	case !s.hasData:
	case s.dataBytes == int64(len(doneData)) && string(s.dataPrefix[:]) == doneData:
		m.finish()
		d.text = 0
	default:
		hidden = s.hideUsage && !s.passThrough && d.complete && d.hasChoices && !d.choices && d.hasUsage
		m.event(terminated)
	}
	m.text += d.text
	s.fieldLines, s.hasData, s.dataBytes, s.passThrough = 0, false, 0, false
	d.reset()
	return hidden
}

// event counts an event with data.
func (m *Meter) event(terminated bool) {
	d := &m.doc
	if terminated && !d.complete && !d.unparsable {
		d.text = m.events.dataBytes // invalid JSON counts as text
	}
	if d.text > 0 {
		m.textEvents++
		m.textAfterUsage = true
	}
	m.truncated = m.truncated || d.tooDeep || d.tooLong
	m.finishes += d.finishes
	m.generated.event(d)
	m.readTier()
	last := false
	switch string(d.eventType()) {
	case "message_stop", "response.completed", "response.incomplete", "response.failed":
		last = true
	}
	if d.hasUsage {
		m.readUsage(m.isFinal(last))
	}
	if last {
		m.finish()
	} else if m.finishes >= m.n && m.usage != noUsage {
		m.final = true
	}
}

// isFinal reports whether the usage block of the current event is that of the whole
// call. last: no other event follows.
func (m *Meter) isFinal(last bool) bool {
	switch m.e {
	case Messages:
		return last || string(m.doc.eventType()) == "message_delta"
	case Responses:
		return last
	}
	return !m.doc.choices
}

// finish ends the answer. No other usage follows.
func (m *Meter) finish() {
	m.finished = true
	if m.usage != noUsage && m.e.hasUsageChunk() {
		m.final = true
	}
}

func (s *events) isData() bool { return s.nameLen == len("data") && string(s.fieldName[:4]) == "data" }

// isKnown reports whether the current line is a comment or has a field of the event
// stream format.
func (s *events) isKnown() bool {
	if s.isComment() {
		return true
	}
	if s.nameLen > len(s.fieldName) {
		return false
	}
	switch string(s.fieldName[:s.nameLen]) {
	case "data", "event", "id", "retry":
		return true
	}
	return false
}

// isComment reports whether the current line begins with a colon.
func (s *events) isComment() bool { return s.part >= afterColon && s.nameLen == 0 }

// skipMark returns how many bytes of p belong to a byte order mark at the start of
// the stream.
func (m *Meter) skipMark(p []byte) int {
	s := &m.events
	for i, c := range p {
		if s.bom == len(byteOrderMark) || c != byteOrderMark[s.bom] {
			if s.bom < len(byteOrderMark) && s.bom > 0 { // not a byte order mark after all: it belongs to the first line
				m.line(byteOrderMark[:s.bom])
				s.passThrough = true
			}
			s.bom = len(byteOrderMark)
			return i
		}
		s.bom++
	}
	return len(p)
}

// mayHide reports whether the current event may be the usage chunk.
func (s *events) mayHide(d *document) bool {
	switch {
	case !s.hideUsage, s.passThrough, d.choices, d.unparsable:
		return false
	}
	return s.hasFields()
}

// hasFields reports whether the current event has more than comments. Comments keep
// the connection alive and are passed at once.
func (s *events) hasFields() bool { return s.fieldLines > 0 || s.part > lineStart && !s.isComment() }

// lineEnd returns how many bytes of p are before the first line feed or carriage
// return.
func lineEnd(p []byte) int {
	end := bytes.IndexByte(p, '\n')
	if end < 0 {
		end = len(p)
	}
	if cr := bytes.IndexByte(p[:end], '\r'); cr >= 0 {
		return cr
	}
	return end
}

// output collects the bytes to pass: a part of the piece if they are contiguous, and
// a copy otherwise.
type output struct {
	p        []byte
	from, to int
	copied   bool
	buf      []byte
}

func (o *output) begin(p []byte) { *o = output{p: p, buf: o.buf[:0]} }

// add passes a part of the piece.
func (o *output) add(from, to int) {
	switch {
	case o.copied:
		o.buf = append(o.buf, o.p[from:to]...)
	case o.from == o.to:
		o.from, o.to = from, to
	case o.to == from:
		o.to = to
	default:
		o.copy()
		o.buf = append(o.buf, o.p[from:to]...)
	}
}

// addHeld passes the bytes that were held back.
func (o *output) addHeld(s *events) {
	if len(s.held) == 0 {
		return
	}
	o.copy()
	o.buf = append(o.buf, s.held...)
	s.held = s.held[:0]
}

func (o *output) copy() {
	if !o.copied {
		o.copied = true
		o.buf = append(o.buf, o.p[o.from:o.to]...)
	}
}

func (o *output) bytes() []byte {
	if o.copied {
		return o.buf
	}
	return o.p[o.from:o.to]
}
