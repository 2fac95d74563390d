// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"cmp"
	"slices"
	"strconv"
)

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
// Every other byte stays. If nothing changes, the result is the slice that was parsed.
func (r *Request) Rewrite(grant int64, askUsage bool) []byte {
	var buf [4]edit
	edits := buf[:0]
	var added string // members to put before the first one
	if grant >= 0 {
		edits, added = r.boundEdits(edits, grant)
	}
	if askUsage && r.Stream && !r.IncludeUsage && r.Endpoint.hasUsageChunk() {
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
		return r.body
	}
	return r.apply(edits)
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
	slices.SortFunc(edits, func(a, b edit) int { return cmp.Compare(a.start, b.start) })
	size := len(r.body)
	for _, e := range edits {
		size += len(e.text) - (e.end - e.start)
	}
	out := make([]byte, 0, size)
	from := 0
	for _, e := range edits {
		out = append(out, r.body[from:e.start]...)
		out = append(out, e.text...)
		from = e.end
	}
	return append(out, r.body[from:]...)
}

// hasUsageChunk reports whether a stream of the endpoint reports its usage only on
// request.
func (e Endpoint) hasUsageChunk() bool { return e == ChatCompletions || e == Completions }
