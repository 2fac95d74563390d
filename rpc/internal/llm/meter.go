// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"mime"
	"strings"
)

// A Meter reads one answer as it passes, in pieces of any size. It holds no more
// than a few KiB of it. It must not be used by several goroutines at once.
type Meter struct {
	e        Endpoint
	n        int64 // choices
	hasInput bool
	failed   bool // the status is that of an error
	stream   bool // of events

	events events
	doc    document // of the event at hand, or the whole answer
	scan   scanner

	finished  bool
	truncated bool
	finishes  int64 // of choices
	chunks    int64 // with generated text
	text      int64 // bytes of it, in events that ended

	block usageBlock // merged, of an Anthropic stream
	usage Usage      // the last believable one
	final bool       // usage is that of the whole call
	lied  bool
	late  bool  // text came after the last usage block, which does not count it
	most  int64 // the highest output so far
	taken bool  // the usage of an answer in one piece
}

// NewMeter returns a meter for the answer to r, by its status and content type:
// text/event-stream is a stream, JSON is one document. Without either, it is what
// r asked for.
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
	m.events.hiding = m.stream && r.Stream && !r.IncludeUsage && r.Endpoint.hasUsageChunk()
	return m
}

func isStream(r *Request, contentType string) bool {
	kind, _, err := mime.ParseMediaType(contentType)
	if err != nil { // a parameter may be wrong
		kind, _, _ = strings.Cut(strings.ToLower(contentType), ";")
		kind = strings.TrimSpace(kind)
	}
	switch {
	case kind == "text/event-stream":
		return true
	case strings.HasSuffix(kind, "json") && !strings.HasSuffix(kind, "ndjson"): // which is one document in each line
		return false
	}
	return r.Stream
}

// Pass takes the next piece from upstream and returns what the caller is to get
// now, which is good until the next call. That is the same bytes, at once, but for
// the usage chunk that the caller did not ask for: an event that has usage and no
// choices. As long as an event may be that one it is held back; no reader of events
// could have used it before its end.
func (m *Meter) Pass(p []byte) []byte {
	if m.stream {
		return m.passEvents(p)
	}
	m.doc.feed(p)
	m.truncated = m.truncated || m.doc.tooDeep || m.doc.tooLong
	if m.doc.hasUsage && !m.taken {
		m.taken = true
		m.take(true)
	}
	m.finished = m.doc.done
	return p
}

// Close returns what is still held, if anything, at the end of the body. It is good
// as long as the meter.
func (m *Meter) Close() []byte {
	if m.stream {
		return m.closeEvents()
	}
	return nil
}

// Usage returns the usage that the answer reports for the whole call. It is false if
// none came, if text came after it, if it lacks the input or the output, or if it
// cannot be true: see Lied.
func (m *Meter) Usage() (Usage, bool) {
	if !m.final || m.late || m.usage.Input < 0 || m.usage.Output < 0 || m.isTooGood() {
		return noUsage, false
	}
	return m.usage, true
}

// Running returns what the answer has reported so far, such as the input that an
// Anthropic stream begins with. What it has not is -1.
func (m *Meter) Running() Usage { return m.usage }

// Counted reports whether Running counts all the output that came: no text came
// after it.
func (m *Meter) Counted() bool { return !m.late && m.usage.Output >= 0 && !m.isTooGood() }

// Lied reports whether a usage block was not believed: a number that is negative,
// none, or beyond 2^53, a part larger than the whole, no input although there was a
// prompt, no output although there was text.
func (m *Meter) Lied() bool { return m.lied || m.final && m.isTooGood() }

// isTooGood reports whether usage says 0 of what is known not to be 0.
func (m *Meter) isTooGood() bool {
	return m.usage.Input == 0 && m.hasInput || m.usage.Output == 0 && m.OutputBytes() > 0
}

// Streamed returns the output tokens that were counted so far: the highest count
// that the server told, or the events with text, if they are more. A server may put
// several tokens into an event: then OutputBytes tells more.
func (m *Meter) Streamed() int64 { return max(m.most, m.chunks) }

// OutputBytes returns the bytes of generated text so far. Of an answer that cannot
// be read it is all bytes.
func (m *Meter) OutputBytes() int64 {
	if m.failed {
		return 0
	}
	return m.text + m.doc.text
}

// Finished reports whether the answer came to its end: [DONE], message_stop, the
// last event of a response, or a whole JSON document.
func (m *Meter) Finished() bool { return m.finished }

// Truncated reports whether a part of the answer was beyond what is read: a usage
// block longer than 4 KiB, or JSON nested more than 64 deep. Then Usage is as if the
// block had not come, and OutputBytes counts what could not be followed.
func (m *Meter) Truncated() bool { return m.truncated }

// take reads the usage block of the document.
func (m *Meter) take(final bool) {
	block := readUsage(&m.scan, m.doc.usage)
	if m.e == Messages {
		m.block.merge(block)
		block = m.block
	}
	u, ok := block.usage(m.e)
	if !ok {
		m.lied = true
		m.usage, m.final = noUsage, false
		return
	}
	m.usage, m.final = u, final
	m.most = max(m.most, u.Output)
}
