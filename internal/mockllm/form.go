// SPDX-License-Identifier: Apache-2.0

package mockllm

import (
	"encoding/json"
	"strconv"
)

// form writes answers of one endpoint. All methods append to dst and return it.
type form interface {
	// whole is an answer in one piece.
	whole(dst []byte) []byte
	// begin is what precedes the first token of a stream.
	begin(dst []byte) []byte
	// piece has tokens [from, to) of a choice; with it, so much was generated.
	piece(dst []byte, choice int, from, to int64, so progress) []byte
	// end is what follows the last token.
	end(dst []byte) []byte
	// broken is an error in the middle of a stream, instead of its end.
	broken(dst []byte) []byte
}

// answer is what forms have in common.
type answer struct {
	request *request
	plan    *plan
	id      string
	model   string // quoted
	created string // seconds
	tool    string // name of the tool that is called, quoted; "" for none
	texts   []text // of the choices that are shown
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
				from: p.reasoning[i], length: p.outputs[i], cut: p.cut(i),
			})
		}
	}
	return a
}

func (a *answer) form(e endpoint) form {
	switch e {
	case chat:
		return chatForm{a}
	case completions:
		return completionForm{a}
	case responses:
		return &responseForm{answer: a}
	case messages:
		return &messageForm{answer: a}
	}
	return nil
}

// progress is the output of all choices so far.
type progress struct{ output, reasoning int64 }

// all is the progress at the end, and final the usage.
func (a *answer) all() progress {
	sum, thought, _ := a.plan.generated(never)
	return progress{sum, thought}
}

func (a *answer) final() reported {
	all := a.all()
	return a.plan.report(all.output, all.reasoning)
}

// content appends the quoted text of a choice, whole.
func (a *answer) content(dst []byte, choice int) []byte {
	dst = append(dst, '"')
	dst = a.texts[choice].append(dst, 0, a.plan.outputs[choice], true)
	return append(dst, '"')
}

// callID is that of the tool call of a choice.
func (a *answer) callID(choice int) string {
	return "call_" + a.id[len(a.id)-12:] + strconv.Itoa(choice)
}

// quoted is a string as JSON.
func quoted(s string) string {
	text, err := json.Marshal(s)
	if err != nil {
		return `""` // a string is always JSON
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
