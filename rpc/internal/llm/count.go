// SPDX-License-Identifier: Apache-2.0

package llm

// words counts the strings, numbers and names of the value that comes next.
func (p *parser) words() int64 {
	if p.failed() {
		return 0
	}
	var n int64
	switch p.kind() {
	case '{':
		for p.enter('{'); p.member(); {
			n += int64(len(p.name()))
			n += p.words()
		}
	case '[':
		for p.enter('['); p.element(); {
			n += p.words()
		}
	case '"':
		n = int64(p.text().size)
	default:
		n = int64(len(p.scalar()))
	}
	return n
}

// parts counts like words, except that each part of a prompt that is an image,
// audio, video or a file by its type counts for what its medium does.
func (p *parser) parts() int64 {
	if p.failed() {
		return 0
	}
	switch p.kind() {
	case '{':
		n, _ := p.part()
		return n
	case '[':
		var n int64
		for p.enter('['); p.element(); {
			n += p.parts()
		}
		return n
	}
	return p.words()
}

// part counts an object. Its payload is left out if it is no text: that is so when
// the type says it, in whatever order they come. A payload without such a type
// counts as text, and so do the arguments of tools, which may have any names.
// inline: the object is the source of a document that is text.
func (p *parser) part() (n int64, inline bool) {
	kind, payload := noMedium, int64(0)
	for p.enter('{'); p.member(); {
		name := p.name()
		n += int64(len(name))
		switch {
		case string(name) == "type" && p.kind() == '"':
			at := p.text()
			if p.failed() {
				return 0, false
			}
			n += int64(at.size)
			value := at.in(p.b)
			kind = mediumOf(value)
			inline = string(value) == "text" || string(value) == "content"
		case string(name) == "source" && p.kind() == '{':
			bytes, text := p.part()
			if text {
				n += bytes
			} else {
				payload += bytes
			}
		case isPayload(name):
			payload += p.parts()
		case string(name) == "input", string(name) == "arguments":
			n += p.words()
		default:
			n += p.parts()
		}
	}
	if kind == noMedium {
		return n + payload, inline
	}
	return n + mediumBytes[kind], inline
}

// prompt counts a text, a list of texts, token ids, or a list of lists of them.
func (p *parser) prompt() {
	r := p.r
	if p.kind() != '[' {
		if c := p.kind(); c != '"' && c != '{' {
			p.wrong("a string or a list")
			return
		}
		r.InputBytes += p.parts()
		return
	}
	var prompts int64
	var ids bool
	for p.enter('['); p.element(); {
		switch c := p.kind(); c {
		case '[':
			prompts++
			for p.enter('['); p.element(); {
				p.tokenOrText()
			}
		case '"', '{':
			prompts++
			p.tokenOrText()
		default:
			ids = true
			p.tokenOrText()
		}
	}
	if ids {
		prompts++
	}
	p.prompts = max(1, prompts)
}

// tokenOrText counts a token id, or text.
func (p *parser) tokenOrText() {
	switch c := p.kind(); {
	case c >= '0' && c <= '9':
		p.scalar()
		p.r.InputTokens++
	case c == '"', c == '{':
		p.r.InputBytes += p.parts()
	default:
		p.wrong("a string or a token id")
	}
}

func (p *parser) toolList() {
	if p.kind() != '[' {
		p.wrong("a list")
		return
	}
	for p.enter('['); p.element(); {
		p.tools = true
		p.r.InputBytes += p.words()
	}
}

// toolChoice is a word, or an object with a type.
func (p *parser) toolChoice() {
	if p.kind() == '"' {
		at := p.text()
		p.noTools = !p.failed() && string(at.in(p.b)) == "none"
		return
	}
	kind, n := p.typed()
	p.noTools = kind == "none"
	p.r.InputBytes += n
}

// format is that of the output: anything but text is of use only as a whole.
func (p *parser) format() {
	kind, n := p.typed()
	if kind != "text" {
		p.r.Uncuttable = true
	}
	p.r.InputBytes += n
}

// formats is an object that may have a format.
func (p *parser) formats() {
	if p.kind() != '{' {
		p.wrong("an object")
		return
	}
	for p.enter('{'); p.member(); {
		if string(p.name()) != "format" {
			p.skip()
		} else if !p.null() {
			p.format()
		}
	}
}

// typed counts an object and returns its type.
func (p *parser) typed() (kind string, n int64) {
	if p.kind() != '{' {
		p.wrong("an object")
		return "", 0
	}
	for p.enter('{'); p.member(); {
		n += int64(len(p.name()))
		if string(p.name()) == "type" && p.kind() == '"' {
			at := p.text()
			if p.failed() {
				return "", 0
			}
			kind = string(at.in(p.b))
			n += int64(at.size)
			continue
		}
		n += p.words()
	}
	return kind, n
}

func (p *parser) thinkingBudget() {
	if p.kind() != '{' {
		p.wrong("an object")
		return
	}
	var budget int64
	var off bool
	for p.enter('{'); p.member(); {
		switch name := p.name(); {
		case string(name) == "type" && p.kind() == '"':
			at := p.text()
			off = !p.failed() && string(at.in(p.b)) == "disabled"
		case string(name) == "budget_tokens" && !p.null():
			budget = p.whole(1)
		case string(name) == "budget_tokens":
		default:
			p.skip()
		}
	}
	if !off {
		p.thinking = budget
	}
}
