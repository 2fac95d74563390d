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
// A grant of at least 0 becomes the output bound: each bound in the body is lowered
// to it, none is raised. If there is none, the one that all servers know is added:
// max_tokens, or max_output_tokens for Responses. A negative grant leaves them alone,
// and embeddings have none.
//
// With usage, a streaming chat or completions call asks for the usage chunk, its
// other stream options kept.
//
// All else is byte for byte what the caller sent. If nothing changes, the result is
// the caller's slice.
func (r *Request) Rewrite(grant int64, usage bool) []byte {
	var buf [4]edit
	edits := buf[:0]
	var added string // members before the first one
	if grant >= 0 {
		edits, added = r.boundEdits(edits, grant)
	}
	if usage && r.Stream && !r.IncludeUsage && r.Endpoint.hasUsageChunk() {
		switch {
		case r.usage.end > 0:
			edits = append(edits, edit{r.usage.start, r.usage.end, "true"})
		case r.options > 0:
			edits = append(edits, edit{r.options, r.options, `"include_usage":true` + comma(r.none)})
		case r.stream.end > 0:
			edits = append(edits, edit{r.stream.start, r.stream.end, `{"include_usage":true}`})
		default:
			if added != "" {
				added += ","
			}
			added += `"stream_options":{"include_usage":true}`
		}
	}
	if added != "" {
		edits = append(edits, edit{r.first, r.first, added + comma(r.empty)})
	}
	if len(edits) == 0 {
		return r.body
	}
	return r.apply(edits)
}

// comma separates what is added from what comes after it.
func comma(nothing bool) string {
	if nothing {
		return ""
	}
	return ","
}

// boundEdits lowers the output bounds to grant, or says which member to add.
func (r *Request) boundEdits(edits []edit, grant int64) (_ []edit, added string) {
	name := endpoints[r.Endpoint].bound
	if name == "" {
		return edits, ""
	}
	text := strconv.FormatInt(grant, 10)
	if r.MaxOutput < 0 {
		for _, b := range r.bounds {
			if b.end > 0 { // the usual one, and null
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

// hasUsageChunk reports whether a stream of the endpoint tells its usage only when
// it is asked to.
func (e Endpoint) hasUsageChunk() bool { return e == ChatCompletions || e == Completions }
