// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"encoding/json"
	"slices"
	"strings"

	"github.com/bucketring/bucketring/internal/amount"
)

// checkSplit compares an answer in one piece with the same answer cut into pieces.
func checkSplit(t fataler, r Request, kind, answer string, cuts []int) {
	t.Helper()
	slices.Sort(cuts)
	whole, split := NewMeter(&r, 200, kind), NewMeter(&r, 200, kind)
	passed := run(whole, answer)
	if got := run(split, answer, cuts...); got != passed {
		t.Fatalf("cut at %v, %q\npasses %q\n  want %q", cuts, answer, got, passed)
	}
	if got, want := outcomeOf(split), outcomeOf(whole); got != want {
		t.Fatalf("cut at %v, %q\nis %+v\nwant %+v", cuts, answer, got, want)
	}
	if !whole.events.hideUsage && passed != answer {
		t.Fatalf("%q\npasses %q, want it all", answer, passed)
	}
	if want, ok := withoutUsageChunks(answer); ok && whole.events.hideUsage && passed != want {
		t.Fatalf("%q\npasses %q\n  want %q", answer, passed, want)
	}
	if u, ok := whole.Usage(); ok && (u.Input < 0 || u.Output < 0 || u.CachedInput > u.Input || u.Reasoning > u.Output || u.Input > amount.Max || u.Output > amount.Max) {
		t.Fatalf("%q\nhas usage %+v", answer, u)
	}
}

// withoutUsageChunks removes the usage chunks of a stream, in a simple and slow way. It
// is false if the result is undefined, because an event with usage is not JSON.
func withoutUsageChunks(answer string) (string, bool) {
	var out, event, data strings.Builder
	fields := 0
	answer, marked := strings.CutPrefix(answer, "\xef\xbb\xbf")
	if marked {
		out.WriteString("\xef\xbb\xbf")
	}
	undefined := false
	flush := func() {
		text := data.String()
		if strings.Contains(text, `"usage"`) && !json.Valid([]byte(text)) {
			undefined = true
		}
		if !isUsageChunk(text) {
			out.WriteString(event.String())
		}
		event.Reset()
		data.Reset()
		fields = 0
	}
	for answer != "" {
		end := strings.IndexAny(answer, "\r\n")
		if end < 0 {
			end = len(answer)
		}
		line, next := answer[:end], min(end+1, len(answer))
		if strings.HasPrefix(answer[end:], "\r\n") {
			next++
		}
		event.WriteString(answer[:next])
		answer = answer[next:]
		switch value, isData := strings.CutPrefix(line, "data:"); {
		case line == "", line[0] == ':' && fields == 0:
			flush()
		case line[0] == ':':
		case isData:
			data.WriteString(strings.TrimPrefix(value, " ") + "\n")
			fields++
		default:
			fields++
		}
	}
	flush()
	return out.String(), !undefined
}

func isUsageChunk(text string) bool {
	var chunk map[string]json.RawMessage
	if json.Unmarshal([]byte(text), &chunk) != nil {
		return false
	}
	var choices []json.RawMessage
	var usage map[string]json.RawMessage
	return chunk["choices"] != nil && json.Unmarshal(chunk["choices"], &choices) == nil && choices != nil && len(choices) == 0 &&
		chunk["usage"] != nil && json.Unmarshal(chunk["usage"], &usage) == nil && usage != nil
}
