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
	if want, ok := expectedPass(answer, r.usageAsked); ok && whole.events.hideUsage && passed != want {
		t.Fatalf("%q\npasses %q\n  want %q", answer, passed, want)
	}
	if u, ok := whole.Usage(); ok && (u.Input < 0 || u.Output < 0 || u.CachedInput > u.Input || u.Reasoning > u.Output || u.Input > amount.Max || u.Output > amount.Max) {
		t.Fatalf("%q\nhas usage %+v", answer, u)
	}
}

// expectedPass removes the usage chunks of a stream, and nulls as the usage of events
// if asked is set, in a simple and slow way. It is false if the result is undefined,
// because an event with usage is not JSON.
func expectedPass(answer string, asked bool) (string, bool) {
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
		if member, ok := nullUsage(text); ok && asked {
			undefined = undefined || len(member) > maxNullBytes || strings.ContainsAny(member, "\r\n") || strings.Count(event.String(), member) != 1
			out.WriteString(strings.Replace(event.String(), member, "", 1))
		} else if !isUsageChunk(text) {
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

// nullUsage returns the text of the first member "usage":null of an object with the comma
// that belongs to it.
func nullUsage(text string) (string, bool) {
	if !json.Valid([]byte(text)) {
		return "", false
	}
	d := json.NewDecoder(strings.NewReader(text))
	if open, err := d.Token(); err != nil || open != json.Delim('{') {
		return "", false
	}
	for first := true; d.More(); first = false {
		before := int(d.InputOffset())
		before += strings.IndexAny(text[before:], `,"`)
		name, err := d.Token()
		if err != nil {
			return "", false
		}
		isUsage := name == "usage" && strings.HasSuffix(text[:d.InputOffset()], `"usage"`) // not escaped
		var value json.RawMessage
		if d.Decode(&value) != nil {
			return "", false
		}
		if !isUsage || string(value) != "null" {
			continue
		}
		after := int(d.InputOffset())
		if first && d.More() {
			after += strings.IndexByte(text[after:], '"')
		}
		return text[before:after], true
	}
	return "", false
}
