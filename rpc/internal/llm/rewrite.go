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
}

// Rewrite returns the body to send upstream.
//
// A grant of at least 0 bounds the output: each bound in the body is lowered to it,
// and none is raised. If there is no bound, the one that all servers know is added:
// max_tokens, or max_output_tokens for Responses. A negative grant changes no bound.
// Embeddings have none.
//
// If askUsage is set, a streaming chat or completions call asks for the usage chunk
// and keeps its other stream options.
//
// Every other byte stays. changed is false if nothing changes, and the result is then the
// slice that was parsed. If that slice has SpareBytes of capacity left, it is changed in
// place, and otherwise copied. Rewrite must be called only once.
func (r *Request) Rewrite(grant int64, askUsage bool) (result []byte, changed bool) {
	var buf [4]edit
	edits := buf[:0]
	var added string // members to put before the first one
	if grant >= 0 {
		edits, added = r.boundEdits(edits, grant)
	}
	if askUsage && r.Stream && !r.IncludeUsage && r.Endpoint.hasUsageChunk() {
		r.usageAsked = true
		switch {
		case r.includeUsage.end > 0:
			edits = append(edits, edit{r.includeUsage.start, r.includeUsage.end, "true"})
		case r.optionsStart > 0:
			edits = append(edits, edit{r.optionsStart, r.optionsStart, `"include_usage":true` + comma(r.optionsEmpty)})
		case r.streamOptions.end > 0:
			edits = append(edits, edit{r.streamOptions.start, r.streamOptions.end, `{"include_usage":true}`})
		default:
			if added != "" {
				added += ","
			}
			added += `"stream_options":{"include_usage":true}`
		}
	}
	if added != "" {
		edits = append(edits, edit{r.firstMember, r.firstMember, added + comma(r.empty)})
	}
	if len(edits) == 0 {
		return r.body, false
	}
	return r.apply(edits), true
}

// comma separates an added member from the next one, unless it is the last.
func comma(last bool) string {
	if last {
		return ""
	}
	return ","
}

// boundEdits lowers the output bounds to grant, or returns a member to add.
func (r *Request) boundEdits(edits []edit, grant int64) (_ []edit, added string) {
	name := endpoints[r.Endpoint].bound
	if name == "" {
		return edits, ""
	}
	text := strconv.FormatInt(grant, 10)
	if r.MaxOutput < 0 {
		for _, b := range r.bounds {
			if b.end > 0 { // the usual bound, which is null
				return append(edits, edit{b.start, b.end, text}), ""
			}
		}
		return edits, `"` + name + `":` + text
	}
	for _, b := range r.bounds {
		if b.end > 0 && b.n > grant {
			edits = append(edits, edit{b.start, b.end, text})
		}
	}
	return edits, ""
}

func (r *Request) apply(edits []edit) []byte {
	b := r.body
	if cap(b)-len(b) < SpareBytes {
		b = append(make([]byte, 0, len(b)+SpareBytes), b...)
	}
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
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
