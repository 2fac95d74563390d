// SPDX-License-Identifier: Apache-2.0

package mockllm

import "strconv"

// responsesEncoder encodes responses of /v1/responses.
type responsesEncoder struct {
	*answer
	sequence int // of the next event
}

func (r *responsesEncoder) itemID() string {
	if r.tool != "" {
		return "fc_" + r.id[len(r.id)-12:]
	}
	return "msg_" + r.id[len(r.id)-12:]
}

// event begins an event.
func (r *responsesEncoder) event(dst []byte, name string) []byte {
	dst = add(dst, "event: ", name, "\n", `data: {"type":"`, name, `","sequence_number":`, strconv.Itoa(r.sequence))
	r.sequence++
	return dst
}

// finalStatus returns the status of the response at its end.
func (r *responsesEncoder) finalStatus() string {
	if r.plan.truncated(0) {
		return "incomplete"
	}
	return "completed"
}

// part appends the content part of an item, with its text if full is set.
func (r *responsesEncoder) part(dst []byte, full bool) []byte {
	dst = add(dst, `{"type":"output_text","text":`)
	if full {
		dst = r.content(dst, 0)
	} else {
		dst = add(dst, `""`)
	}
	return add(dst, `,"annotations":[],"logprobs":[]}`)
}

// item appends the output item with a status.
func (r *responsesEncoder) item(dst []byte, status string) []byte {
	full := status != "in_progress"
	if r.tool == "" {
		dst = add(dst, `{"type":"message","id":"`, r.itemID(), `","status":"`, status, `","role":"assistant","content":[`)
		if full {
			dst = r.part(dst, true)
		}
		return add(dst, `]}`)
	}
	dst = add(dst, `{"type":"function_call","id":"`, r.itemID(), `","call_id":"`, r.callID(0), `","name":`, r.tool, `,"status":"`, status, `","arguments":`)
	if full {
		dst = r.content(dst, 0)
	} else {
		dst = add(dst, `""`)
	}
	return append(dst, '}')
}

// object appends the response object with a status.
func (r *responsesEncoder) object(dst []byte, status string) []byte {
	full := status == "completed" || status == "incomplete"
	dst = add(dst, `{"id":"`, r.id, `","object":"response","created_at":`, r.created, `,"status":"`, status, `","background":false,"error":`)
	if status == "failed" {
		dst = add(dst, `{"code":"server_error","message":"the model failed"}`)
	} else {
		dst = add(dst, "null")
	}
	dst = add(dst, `,"incomplete_details":`)
	if status == "incomplete" {
		dst = add(dst, `{"reason":"max_output_tokens"}`)
	} else {
		dst = add(dst, "null")
	}
	dst = add(dst, `,"instructions":null,"max_output_tokens":`)
	if limit := r.request.MaxOutputTokens; limit != nil {
		dst = strconv.AppendInt(dst, *limit, 10)
	} else {
		dst = add(dst, "null")
	}
	dst = add(dst, `,"metadata":{},"model":`, r.model, `,"output":[`)
	if full {
		dst = r.item(dst, status)
	}
	dst = add(dst, `],"parallel_tool_calls":true,"previous_response_id":null,"store":false,"temperature":1,"text":{"format":{"type":"text"}},"tool_choice":"auto","tools":[],"top_p":1,"truncation":"disabled","usage":`)
	if full && r.plan.usage != usageNone {
		u := r.final()
		dst = add(dst, `{"input_tokens":`, u.input, `,"input_tokens_details":{"cached_tokens":`, u.cached, `},"output_tokens":`, u.output,
			`,"output_tokens_details":{"reasoning_tokens":`, u.reasoning, `},"total_tokens":`, u.total, `}`)
	} else {
		dst = add(dst, "null")
	}
	return append(dst, '}')
}

func (r *responsesEncoder) whole(dst []byte) []byte { return r.object(dst, r.finalStatus()) }

func (r *responsesEncoder) begin(dst []byte) []byte {
	for _, name := range []string{"response.created", "response.in_progress"} {
		dst = add(r.event(dst, name), `,"response":`)
		dst = add(r.object(dst, "in_progress"), "}\n\n")
	}
	dst = add(r.event(dst, "response.output_item.added"), `,"output_index":0,"item":`)
	dst = add(r.item(dst, "in_progress"), "}\n\n")
	if r.tool == "" {
		dst = add(r.event(dst, "response.content_part.added"), r.itemRef(), `,"content_index":0,"part":`)
		dst = add(r.part(dst, false), "}\n\n")
	}
	return dst
}

// itemRef returns the members that identify the item in an event.
func (r *responsesEncoder) itemRef() string {
	return `,"item_id":"` + r.itemID() + `","output_index":0`
}

func (r *responsesEncoder) chunk(dst []byte, _ int, from, to int64, _ progress) []byte {
	if r.tool != "" {
		dst = add(r.event(dst, "response.function_call_arguments.delta"), r.itemRef(), `,"delta":"`)
	} else {
		dst = add(r.event(dst, "response.output_text.delta"), r.itemRef(), `,"content_index":0,"logprobs":[],"delta":"`)
	}
	return add(r.texts[0].append(dst, from, to, true), `"}`, "\n\n")
}

func (r *responsesEncoder) end(dst []byte) []byte {
	if r.tool != "" {
		dst = add(r.event(dst, "response.function_call_arguments.done"), r.itemRef(), `,"name":`, r.tool, `,"arguments":`)
		dst = add(r.content(dst, 0), "}\n\n")
	} else {
		dst = add(r.event(dst, "response.output_text.done"), r.itemRef(), `,"content_index":0,"logprobs":[],"text":`)
		dst = add(r.content(dst, 0), "}\n\n")
		dst = add(r.event(dst, "response.content_part.done"), r.itemRef(), `,"content_index":0,"part":`)
		dst = add(r.part(dst, true), "}\n\n")
	}
	dst = add(r.event(dst, "response.output_item.done"), `,"output_index":0,"item":`)
	dst = add(r.item(dst, r.finalStatus()), "}\n\n")
	dst = add(r.event(dst, "response."+r.finalStatus()), `,"response":`)
	return add(r.object(dst, r.finalStatus()), "}\n\n")
}

func (r *responsesEncoder) failure(dst []byte) []byte {
	dst = add(r.event(dst, "response.failed"), `,"response":`)
	return add(r.object(dst, "failed"), "}\n\n")
}
