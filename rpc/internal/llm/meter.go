// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"mime"
	"strings"
)

// A Meter reads one answer in pieces of any size, and holds a few KiB of it at most.
// It is not safe for concurrent use.
type Meter struct {
	e        Endpoint
	n        int64 // choices
	hasInput bool
	failed   bool // the status is that of an error
	stream   bool // of events

	events events
	doc    document // the current event, or the whole answer
	scan   scanner

	finished   bool
	truncated  bool
	finishes   int64 // of choices
	textEvents int64 // events with generated text
	text       int64 // bytes of generated text, in events that ended

	block          usageBlock // merged, of an Anthropic stream
	usage          Usage      // the last one that was accepted
	final          bool       // usage is that of the whole call
	usageRejected  bool
	textAfterUsage bool  // text came after the last usage block, which does not count it
	maxOutput      int64 // the highest output count so far
	usageRead      bool  // of an answer that is one document
}

// NewMeter returns a meter for the answer to r with a status and content type:
// text/event-stream is a stream, JSON is one document. With any other content type,
// the answer has the format that r asked for.
func NewMeter(r *Request, status int, contentType string) *Meter {
	m := &Meter{
		e:        r.Endpoint,
		n:        max(r.N, 1),
		hasInput: r.InputBytes > 0 || r.InputTokens > 0,
		failed:   status >= 400,
		block:    usageBlock{-1, -1, -1, -1, -1, -1, -1, false},
		usage:    noUsage,
	}
	m.doc.e = r.Endpoint
	m.stream = isStream(r, contentType)
	m.events.hideUsage = m.stream && r.Stream && !r.IncludeUsage && r.Endpoint.hasUsageChunk()
	return m
}

func isStream(r *Request, contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil { // a parameter may be invalid
		kind, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		kind = strings.TrimSpace(kind)
	}
	switch {
	case kind == "text/event-stream":
		return true
	case strings.HasSuffix(kind, "json") && !strings.HasSuffix(kind, "ndjson"): // ndjson has one document in each line
		return false
	}
	return r.Stream
}

// Process reads the next piece from upstream and returns the bytes to send to the
// caller now. They are valid until the next call. It passes every byte at once, but
// for a usage chunk that the caller did not ask for: an event with usage and without
// choices. An event that may be one is held back until it ends.
func (m *Meter) Process(p []byte) []byte {
	if m.stream {
		return m.passEvents(p)
	}
	m.doc.feed(p)
	m.truncated = m.truncated || m.doc.tooDeep || m.doc.tooLong
	if m.doc.hasUsage && !m.usageRead {
		m.usageRead = true
		m.readUsage(true)
	}
	m.finished = m.doc.complete
	return p
}

// Close ends the answer and returns the bytes that are still held back, if any. They
// stay valid.
func (m *Meter) Close() []byte {
	if m.stream {
		return m.closeEvents()
	}
	return nil
}

// Usage returns the usage that the answer reports for the whole call. It is false if
// there is none, if text came after it, if it lacks the input or the output, or if it
// was rejected: see UsageRejected.
func (m *Meter) Usage() (Usage, bool) {
	if !m.final || m.textAfterUsage || m.usage.Input < 0 || m.usage.Output < 0 || m.isImplausible() {
		return noUsage, false
	}
	return m.usage, true
}

// PartialUsage returns what the answer has reported so far, such as the input at the
// start of an Anthropic stream. Unknown counts are -1.
func (m *Meter) PartialUsage() Usage { return m.usage }

// UsageIsCurrent reports whether PartialUsage counts all the output so far.
func (m *Meter) UsageIsCurrent() bool {
	return !m.textAfterUsage && m.usage.Output >= 0 && !m.isImplausible()
}

// UsageRejected reports whether a usage block was rejected because it cannot be true: a
// count that is negative, not a number, or beyond 2^53, a part that is larger than the
// whole, no input for a prompt, or no output for an answer with text.
func (m *Meter) UsageRejected() bool { return m.usageRejected || m.final && m.isImplausible() }

// isImplausible reports whether usage has no input for a prompt, or no output for an
// answer with text.
func (m *Meter) isImplausible() bool {
	return m.usage.Input == 0 && m.hasInput || m.usage.Output == 0 && m.OutputBytes() > 0
}

// StreamedTokens returns the output tokens so far: the highest count that the server
// reported, or the number of events with text if that is more. A server may put
// several tokens into an event; OutputBytes is then the better measure.
func (m *Meter) StreamedTokens() int64 { return max(m.maxOutput, m.textEvents) }

// OutputBytes returns the bytes of generated text so far. All bytes of an answer that
// cannot be parsed count.
func (m *Meter) OutputBytes() int64 {
	if m.failed {
		return 0
	}
	return m.text + m.doc.text
}

// Finished reports whether the answer is complete: [DONE], message_stop, the last
// event of a response, or a whole JSON document.
func (m *Meter) Finished() bool { return m.finished }

// Truncated reports whether a part of the answer was too large to read: a usage block
// of more than 4 KiB, or JSON nested more than 64 levels deep. Usage then ignores the
// block, and OutputBytes counts the JSON as text.
func (m *Meter) Truncated() bool { return m.truncated }

// readUsage reads the usage block of the document. final: it is that of the whole call.
func (m *Meter) readUsage(final bool) {
	block := readUsage(&m.scan, m.doc.usage)
	if m.e == Messages {
		m.block.merge(block)
		block = m.block
	}
	u, ok := block.usage(m.e)
	if !ok {
		m.usageRejected = true
		m.usage, m.final = noUsage, false
		return
	}
	m.usage, m.final = u, final
	m.maxOutput = max(m.maxOutput, u.Output)
}
