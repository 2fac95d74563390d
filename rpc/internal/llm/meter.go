// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"slices"

	"github.com/bucketring/bucketring/internal/amount"
)

// A Meter reads one answer in pieces of any size, and holds a few KiB of it at most.
// It is not safe for concurrent use.
type Meter struct {
	e        Endpoint
	n        int64 // choices
	hasInput bool
	noOutput bool // the answer has none
	failed   bool // the status is that of an error
	format   format
	stream   bool   // of events
	lead     []byte // the beginning of the answer, until the format is known
	asked    bool   // Rewrite asked for usage

	events events
	doc    document // the current event, or the whole answer
	scan   scanner

	finished   bool
	truncated  bool
	finishes   int64 // of choices
	textEvents int64 // events with generated text
	text       int64 // bytes of generated text, in events that ended

	generated generated

	block          usageBlock // the last one
	usage          Usage      // all blocks that were accepted, combined
	final          bool       // usage is that of the whole call
	usageRejected  bool
	claim          struct{ input, output int64 } // the largest counts of rejected blocks; -1: none
	maxClaim       int64                         // the largest input that a rejected block may claim
	textAfterUsage bool                          // text came after the last usage block, which does not count it
	maxOutput      int64                         // the highest output count so far
	serviceTier    string
	usageRead      bool // of an answer that is one document
}

// NewMeter returns a meter for the answer to r with a status and content type. An answer
// that begins as a stream of events or as a JSON object is read as that. With any other
// beginning, the content type decides, and if that is neither, what r asked for.
func NewMeter(r *Request, status int, contentType string) *Meter {
	m := &Meter{
		e:        r.Endpoint,
		n:        max(r.N, 1),
		hasInput: r.HasPrompt(),
		failed:   status >= 400,
		usage:    noUsage,
		maxClaim: r.maxInputTokens(),
	}
	m.claim.input, m.claim.output = -1, -1
	m.doc.e, m.doc.oneChoice, m.doc.hasImages, m.doc.null.first = r.Endpoint, m.n == 1, r.answer == imagesAnswer, true
	m.noOutput = r.answer == inputAnswer
	m.asked = r.Stream && r.usageAsked && r.Endpoint.hasUsageChunk()
	m.format = formatOf(r, contentType)
	return m
}

// Process reads the next piece from upstream and returns the bytes to send to the
// caller now. They are valid until the next call. It passes every byte at once, but
// for a few that tell the format of an answer, and for what the caller did not ask for if
// the request was rewritten to ask for usage:
//
//   - The usage chunk, which is an event with usage and without choices. An event that
//     may be one is held back until it ends.
//   - A member "usage":null of an event. The bytes that may be one are held back until
//     they are known.
func (m *Meter) Process(p []byte) []byte {
	begin := 0
	if m.format != known {
		var ok bool
		if p, begin, ok = m.detect(p); !ok {
			return p[:begin]
		}
	}
	return m.process(p, begin)
}

// process reads p from begin on. The bytes before it are passed.
func (m *Meter) process(p []byte, begin int) []byte {
	if m.stream {
		return m.passEvents(p, begin)
	}
	m.doc.feed(p)
	m.truncated = m.truncated || m.doc.tooDeep || m.doc.tooLong
	m.readTier()
	if m.doc.hasUsage && !m.usageRead {
		m.usageRead = true
		m.readUsage(true)
	}
	m.finished = m.doc.complete
	m.textAfterUsage = m.textAfterUsage || m.doc.trailing
	return p
}

// Close ends the answer and returns the bytes that are still held back, if any. They
// stay valid.
func (m *Meter) Close() []byte {
	var lead []byte
	if m.format != known {
		m.begin(m.format == eventsFormat)
		lead = m.process(m.lead, 0)
	}
	if m.stream {
		return append(slices.Clip(lead), m.closeEvents()...)
	}
	return lead
}

// Usage returns the usage that the answer reports for the whole call. It is false if
// there is none, if text came after it, if it lacks the input or the output, or if it
// was rejected: see UsageRejected.
func (m *Meter) Usage() (Usage, bool) {
	if !m.final || m.textAfterUsage || m.usage.Input < 0 || m.usage.Output < 0 || m.isImplausible() {
		return noUsage, false
	}
	return m.PartialUsage(), true
}

// PartialUsage returns what the answer has reported so far, such as the input at the
// start of an Anthropic stream. Unknown counts are -1.
func (m *Meter) PartialUsage() Usage {
	u := m.usage
	u.ServiceTier = m.serviceTier
	if x := m.extras(); x != (extras{}) {
		u.Images, u.Searches = max(u.Images, x.images), max(u.Searches, x.searches)
	}
	return u
}

// extras returns the images and searches that the answer shows. They count also without a
// usage block. If that says more, it counts.
func (m *Meter) extras() extras {
	if m.failed {
		return extras{}
	}
	g := m.generated
	if !m.stream {
		g.event(&m.doc)
	}
	return g.extras()
}

// UsageIsCurrent reports whether PartialUsage counts all the output so far.
func (m *Meter) UsageIsCurrent() bool {
	return !m.textAfterUsage && m.usage.Output >= 0 && !m.isImplausible()
}

// UsageRejected reports whether a usage block was rejected because no reading of it is
// consistent: it has a count that is negative, not a whole number, or beyond 2^53, more
// cached than input tokens, no input for a prompt, or no output for an answer with text.
func (m *Meter) UsageRejected() bool { return m.usageRejected || m.final && m.isImplausible() }

// Claim returns the largest input and output that rejected blocks report, or -1. A call
// whose usage was rejected is charged for the larger of an estimate and the claim, each
// for input and output, and for no cached input: a lie makes a call no cheaper than the
// numbers in it. Not plausible, and so no claim, are values that are no count, an input of
// more tokens than the prompt has bytes, and counts whose sum is beyond 2^53. Nor is an
// output beyond what was granted, which the meter does not know.
func (m *Meter) Claim() (input, output int64) {
	if m.UsageRejected() {
		m.addClaim(m.usage.Input, m.usage.Output)
	}
	return m.claim.input, m.claim.output
}

// addClaim adds the counts of rejected usage to the claim.
func (m *Meter) addClaim(input, output int64) {
	if max(input, 0)+max(output, 0) > amount.Max {
		return
	}
	if input <= m.maxClaim {
		m.claim.input = max(m.claim.input, input)
	}
	m.claim.output = max(m.claim.output, output)
}

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
	m.block.read(&m.scan, m.doc.usage)
	u, ok := m.block.usage(m.e, m.noOutput)
	if !ok {
		m.usageRejected = true
		m.addClaim(m.usage.Input, m.usage.Output)
		m.addClaim(m.block.input, m.block.output)
		m.usage, m.final = noUsage, false
		return
	}
	m.setTier(m.block.serviceTier)
	if u.isEmpty() && !m.usage.isEmpty() {
		return // it takes nothing away
	}
	m.usage = combine(m.usage, u, m.e)
	if !u.isEmpty() {
		m.final, m.textAfterUsage = final, false
		m.maxOutput = max(m.maxOutput, m.usage.Output)
	} else {
		m.final = m.final || final && u.Input >= 0 && u.Output >= 0
	}
}

// readTier reads the service tier of the document, outside of its usage block.
func (m *Meter) readTier() { m.setTier(m.doc.tierValue()) }

// setTier sets the service tier, unless name is empty or auto. That is what a caller may
// ask for, and not a tier that a call can get.
func (m *Meter) setTier(name []byte) {
	if len(name) > 0 && string(name) != "auto" && m.serviceTier != string(name) {
		m.serviceTier = string(name)
	}
}
