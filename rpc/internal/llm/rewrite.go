// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"cmp"
	"slices"
	"strconv"
)

// SpareBytes is more than what Rewrite adds to a body.
const SpareBytes = 256

// edit replaces the bytes of the body from start to end.
type edit struct {
	start, end int
	text       string
	options    bool // adds stream_options
}

// Rewrite returns the body to send upstream.
//
// A grant of at least 0 bounds the output: each bound in the body is lowered to it,
// and none is raised. If there is no bound, one is added: max_completion_tokens for chat
// completions, max_output_tokens for Responses, and max_tokens otherwise. With a negative
// grant the bounds stay. In either case a field that says "no bound" beside a bound gets
// that bound, since servers differ in which of the two they follow. Embeddings have none.
//
// If askUsage is set, a streaming chat or completions call asks for the usage chunk
// and keeps its other stream options.
//
// Every other byte stays. changed is false if nothing changes, and the result is then the
// slice that was parsed. If that slice has SpareBytes of capacity left, it is changed in
// place, and otherwise copied. Rewrite must be called only once.
func (r *Request) Rewrite(grant int64, askUsage bool) (result []byte, changed bool) {
	var buf [5]edit
	edits := r.boundEdits(buf[:0], grant)
	if askUsage && r.NeedsUsageOption() {
		r.usageAsked = true
		switch {
		case r.includeUsage.end > 0:
			edits = append(edits, edit{start: r.includeUsage.start, end: r.includeUsage.end, text: "true"})
		case r.optionsStart > 0:
			edits = append(edits, edit{start: r.optionsStart, end: r.optionsStart, text: `"include_usage":true` + comma(r.optionsEmpty)})
		case r.streamOptions.end > 0:
			edits = append(edits, edit{start: r.streamOptions.start, end: r.streamOptions.end, text: `{"include_usage":true}`, options: true})
		default: // there is another member, stream
			edits = append(edits, edit{start: r.firstMember, end: r.firstMember, text: `"stream_options":{"include_usage":true},`, options: true})
		}
	}
	if len(edits) == 0 {
		return r.body, false
	}
	return r.apply(edits), true
}

// NeedsUsageOption reports whether the request is a stream that reports its usage only if
// it is asked for, and the caller did not.
func (r *Request) NeedsUsageOption() bool {
	return r.Stream && !r.IncludeUsage && r.Endpoint.hasUsageChunk()
}

// AddedStreamOptions reports whether Rewrite added stream_options to a request that had
// none.
func (r *Request) AddedStreamOptions() bool { return r.addedOptions.text != "" }

// WithoutStreamOptions returns a copy of the result of Rewrite without the stream_options
// that it added.
func (r *Request) WithoutStreamOptions(result []byte) []byte {
	r.usageAsked = false
	at := r.addedOptions
	b := make([]byte, 0, len(result))
	b = append(b, result[:at.start]...)
	if at.end > at.start { // it replaced null
		b = append(b, "null"...)
	}
	return append(b, result[at.start+len(at.text):]...)
}

// comma separates an added member from the next one, unless it is the last.
func comma(last bool) string {
	if last {
		return ""
	}
	return ","
}

// boundEdits appends the edits that bound the output by grant.
func (r *Request) boundEdits(edits []edit, grant int64) []edit {
	name := endpoints[r.Endpoint].bound
	if name == "" {
		return edits
	}
	most, bounded := grant, r.MaxOutput >= 0
	if bounded && (most < 0 || most > r.MaxOutput) {
		most = r.MaxOutput
	}
	if most < 0 {
		return edits
	}
	text := strconv.FormatInt(most, 10)
	for _, b := range r.bounds {
		if b.end > 0 && (b.n > most || b.n == noBound || b.n == nullBound && !bounded) {
			edits = append(edits, edit{start: b.start, end: b.end, text: text})
			bounded = bounded || !b.nonstandard
		}
	}
	if !bounded {
		edits = append(edits, edit{start: r.firstMember, end: r.firstMember, text: `"` + name + `":` + text + comma(r.empty)})
	}
	return edits
}

func (r *Request) apply(edits []edit) []byte {
	b := r.body
	if cap(b)-len(b) < SpareBytes {
		b = append(make([]byte, 0, len(b)+SpareBytes), b...)
	}
	slices.SortStableFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	moved := 0
	for _, e := range edits {
		if e.options {
			r.addedOptions = edit{start: e.start + moved, end: e.end + moved, text: e.text}
		}
		moved += len(e.text) - (e.end - e.start)
	}
	for _, e := range slices.Backward(edits) { // so that the offsets of the others stay
		tail := b[e.end:]
		b = b[:len(b)+len(e.text)-(e.end-e.start)]
		copy(b[e.start+len(e.text):], tail)
		copy(b[e.start:], e.text)
	}
	return b
}

// hasUsageChunk reports whether a stream of the endpoint reports its usage only on
// request.
func (e Endpoint) hasUsageChunk() bool { return e == ChatCompletions || e == Completions }
