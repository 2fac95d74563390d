// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"encoding/base64"
	"encoding/binary"
	"math"
	"strconv"
)

// openAIUsage is the usage block of chats and completions.
func openAIUsage(dst []byte, u reported) []byte {
	return add(dst, `{"prompt_tokens":`, u.input, `,"completion_tokens":`, u.output, `,"total_tokens":`, u.total,
		`,"prompt_tokens_details":{"cached_tokens":`, u.cached, `},"completion_tokens_details":{"reasoning_tokens":`, u.reasoning, `}}`)
}

// wants reports whether a stream has usage, and whether every chunk has it.
func (a *answer) wants() (at, always bool) {
	o := a.request.StreamOptions
	if o == nil || !o.IncludeUsage {
		return false, false
	}
	return true, o.ContinuousUsage && a.plan.usage != none
}

// chunk begins a chunk of a stream of chats or completions.
func (a *answer) chunk(dst []byte, object string) []byte {
	return add(dst, `data: {"id":"`, a.id, `","object":"`, object, `","created":`, a.created, `,"model":`, a.model, `,"system_fingerprint":"fp_mock","choices":[`)
}

// close ends a chunk when so much was generated.
func (a *answer) close(dst []byte, so progress) []byte {
	dst = append(dst, ']')
	switch at, always := a.wants(); {
	case always:
		dst = openAIUsage(add(dst, `,"usage":`), a.plan.report(so.output, so.reasoning))
	case at:
		dst = add(dst, `,"usage":null`)
	}
	return add(dst, "}\n\n")
}

// done ends a stream.
func (a *answer) done(dst []byte, object string) []byte {
	if at, _ := a.wants(); at && a.plan.usage != none {
		dst = a.chunk(dst, object)
		dst = openAIUsage(add(dst, `],"usage":`), a.final())
		dst = add(dst, "}\n\n")
	}
	return add(dst, "data: [DONE]\n\n")
}

// failed is an error in the middle of a stream.
func (a *answer) failed(dst []byte) []byte {
	return add(dst, `data: {"error":{"message":"the model failed","type":"server_error","param":null,"code":"model_failed"}}`, "\n\n")
}

// wholeUsage appends the usage of an answer in one piece, and its end.
func (a *answer) wholeUsage(dst []byte) []byte {
	dst = append(dst, ']')
	if a.plan.usage != none {
		dst = openAIUsage(add(dst, `,"usage":`), a.final())
	}
	return add(dst, "}")
}

func (a *answer) finish(choice int) string {
	switch {
	case a.plan.cut(choice):
		return "length"
	case a.tool != "":
		return "tool_calls"
	}
	return "stop"
}

type chatForm struct{ *answer }

const chatChunk = "chat.completion.chunk"

func (c chatForm) whole(dst []byte) []byte {
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

func (c chatForm) begin(dst []byte) []byte {
	for i := range c.texts {
		dst = add(c.chunk(dst, chatChunk), `{"index":`, strconv.Itoa(i), `,"delta":{"role":"assistant","content":`)
		if c.tool != "" {
			dst = add(dst, `null,"tool_calls":[{"index":0,"id":"`, c.callID(i), `","type":"function","function":{"name":`, c.tool, `,"arguments":""}}]`)
		} else {
			dst = add(dst, `""`)
		}
		dst = c.close(add(dst, `},"logprobs":null,"finish_reason":null}`), progress{})
	}
	return dst
}

func (c chatForm) piece(dst []byte, choice int, from, to int64, so progress) []byte {
	dst = add(c.chunk(dst, chatChunk), `{"index":`, strconv.Itoa(choice), `,"delta":{`)
	if c.tool != "" {
		dst = add(dst, `"tool_calls":[{"index":0,"function":{"arguments":"`)
		dst = add(c.texts[choice].append(dst, from, to, true), `"}}]`)
	} else {
		dst = add(dst, `"content":"`)
		dst = append(c.texts[choice].append(dst, from, to, true), '"')
	}
	return c.close(add(dst, `},"logprobs":null,"finish_reason":null}`), so)
}

func (c chatForm) end(dst []byte) []byte {
	for i := range c.texts {
		dst = add(c.chunk(dst, chatChunk), `{"index":`, strconv.Itoa(i), `,"delta":{},"logprobs":null,"finish_reason":"`, c.finish(i), `"}`)
		dst = c.close(dst, c.all())
	}
	return c.done(dst, chatChunk)
}

func (c chatForm) broken(dst []byte) []byte { return c.failed(dst) }

type completionForm struct{ *answer }

const completionObject = "text_completion"

func (c completionForm) whole(dst []byte) []byte {
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

func (c completionForm) begin(dst []byte) []byte { return dst }

func (c completionForm) piece(dst []byte, choice int, from, to int64, so progress) []byte {
	dst = add(c.chunk(dst, completionObject), `{"index":`, strconv.Itoa(choice), `,"text":"`)
	dst = c.texts[choice].append(dst, from, to, true)
	return c.close(add(dst, `","logprobs":null,"finish_reason":null}`), so)
}

func (c completionForm) end(dst []byte) []byte {
	for i := range c.texts {
		dst = add(c.chunk(dst, completionObject), `{"index":`, strconv.Itoa(i), `,"text":"","logprobs":null,"finish_reason":"`, c.finish(i), `"}`)
		dst = c.close(dst, c.all())
	}
	return c.done(dst, completionObject)
}

func (c completionForm) broken(dst []byte) []byte { return c.failed(dst) }

// embedding is an answer of the embeddings endpoint.
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
	if a.plan.usage != none {
		u := a.plan.report(0, 0)
		dst = add(dst, `,"usage":{"prompt_tokens":`, u.input, `,"total_tokens":`, u.total, `}`)
	}
	return append(dst, '}')
}

// vector is of length 1.
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
