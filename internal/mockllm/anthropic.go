// SPDX-License-Identifier: Apache-2.0

package mockllm

import "strconv"

// messagesEncoder encodes responses of /v1/messages.
type messagesEncoder struct {
	*answer
	block    int  // index of the open block, or else of the next one
	thinking bool // a thinking block is open
	open     bool
}

func (m *messagesEncoder) reason() string {
	switch {
	case m.plan.truncated(0):
		return "max_tokens"
	case m.tool != "":
		return "tool_use"
	}
	return "end_turn"
}

// usage appends the usage of a message. At the start of a stream it has the whole
// input and one token of output.
func (m *messagesEncoder) usage(dst []byte, u usageBlock) []byte {
	return add(dst, `{"input_tokens":`, u.fresh, `,"cache_creation_input_tokens":`, u.cacheWrite, `,"cache_read_input_tokens":`, u.cached,
		`,"output_tokens":`, u.output, `,"service_tier":"standard"}`)
}

func (m *messagesEncoder) toolID() string { return "toolu_" + m.id[len(m.id)-12:] }

// thought returns the text of the reasoning.
func (m *messagesEncoder) thought() text {
	return text{seed: m.plan.seed + 1, length: m.plan.reasoning[0], cut: true}
}

func (m *messagesEncoder) whole(dst []byte) []byte {
	dst = add(dst, `{"id":"`, m.id, `","type":"message","role":"assistant","model":`, m.model, `,"content":[`)
	if n := m.plan.reasoning[0]; n > 0 {
		dst = add(dst, `{"type":"thinking","thinking":"`)
		dst = add(m.thought().append(dst, 0, n, true), `","signature":"bW9jaw=="},`)
	}
	if m.tool != "" {
		dst = add(dst, `{"type":"tool_use","id":"`, m.toolID(), `","name":`, m.tool, `,"input":`)
		if m.plan.truncated(0) || m.plan.outputs[0] == m.plan.reasoning[0] {
			dst = add(dst, `{}`)
		} else {
			dst = m.texts[0].append(dst, 0, m.plan.outputs[0], false)
		}
		dst = append(dst, '}')
	} else {
		dst = add(m.content(add(dst, `{"type":"text","text":`), 0), `}`)
	}
	dst = add(dst, `],"stop_reason":"`, m.reason(), `","stop_sequence":null`)
	if m.plan.usage != usageNone {
		dst = m.usage(add(dst, `,"usage":`), m.final())
	}
	return append(dst, '}')
}

func (m *messagesEncoder) begin(dst []byte) []byte {
	dst = add(dst, "event: message_start\n", `data: {"type":"message_start","message":{"id":"`, m.id, `","type":"message","role":"assistant","model":`, m.model,
		`,"content":[],"stop_reason":null,"stop_sequence":null`)
	if m.plan.usage != usageNone {
		u := m.plan.usageBlock(1, 0)
		if u.dialect == Relay { // it does not know what is cached before the end
			u.fresh, u.cacheWrite, u.cached = u.input, "0", "0"
		}
		dst = m.usage(add(dst, `,"usage":`), u)
	}
	dst = add(dst, "}}\n\n")
	return add(dst, "event: ping\n", `data: {"type":"ping"}`, "\n\n")
}

// start opens a content block, and closes the open one.
func (m *messagesEncoder) start(dst []byte, content ...string) []byte {
	dst = m.stop(dst)
	m.open = true
	dst = add(dst, "event: content_block_start\n", `data: {"type":"content_block_start","index":`, strconv.Itoa(m.block), `,"content_block":`)
	return add(add(dst, content...), "}\n\n")
}

func (m *messagesEncoder) stop(dst []byte) []byte {
	if !m.open {
		return dst
	}
	dst = add(dst, "event: content_block_stop\n", `data: {"type":"content_block_stop","index":`, strconv.Itoa(m.block), "}\n\n")
	m.block++
	m.open, m.thinking = false, false
	return dst
}

// openAnswer opens the block of the text or the tool call, unless it is open.
func (m *messagesEncoder) openAnswer(dst []byte) []byte {
	switch {
	case m.open && !m.thinking:
		return dst
	case m.tool != "":
		return m.start(dst, `{"type":"tool_use","id":"`, m.toolID(), `","name":`, m.tool, `,"input":{}}`)
	}
	return m.start(dst, `{"type":"text","text":""}`)
}

func (m *messagesEncoder) delta(dst []byte, kind, field string, t text, from, to int64) []byte {
	dst = add(dst, "event: content_block_delta\n", `data: {"type":"content_block_delta","index":`, strconv.Itoa(m.block),
		`,"delta":{"type":"`, kind, `","`, field, `":"`)
	return add(t.append(dst, from, to, true), `"}}`, "\n\n")
}

func (m *messagesEncoder) chunk(dst []byte, _ int, from, to int64, _ progress) []byte {
	thought := m.plan.reasoning[0]
	if from < thought {
		if !m.open {
			dst = m.start(dst, `{"type":"thinking","thinking":"","signature":""}`)
			m.thinking = true
		}
		dst = m.delta(dst, "thinking_delta", "thinking", m.thought(), from, min(to, thought))
	}
	if to <= thought {
		return dst
	}
	dst = m.openAnswer(dst)
	if m.tool != "" {
		return m.delta(dst, "input_json_delta", "partial_json", m.texts[0], from, to)
	}
	return m.delta(dst, "text_delta", "text", m.texts[0], from, to)
}

func (m *messagesEncoder) end(dst []byte) []byte {
	dst = m.stop(m.openAnswer(dst))
	dst = add(dst, "event: message_delta\n", `data: {"type":"message_delta","delta":{"stop_reason":"`, m.reason(), `","stop_sequence":null}`)
	switch u := m.final(); {
	case m.plan.usage == usageNone:
	case u.dialect == Relay:
		dst = m.usage(add(dst, `,"usage":`), u)
	default:
		dst = add(dst, `,"usage":{"output_tokens":`, u.output, `}`)
	}
	dst = add(dst, "}\n\n")
	return add(dst, "event: message_stop\n", `data: {"type":"message_stop"}`, "\n\n")
}

func (m *messagesEncoder) failure(dst []byte) []byte {
	return add(dst, "event: error\n", `data: {"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}`, "\n\n")
}
