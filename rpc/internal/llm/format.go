// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"
	"strings"
)

// format is the format of an answer that its content type tells, until the beginning of
// the answer is known. Servers send events as application/json or text/plain, and JSON
// as text/event-stream.
type format uint8

const (
	documentFormat format = iota
	eventsFormat
	linesFormat // one JSON document in each line, which may begin as one document
	known       // it is Meter.stream
)

// formatOf returns the format of an answer to r with a content type.
func formatOf(r *Request, contentType string) format {
	kind := kindOf(contentType)
	lines := strings.HasSuffix(kind, "ndjson") || strings.HasSuffix(kind, "jsonl") || strings.HasSuffix(kind, "json-seq")
	switch {
	case kind == "text/event-stream":
		return eventsFormat
	case lines && r.Stream:
		return linesFormat
	case strings.HasSuffix(kind, "json") && !lines, !r.Stream:
		return documentFormat
	}
	return eventsFormat
}

// eventFields are the beginnings of a stream of events.
var eventFields = [...]string{"data:", "event:", "id:", "retry:", ":"}

// detect decides what format an answer has whose next piece is p. It is false if that is
// not known yet: then p[:begin] is to be passed, and the rest is kept. Otherwise the
// result has all that is to be read from begin on.
func (m *Meter) detect(p []byte) (all []byte, begin int, ok bool) {
	if len(m.lead) == 0 {
		for begin < len(p) && (p[begin] == '\n' || p[begin] == '\r') { // both formats may begin with empty lines
			begin++
		}
		if begin > 0 {
			m.events.bom = len(byteOrderMark) // none follows
		}
		if begin == len(p) {
			return p, begin, false
		}
	}
	stream := m.format != documentFormat
	first := p[begin:]
	if len(m.lead) > 0 {
		m.lead = append(m.lead, p...)
		p, first = m.lead, m.lead
	}
	switch {
	case m.format == eventsFormat && first[0] == '{':
		stream = false
	case m.format == documentFormat:
		for _, field := range eventFields {
			if bytes.HasPrefix(first, []byte(field)) {
				stream = true
				break
			}
			if strings.HasPrefix(field, string(first)) {
				if len(m.lead) == 0 {
					m.lead = append(m.lead, first...)
				}
				return p, begin, false
			}
		}
	}
	m.begin(stream)
	return p, begin, true
}

// begin begins an answer of a known format.
func (m *Meter) begin(stream bool) {
	m.format, m.stream = known, stream
	m.events.hideUsage = stream && m.asked
	m.doc.removeNull = m.events.hideUsage
}
