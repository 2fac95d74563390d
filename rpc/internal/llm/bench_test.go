// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// chunk is an event that a server sends for one token.
const chunk = `data: {"id":"chatcmpl-0123456789abcdef","object":"chat.completion.chunk","created":1760000000,"model":"llama-3-70b",` +
	`"choices":[{"index":0,"delta":{"content":" token"},"logprobs":null,"finish_reason":null}]%s}` + "\n\n"

// steady are streams of equal chunks.
var steady = []struct {
	name  string
	r     *Request
	chunk string
	cuts  int
}{
	{"OpenAI", &streaming, fmt.Sprintf(chunk, ""), 1},
	{"OpenAI in halves", &streaming, fmt.Sprintf(chunk, ""), 2},
	{"OpenAI in twelve", &streaming, fmt.Sprintf(chunk, ""), 12},
	{"running usage", &streamUsage, fmt.Sprintf(chunk, `,"usage":{"prompt_tokens":900,"completion_tokens":17,"total_tokens":917}`), 1},
	{"running usage with a tier", &streamUsage, fmt.Sprintf(chunk, `,"service_tier":"flex","usage":{"prompt_tokens":"900","completion_tokens":17,"total_tokens":1917,"completion_tokens_details":{"reasoning_tokens":1000}}`), 1},
	{"null usage", &asking, fmt.Sprintf(chunk, `,"usage":null`), 1},
	{"null usage in twelve", &asking, fmt.Sprintf(chunk, `,"usage":null`), 12},
	{"Anthropic", &Request{Endpoint: Messages, N: 1, Stream: true}, anthropicDelta, 1},
	{"Responses", &Request{Endpoint: Responses, N: 1, Stream: true}, responseDelta, 1},
	{"hidden usage", &asking, chatUsage, 1},
}

// pieces cuts a chunk into n pieces of about the same length.
func pieces(chunk string, n int) [][]byte {
	var list [][]byte
	for i := range n {
		list = append(list, []byte(chunk[len(chunk)*i/n:len(chunk)*(i+1)/n]))
	}
	return list
}

// TestProcessDoesNotAllocate after the first chunk.
func TestProcessDoesNotAllocate(t *testing.T) {
	for _, tt := range steady {
		m := NewMeter(tt.r, 200, "text/event-stream")
		list := pieces(tt.chunk, tt.cuts)
		process := func() {
			for _, p := range list {
				m.Process(p)
			}
		}
		process()
		if n := testing.AllocsPerRun(1000, process); n != 0 {
			t.Errorf("%s: %v allocations per chunk, want 0", tt.name, n)
		}
	}
}

func BenchmarkProcess(b *testing.B) {
	for _, tt := range steady {
		b.Run(strings.ReplaceAll(tt.name, " ", "_"), func(b *testing.B) {
			m := NewMeter(tt.r, 200, "text/event-stream")
			list := pieces(tt.chunk, tt.cuts)
			b.SetBytes(int64(len(tt.chunk)))
			b.ReportAllocs()
			for b.Loop() {
				for _, p := range list {
					m.Process(p)
				}
			}
		})
	}
}

func BenchmarkProcessDocument(b *testing.B) {
	answer := []byte(`{"choices":[{"message":{"role":"assistant","content":"` + strings.Repeat("word ", 2000) + `"}}],"usage":{"prompt_tokens":9,"completion_tokens":2}}`)
	r := &Request{N: 1}
	b.SetBytes(int64(len(answer)))
	b.ReportAllocs()
	for b.Loop() {
		NewMeter(r, 200, "application/json").Process(answer)
	}
}

func BenchmarkParse(b *testing.B) {
	for _, size := range []int{1, 100} {
		body := slices.Clip([]byte(`{"model":"llama-3-70b","messages":[` + strings.Repeat(`{"role":"user","content":"`+strings.Repeat("word ", 80)+`"},`, size) +
			`{"role":"user","content":"?"}],"max_tokens":800,"stream":true}`)) // Rewrite copies it
		b.Run(fmt.Sprintf("%dKiB", len(body)>>10), func(b *testing.B) {
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				r, err := Parse(ChatCompletions, body)
				if err != nil {
					b.Fatal(err)
				}
				r.Rewrite(512, true)
			}
		})
	}
}
