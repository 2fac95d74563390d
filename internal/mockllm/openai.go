// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
)

// openAIUsage appends the usage block of chats and completions.
func openAIUsage(dst []byte, u usageBlock) []byte {
	if u.dialect == Relay {
		return add(dst, `{"prompt_tokens":`, u.input, `,"completion_tokens":`, u.output, `,"total_tokens":`, u.total, `,"prompt_cache_hit_tokens":`, u.cached, `}`)
	}
	return add(dst, `{"prompt_tokens":`, u.input, `,"completion_tokens":`, u.output, `,"total_tokens":`, u.total,
		`,"prompt_tokens_details":{"cached_tokens":`, u.cached, `},"completion_tokens_details":{"reasoning_tokens":`, u.reasoning, `}}`)
}

// usageWanted reports whether the caller wants usage in a stream: at its end, and in
// each chunk.
func (a *answer) usageWanted() (final, always bool) {
	o := a.request.StreamOptions
	if o == nil || !o.IncludeUsage {
		return false, false
	}
	return true, o.ContinuousUsage && a.plan.usage != usageNone
}

// openChunk begins a chunk of a stream of chats or completions.
func (a *answer) openChunk(dst []byte, object string) []byte {
	return add(dst, `data: {"id":"`, a.id, `","object":"`, object, `","created":`, a.created, `,"model":`, a.model, `,"system_fingerprint":"fp_mock","choices":[`)
}

// closeChunk ends a chunk. total is the output so far.
func (a *answer) closeChunk(dst []byte, total progress) []byte {
	dst = append(dst, ']')
	switch final, always := a.usageWanted(); {
	case always:
		dst = openAIUsage(add(dst, `,"usage":`), a.plan.usageBlock(total.output, total.reasoning))
	case final:
		dst = add(dst, `,"usage":null`)
	}
	return add(dst, "}\n\n")
}

// done appends the usage chunk, if there is one, and [DONE].
func (a *answer) done(dst []byte, object string) []byte {
	if final, _ := a.usageWanted(); final && a.plan.usage != usageNone {
		dst = a.openChunk(dst, object)
		dst = openAIUsage(add(dst, `],"usage":`), a.final())
		dst = add(dst, "}\n\n")
	}
	return add(dst, "data: [DONE]\n\n")
}

// errorEvent appends an error event.
func (a *answer) errorEvent(dst []byte) []byte {
	return add(dst, `data: {"error":{"message":"the model failed","type":"server_error","param":null,"code":"model_failed"}}`, "\n\n")
}

// wholeUsage ends the choices of a response without streaming, and appends its usage.
func (a *answer) wholeUsage(dst []byte) []byte {
	dst = append(dst, ']')
	if a.plan.usage != usageNone {
		dst = openAIUsage(add(dst, `,"usage":`), a.final())
	}
	return add(dst, "}")
}

// finish returns the finish_reason of a choice.
func (a *answer) finish(choice int) string {
	switch {
	case a.plan.truncated(choice):
		return "length"
	case a.tool != "":
		return "tool_calls"
	}
	return "stop"
}

type chatEncoder struct{ *answer }

const chatChunk = "chat.completion.chunk"

func (c chatEncoder) whole(dst []byte) []byte {
	dst = add(dst, `{"id":"`, c.id, `","object":"chat.completion","created":`, c.created, `,"model":`, c.model, `,"system_fingerprint":"fp_mock","choices":[`)
	for i := range c.texts {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = add(dst, `{"index":`, strconv.Itoa(i), `,"message":{"role":"assistant","content":`)
		if c.tool != "" {
			dst = add(dst, `null,"refusal":null,"tool_calls":[{"id":"`, c.callID(i), `","type":"function","function":{"name":`, c.tool, `,"arguments":`)
			dst = add(c.content(dst, i), `}}]`)
		} else {
			dst = add(c.content(dst, i), `,"refusal":null,"annotations":[]`)
		}
		dst = add(dst, `},"logprobs":null,"finish_reason":"`, c.finish(i), `"}`)
	}
	return c.wholeUsage(dst)
}

func (c chatEncoder) begin(dst []byte) []byte {
	for i := range c.texts {
		dst = add(c.openChunk(dst, chatChunk), `{"index":`, strconv.Itoa(i), `,"delta":{"role":"assistant","content":`)
		if c.tool != "" {
			dst = add(dst, `null,"tool_calls":[{"index":0,"id":"`, c.callID(i), `","type":"function","function":{"name":`, c.tool, `,"arguments":""}}]`)
		} else {
			dst = add(dst, `""`)
		}
		dst = c.closeChunk(add(dst, `},"logprobs":null,"finish_reason":null}`), progress{})
	}
	return dst
}

func (c chatEncoder) chunk(dst []byte, choice int, from, to int64, total progress) []byte {
	dst = add(c.openChunk(dst, chatChunk), `{"index":`, strconv.Itoa(choice), `,"delta":{`)
	if c.tool != "" {
		dst = add(dst, `"tool_calls":[{"index":0,"function":{"arguments":"`)
		dst = add(c.texts[choice].append(dst, from, to, true), `"}}]`)
	} else {
		dst = add(dst, `"content":"`)
		dst = append(c.texts[choice].append(dst, from, to, true), '"')
	}
	return c.closeChunk(add(dst, `},"logprobs":null,"finish_reason":null}`), total)
}

func (c chatEncoder) end(dst []byte) []byte {
	for i := range c.texts {
		dst = add(c.openChunk(dst, chatChunk), `{"index":`, strconv.Itoa(i), `,"delta":{},"logprobs":null,"finish_reason":"`, c.finish(i), `"}`)
		dst = c.closeChunk(dst, c.all())
	}
	return c.done(dst, chatChunk)
}

func (c chatEncoder) failure(dst []byte) []byte { return c.errorEvent(dst) }

type completionsEncoder struct{ *answer }

const completionObject = "text_completion"

func (c completionsEncoder) whole(dst []byte) []byte {
	dst = add(dst, `{"id":"`, c.id, `","object":"text_completion","created":`, c.created, `,"model":`, c.model, `,"system_fingerprint":"fp_mock","choices":[`)
	for i := range c.texts {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = c.content(add(dst, `{"index":`, strconv.Itoa(i), `,"text":`), i)
		dst = add(dst, `,"logprobs":null,"finish_reason":"`, c.finish(i), `"}`)
	}
	return c.wholeUsage(dst)
}

func (c completionsEncoder) begin(dst []byte) []byte { return dst }

func (c completionsEncoder) chunk(dst []byte, choice int, from, to int64, total progress) []byte {
	dst = add(c.openChunk(dst, completionObject), `{"index":`, strconv.Itoa(choice), `,"text":"`)
	dst = c.texts[choice].append(dst, from, to, true)
	return c.closeChunk(add(dst, `","logprobs":null,"finish_reason":null}`), total)
}

func (c completionsEncoder) end(dst []byte) []byte {
	for i := range c.texts {
		dst = add(c.openChunk(dst, completionObject), `{"index":`, strconv.Itoa(i), `,"text":"","logprobs":null,"finish_reason":"`, c.finish(i), `"}`)
		dst = c.closeChunk(dst, c.all())
	}
	return c.done(dst, completionObject)
}

func (c completionsEncoder) failure(dst []byte) []byte { return c.errorEvent(dst) }

// embedding appends a response of /v1/embeddings.
func (a *answer) embedding(dst []byte) []byte {
	dimensions := a.request.Dimensions
	if dimensions <= 0 || dimensions > 4096 {
		dimensions = 8
	}
	dst = add(dst, `{"object":"list","model":`, a.model, `,"data":[`)
	for i := range a.plan.shown {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = add(dst, `{"object":"embedding","index":`, strconv.Itoa(i), `,"embedding":`)
		dst = append(a.vector(dst, i, dimensions), '}')
	}
	dst = append(dst, ']')
	if a.plan.usage != usageNone {
		u := a.plan.usageBlock(0, 0)
		dst = add(dst, `,"usage":{"prompt_tokens":`, u.input, `,"total_tokens":`, u.total, `}`)
	}
	return append(dst, '}')
}

// vector appends an embedding of length 1.
func (a *answer) vector(dst []byte, index, dimensions int) []byte {
	each := 1 / math.Sqrt(float64(dimensions))
	value := func(i int) float64 {
		if (a.plan.seed>>(uint(i+index)%64))&1 == 1 {
			return -each
		}
		return each
	}
	if a.request.EncodingFormat == "base64" {
		raw := make([]byte, 0, 4*dimensions)
		for i := range dimensions {
			raw = binary.LittleEndian.AppendUint32(raw, math.Float32bits(float32(value(i))))
		}
		return append(base64.StdEncoding.AppendEncode(append(dst, '"'), raw), '"')
	}
	dst = append(dst, '[')
	for i := range dimensions {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendFloat(dst, value(i), 'f', 6, 64)
	}
	return append(dst, ']')
}
