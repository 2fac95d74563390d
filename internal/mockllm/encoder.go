// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"encoding/json"
	"strconv"
)

// encoder encodes the responses of one endpoint. All methods append to dst and
// return it.
type encoder interface {
	// whole appends a response without streaming.
	whole(dst []byte) []byte
	// begin appends the events before the first token of a stream.
	begin(dst []byte) []byte
	// chunk appends tokens [from, to) of a choice. total is the output of all choices
	// so far, including these tokens.
	chunk(dst []byte, choice int, from, to int64, total progress) []byte
	// end appends the events after the last token.
	end(dst []byte) []byte
	// failure appends an error event, which ends a stream early.
	failure(dst []byte) []byte
}

// answer is the content of a response, shared by all encoders.
type answer struct {
	request *request
	plan    *plan
	id      string
	model   string // quoted
	created string // seconds
	tool    string // quoted name of the called tool; empty: none
	texts   []text // of the choices in the response
}

func newAnswer(r *request, p *plan, id string, created int64) *answer {
	a := &answer{request: r, plan: p, id: id, model: quoted(r.Model), created: strconv.FormatInt(created, 10)}
	if name := r.tool(); name != "" {
		a.tool = quoted(name)
	}
	for i := range p.shown {
		if i < len(p.outputs) {
			a.texts = append(a.texts, text{
				seed: p.seed, choice: i, tool: a.tool != "",
				from: p.reasoning[i], length: p.outputs[i], cut: p.truncated(i),
			})
		}
	}
	return a
}

func (a *answer) encoder(e endpoint) encoder {
	switch e {
	case chat:
		return chatEncoder{a}
	case completions:
		return completionsEncoder{a}
	case responses:
		return &responsesEncoder{answer: a}
	case messages:
		return &messagesEncoder{answer: a}
	}
	return nil
}

// progress is the output of all choices up to some token.
type progress struct{ output, reasoning int64 }

// all returns the progress at the end.
func (a *answer) all() progress {
	sum, thought, _ := a.plan.generated(never)
	return progress{sum, thought}
}

// final returns the usage block at the end.
func (a *answer) final() usageBlock {
	all := a.all()
	return a.plan.usageBlock(all.output, all.reasoning)
}

// content appends the quoted text of a choice.
func (a *answer) content(dst []byte, choice int) []byte {
	dst = append(dst, '"')
	dst = a.texts[choice].append(dst, 0, a.plan.outputs[choice], true)
	return append(dst, '"')
}

// callID returns the id of the tool call of a choice.
func (a *answer) callID(choice int) string {
	return "call_" + a.id[len(a.id)-12:] + strconv.Itoa(choice)
}

// quoted returns a string as JSON.
func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		return `""` // cannot happen for a string
	}
	return string(text)
}

// add appends strings.
func add(dst []byte, parts ...string) []byte {
	for _, p := range parts {
		dst = append(dst, p...)
	}
	return dst
}
