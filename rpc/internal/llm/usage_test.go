// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

// readBlocks reads usage blocks and combines them.
func readBlocks(t *testing.T, e Endpoint, blocks ...string) Usage {
	t.Helper()
	var s scanner
	sum := noUsage
	for _, text := range blocks {
		var b usageBlock
		b.read(&s, []byte(text))
		u, ok := b.usage(e, false)
		if !ok {
			t.Fatalf("%v: %s is rejected", e, text)
		}
		sum = combine(sum, u, e)
	}
	return sum
}

// TestReadings: what a count includes is told by the other counts.
func TestReadings(t *testing.T) {
	with := func(u Usage, write, write1h int64) Usage {
		u.CacheWrite, u.CacheWrite1h = write, write1h
		return u
	}
	for _, tt := range []struct {
		name  string
		e     Endpoint
		block string
		want  Usage
	}{
		{"reasoning inside, no total", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"reasoning_tokens":15}`, used(9, -1, 20, 15)},
		{"reasoning beside, no total", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"reasoning_tokens":25}`, used(9, -1, 45, 25)},
		{"a total that has a part of the reasoning", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"total_tokens":40,"reasoning_tokens":50}`, used(9, -1, 70, 50)},
		{"a total that has more than the reasoning", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"total_tokens":100,"reasoning_tokens":50}`, used(9, -1, 91, 50)},
		{"thoughts", ChatCompletions, `{"promptTokenCount":9,"candidatesTokenCount":20,"thoughtsTokenCount":5}`, used(9, -1, 25, 5)},
		{"thoughts that the total leaves out", ChatCompletions, `{"promptTokenCount":9,"candidatesTokenCount":20,"thoughtsTokenCount":5,"totalTokenCount":29}`, used(9, -1, 25, 5)},
		{"no output", ChatCompletions, `{"prompt_tokens":9,"total_tokens":29}`, used(9, -1, 20, -1)},
		{"no input", ChatCompletions, `{"completion_tokens":20,"total_tokens":29}`, used(9, -1, 20, -1)},
		{"a total alone", ChatCompletions, `{"total_tokens":29}`, noUsage},
		{"a total below the input", ChatCompletions, `{"prompt_tokens":9,"total_tokens":8}`, used(9, -1, -1, -1)},
		{"reasoning or cached beside: the dearer", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"total_tokens":34,"cached_tokens":5,"reasoning_tokens":5}`, used(9, 5, 25, 5)},
		{"cached and reasoning beside", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"total_tokens":66,"cached_tokens":7,"reasoning_tokens":30}`, used(16, 7, 50, 30)},
		{"Anthropic's names, larger than the prompt", ChatCompletions, `{"prompt_tokens":9,"completion_tokens":20,"cache_read_input_tokens":50}`, used(59, 50, 20, -1)},
		{"Anthropic's names, inside", ChatCompletions, `{"prompt_tokens":90,"completion_tokens":20,"cache_read_input_tokens":50}`, used(90, 50, 20, -1)},
		{"OpenAI's names in messages", Messages, `{"prompt_tokens":90,"completion_tokens":20,"cache_read_input_tokens":50}`, used(90, 50, 20, -1)},
		{"messages whose total has the cache", Messages, `{"input_tokens":9,"output_tokens":20,"total_tokens":79,"cache_read_input_tokens":50}`, used(59, 50, 20, -1)},
		{"messages whose input has the cache", Messages, `{"input_tokens":90,"output_tokens":20,"total_tokens":110,"cache_read_input_tokens":50}`, used(90, 50, 20, -1)},
		{"writes by lifetime", Messages, `{"input_tokens":9,"output_tokens":20,"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":6}}`, with(used(19, -1, 20, -1), 4, 6)},
		{"writes of which some last an hour", Messages, `{"input_tokens":9,"output_tokens":20,"cache_creation_input_tokens":10,"cache_creation":{"ephemeral_1h_input_tokens":6}}`, with(used(19, -1, 20, -1), 4, 6)},
		{"writes with a sum that is too small", Messages, `{"input_tokens":9,"output_tokens":20,"cache_creation_input_tokens":1,"cache_creation":{"ephemeral_5m_input_tokens":4,"ephemeral_1h_input_tokens":6}}`, with(used(19, -1, 20, -1), 4, 6)},
		{"embeddings: a total above the prompt", Embeddings, `{"prompt_tokens":8,"total_tokens":9}`, used(9, -1, 0, -1)},
		{"embeddings: a total of zero", Embeddings, `{"prompt_tokens":8,"total_tokens":0}`, used(8, -1, 0, -1)},
		{"spaces in a number", ChatCompletions, `{"prompt_tokens":" 9 ","completion_tokens":"2e1"}`, used(9, -1, 20, -1)},
		{"nothing that is known", ChatCompletions, `{"queue_time":0.1,"cost":{"total":1},"images":"none"}`, noUsage},
	} {
		if diff := cmp.Diff(tt.want, readBlocks(t, tt.e, tt.block)); diff != "" {
			t.Errorf("%s: %s (-want +got):\n%s", tt.name, tt.block, diff)
		}
	}
}

// TestCombine: how the blocks of one stream are combined.
func TestCombine(t *testing.T) {
	const chat = `{"prompt_tokens":100,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":90}}`
	const message = `{"input_tokens":10,"cache_read_input_tokens":90,"output_tokens":20}`
	for _, tt := range []struct {
		name  string
		e     Endpoint
		block []string
		want  Usage
	}{
		{"later replaces earlier", ChatCompletions, []string{chat, `{"prompt_tokens":110,"completion_tokens":30,"prompt_tokens_details":{"cached_tokens":80}}`}, used(110, 80, 30, -1)},
		{"less input", ChatCompletions, []string{chat, `{"prompt_tokens":95,"completion_tokens":20,"prompt_tokens_details":{"cached_tokens":0}}`}, used(95, 0, 20, -1)},
		{"less output", ChatCompletions, []string{chat, `{"prompt_tokens":100,"completion_tokens":5}`}, used(100, 90, 20, -1)},
		{"nothing", ChatCompletions, []string{chat, `{}`}, used(100, 90, 20, -1)},
		{"nulls", ChatCompletions, []string{chat, `{"prompt_tokens":null,"completion_tokens":null,"prompt_tokens_details":null}`}, used(100, 90, 20, -1)},
		{"zeros", ChatCompletions, []string{chat, `{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0,"prompt_tokens_details":{"cached_tokens":0}}`}, used(100, 90, 20, -1)},
		{"zeros first", ChatCompletions, []string{`{"prompt_tokens":0,"completion_tokens":0,"total_tokens":0}`, chat}, used(100, 90, 20, -1)},
		{"output alone", ChatCompletions, []string{chat, `{"completion_tokens":30}`}, used(100, 90, 30, -1)},
		{"input alone that the cached part does not fit in", ChatCompletions, []string{chat, `{"prompt_tokens":50}`}, used(50, -1, 20, -1)},
		{"cached alone", ChatCompletions, []string{chat, `{"cached_tokens":95}`}, used(100, 95, 20, -1)},
		{"cached alone that does not fit", ChatCompletions, []string{chat, `{"cached_tokens":101}`}, used(100, 90, 20, -1)},
		{"reasoning of the output that counts", ChatCompletions, []string{`{"prompt_tokens":1,"completion_tokens":9,"reasoning_tokens":5}`, `{"prompt_tokens":1,"completion_tokens":2,"reasoning_tokens":1}`}, used(1, -1, 9, 5)},

		{"messages: output alone", Messages, []string{message, `{"output_tokens":30}`}, used(100, 90, 30, -1)},
		{"messages: the same again", Messages, []string{message, message}, used(100, 90, 20, -1)},
		{"messages: new becomes cached", Messages, []string{`{"input_tokens":100}`, message}, used(100, 90, 20, -1)},
		{"messages: cached becomes new", Messages, []string{message, `{"input_tokens":100,"cache_read_input_tokens":0,"output_tokens":20}`}, used(100, 0, 20, -1)},
		{"messages: all is cached", Messages, []string{`{"input_tokens":100}`, `{"input_tokens":0,"cache_read_input_tokens":100,"output_tokens":20}`}, used(100, 100, 20, -1)},
		{"messages: new input alone, again", Messages, []string{message, `{"input_tokens":10,"output_tokens":20}`}, used(100, 90, 20, -1)},
		{"messages: other new input alone", Messages, []string{message, `{"input_tokens":12,"output_tokens":20}`}, used(102, 90, 20, -1)},
		{"messages: all input alone", Messages, []string{message, `{"input_tokens":100,"output_tokens":20}`}, used(100, 90, 20, -1)},
		{"messages: zero input alone", Messages, []string{message, `{"input_tokens":0,"output_tokens":20}`}, used(100, 90, 20, -1)},
		{"messages: cached alone", Messages, []string{message, `{"cache_read_input_tokens":95,"output_tokens":20}`}, used(105, 95, 20, -1)},
	} {
		if diff := cmp.Diff(tt.want, readBlocks(t, tt.e, tt.block...)); diff != "" {
			t.Errorf("%s: %v (-want +got):\n%s", tt.name, tt.block, diff)
		}
	}
}

// TestClaim: what rejected usage claims counts if it can be true.
func TestClaim(t *testing.T) {
	for _, tt := range []struct {
		usage         string
		input, output int64
	}{
		{`{"prompt_tokens":50,"completion_tokens":-1}`, 50, -1},
		{`{"prompt_tokens":-1,"completion_tokens":70}`, -1, 70},
		{`{"prompt_tokens":50,"completion_tokens":70,"cached_tokens":51}`, 50, 70},
		{`{"prompt_tokens":0,"completion_tokens":70}`, 0, 70},
		{`{"prompt_tokens":1034,"completion_tokens":-1}`, 1034, -1},
		{`{"prompt_tokens":1035,"completion_tokens":-1}`, -1, -1}, // of 10 bytes
		{`{"prompt_tokens":50,"completion_tokens":9007199254740992}`, -1, -1},
		{`{"prompt_tokens":50,"completion_tokens":70}`, -1, -1}, // it is not rejected
	} {
		m := NewMeter(&Request{N: 1, InputBytes: 10}, 200, "application/json")
		run(m, `{"choices":[{"message":{"content":"Hi"}}],"usage":`+tt.usage+`}`)
		if input, output := m.Claim(); input != tt.input || output != tt.output {
			t.Errorf("%s: claims %d and %d, want %d and %d", tt.usage, input, output, tt.input, tt.output)
		}
	}
}
