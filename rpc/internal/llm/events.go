// SPDX-License-Identifier: Apache-2.0

package llm

import "bytes"

// maxHeld is how much of an event is held back to see whether it is the usage chunk.
const maxHeld = 16 << 10

// events is where in a stream of server-sent events the meter is.
type events struct {
	hiding bool // the usage chunk

	bom   int  // bytes of a byte order mark that were skipped, 3: no more may come
	cr    bool // the last byte was a carriage return: a line feed belongs to it
	ended bool // and so does the end of what was passed or hidden
	hid   bool // it was hidden

	// The line at hand.
	part  part
	field [6]byte // its name: as much as fits
	size  int     // of the name
	stray int64   // bytes of a value of no field that there is

	// The event at hand.
	lines int     // with a field, comments do not count
	data  bool    // it has data
	word  [6]byte // the first bytes of its data
	bytes int64   // of its data
	pass  bool    // it is not to be hidden: a part of it was passed, or it is too long

	held []byte // its bytes so far
	out  output
}

// part is a part of a line.
type part uint8

const (
	lineStart part = iota
	fieldName
	afterColon
	value
)

var byteOrderMark = [...]byte{0xEF, 0xBB, 0xBF}

const doneWord = "[DONE]"

// passEvents takes a piece of a stream.
func (m *Meter) passEvents(p []byte) []byte {
	s := &m.events
	s.out.begin(p)
	i := m.skipMark(p)
	s.out.add(0, i)
	from := i // what is before it was passed, held or hidden
	for i < len(p) {
		if s.cr {
			s.cr = false
			if p[i] == '\n' {
				i++
				if s.ended {
					if !s.hid {
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
		if i == len(p) {
			break
		}
		s.pass = s.pass || len(s.held)+i-from > maxHeld
		s.cr = p[i] == '\r'
		i++
		s.ended, s.hid = m.endLine()
		if s.cr && i < len(p) && p[i] == '\n' {
			s.cr = false
			i++
		}
		switch {
		case s.hid:
			s.held = s.held[:0]
			from = i
		case s.ended, s.lines == 0: // a comment before all else
			s.ended, s.pass = true, false
			s.out.addHeld(s)
			s.out.add(from, i)
			from = i
		}
	}
	if from < len(p) {
		if s.mayHide(&m.doc) && len(s.held)+len(p)-from <= maxHeld {
			s.held = append(s.held, p[from:]...)
		} else {
			s.pass = s.pass || s.begun()
			s.out.addHeld(s)
			s.out.add(from, len(p))
		}
	}
	return s.out.bytes()
}

// closeEvents ends the stream: its last event may lack the empty line.
func (m *Meter) closeEvents() []byte {
	s := &m.events
	if s.part != lineStart {
		m.endLine()
	}
	if s.data || s.lines > 0 {
		s.hid = m.endEvent(false)
	}
	held := s.held
	if s.hid {
		held = nil
	}
	s.held, s.hid = nil, false
	return held
}

// line takes bytes of a line, without its end.
func (m *Meter) line(b []byte) {
	s := &m.events
	for len(b) > 0 {
		switch s.part {
		case lineStart, fieldName:
			s.part = fieldName
			colon := bytes.IndexByte(b, ':')
			name := b
			if colon >= 0 {
				name, b = b[:colon], b[colon+1:]
				s.part = afterColon
			} else {
				b = nil
			}
			if s.size < len(s.field) {
				copy(s.field[s.size:], name)
			}
			s.size += len(name)
			if s.part == afterColon && s.isData() {
				if s.data {
					m.doc.feed([]byte{'\n'}) // data of several lines is one text
				}
				s.data = true
			}
		case afterColon:
			s.part = value
			if b[0] == ' ' {
				b = b[1:]
			}
		case value:
			if s.isData() {
				if s.bytes < int64(len(s.word)) {
					copy(s.word[s.bytes:], b)
				}
				s.bytes += int64(len(b))
				m.doc.feed(b)
			} else if !s.isKnown() {
				s.stray += int64(len(b))
			}
			b = nil
		}
	}
}

// endLine ends a line. An empty one ends the event, and it may be to be hidden.
func (m *Meter) endLine() (ended, hidden bool) {
	s := &m.events
	empty, comment := s.part == lineStart, s.isComment()
	if !empty && !s.isKnown() {
		m.text += int64(s.size) + s.stray // no event, so perhaps an answer of another kind
	}
	s.part, s.size, s.stray = lineStart, 0, 0
	if empty {
		return true, m.endEvent(true)
	}
	if !comment {
		s.lines++
	}
	return false, false
}

// endEvent takes the event at hand, which is whole if it ended as it should, and
// reports whether it is to be hidden.
func (m *Meter) endEvent(whole bool) (hidden bool) {
	s, d := &m.events, &m.doc
	switch {
	case !s.data:
	case s.bytes == int64(len(doneWord)) && string(s.word[:]) == doneWord:
		m.finish()
		d.text = 0
	default:
		hidden = s.hiding && !s.pass && d.done && d.hasChoices && !d.choices && d.hasUsage
		m.event(whole)
	}
	m.text += d.text
	s.lines, s.data, s.bytes, s.pass = 0, false, 0, false
	d.restart()
	return hidden
}

// event takes an event with data.
func (m *Meter) event(whole bool) {
	d := &m.doc
	if whole && !d.done && !d.odd {
		d.text = m.events.bytes // broken JSON: a reader may still make something of it
	}
	if d.text > 0 {
		m.chunks++
		m.late = true
	}
	m.truncated = m.truncated || d.tooDeep || d.tooLong
	m.finishes += d.finishes
	last := false
	switch string(d.typed()) {
	case "message_stop", "response.completed", "response.incomplete", "response.failed":
		last = true
	}
	if d.hasUsage {
		m.late = false
		m.take(m.isFinal(last))
	}
	if last {
		m.finish()
	} else if m.finishes >= m.n && m.usage != noUsage {
		m.final = true
	}
}

// isFinal reports whether the usage block of the event at hand is that of the whole
// call, and not of what has run so far.
func (m *Meter) isFinal(last bool) bool {
	switch m.e {
	case Messages:
		return string(m.doc.typed()) == "message_delta"
	case Responses:
		return last
	}
	return !m.doc.choices
}

// finish ends the answer: no other usage comes.
func (m *Meter) finish() {
	m.finished = true
	if m.usage != noUsage && m.e.hasUsageChunk() {
		m.final = true
	}
}

func (s *events) isData() bool { return s.size == len("data") && string(s.field[:4]) == "data" }

// isKnown reports whether the line at hand is a comment or has a field that events
// may have.
func (s *events) isKnown() bool {
	if s.isComment() {
		return true
	}
	if s.size > len(s.field) {
		return false
	}
	switch string(s.field[:s.size]) {
	case "data", "event", "id", "retry":
		return true
	}
	return false
}

// isComment reports whether the line at hand begins with a colon.
func (s *events) isComment() bool { return s.part >= afterColon && s.size == 0 }

// skipMark returns how much of p belongs to a byte order mark at the very start of
// the stream.
func (m *Meter) skipMark(p []byte) int {
	s := &m.events
	for i, c := range p {
		if s.bom == len(byteOrderMark) || c != byteOrderMark[s.bom] {
			if s.bom < len(byteOrderMark) && s.bom > 0 { // it began as one, and belongs to the first line
				m.line(byteOrderMark[:s.bom])
				s.pass = true
			}
			s.bom = len(byteOrderMark)
			return i
		}
		s.bom++
	}
	return len(p)
}

// mayHide reports whether the event at hand, or the part of it that came, may be
// the usage chunk.
func (s *events) mayHide(d *document) bool {
	switch {
	case !s.hiding, s.pass, d.choices, d.odd:
		return false
	}
	return s.begun()
}

// begun reports whether the event at hand has more than comments, which keep the
// connection alive and go at once.
func (s *events) begun() bool { return s.lines > 0 || s.part > lineStart && !s.isComment() }

// lineEnd returns how much of p is before a line feed or a carriage return.
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

// output gathers what is to be passed: a part of the piece, if nothing else comes
// in between, and a copy otherwise.
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

// addHeld passes what was held back.
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
