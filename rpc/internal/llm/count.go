// SPDX-License-Identifier: Apache-2.0

package llm

// countText reads the next value and returns the size of its strings, numbers and
// names.
func (p *parser) countText() int64 {
	if p.failed() {
		return 0
	}
	var n int64
	switch p.peek() {
	case '{':
		for p.enter('{'); p.member(); {
			n += int64(len(p.name()))
			n += p.countText()
		}
	case '[':
		for p.enter('['); p.element(); {
			n += p.countText()
		}
	case '"':
		n = int64(p.text().size)
	default:
		n = int64(len(p.scalar()))
	}
	return n
}

// countContent is countText for the content of a prompt: an object whose type is that
// of an image, audio, video or file counts as one of its medium, and encoded data counts
// for at most OpaqueBytes. text: a string here is text in any case, and also counted in
// textBytes.
func (p *parser) countContent(text bool) int64 {
	if p.failed() {
		return 0
	}
	switch p.peek() {
	case '{':
		n, _ := p.countObject()
		return n
	case '[':
		var n int64
		for p.enter('['); p.element(); {
			n += p.countContent(text)
		}
		return n
	case '"':
		if !text {
			n, _ := p.countString()
			return n
		}
		n := p.countText()
		p.r.textBytes += n
		return n
	}
	return p.countText()
}

// countString reads a string that is either text or encoded data, and returns what it
// counts for.
func (p *parser) countString() (n int64, encoded bool) {
	at := p.text()
	n = int64(at.size)
	if p.failed() || !isEncoded(p.b[at.start+1:at.end-1]) {
		return n, false
	}
	counted := min(n, OpaqueBytes)
	p.r.FixedSize = true
	p.r.OpaqueBytes += n - counted
	return counted, true
}

// countObject counts an object of a prompt. If its type is that of a medium, the
// payload does not count, whether it comes before the type or after it. Without such
// a type the payload counts as content, and as text if the type is text. The arguments
// of tools, which may have any names, count as text. inline: the object is the source of
// a document and holds text.
func (p *parser) countObject() (n int64, inline bool) {
	kind, payload, opaque := noMedium, int64(0), int64(0) // opaque: of payload
	for p.enter('{'); p.member(); {
		name := p.name()
		n += int64(len(name))
		before := p.r.OpaqueBytes
		switch {
		case string(name) == "type" && p.peek() == '"':
			at := p.text()
			if p.failed() {
				return 0, false
			}
			n += int64(at.size)
			value := at.in(p.b)
			kind = mediumOf(value)
			inline = isTextType(value)
		case isText(name):
			certain := p.r.textBytes
			n += p.countContent(true)
			if !isCertainText(name) {
				p.r.textBytes = certain
			}
		case string(name) == "input", string(name) == "arguments":
			n += p.countText()
		case string(name) == "source" && p.peek() == '{':
			bytes, text := p.countObject()
			if text {
				n += bytes
				continue
			}
			payload += bytes
			opaque += p.r.OpaqueBytes - before
		case p.peek() == '"':
			bytes, encoded := p.countString()
			if !encoded && !isPayload(name) {
				n += bytes
				continue
			}
			payload += bytes
			opaque += p.r.OpaqueBytes - before
		case isPayload(name):
			payload += p.countContent(false)
			opaque += p.r.OpaqueBytes - before
		default:
			n += p.countContent(false)
		}
	}
	switch {
	case kind != noMedium:
		p.r.FixedSize = true
		p.r.OpaqueBytes -= opaque
		return n + mediumBytes[kind], inline
	case inline:
		p.r.OpaqueBytes -= opaque
		return n + payload + opaque, inline
	}
	return n + payload, inline
}

// countPrompt reads a prompt: a text, a list of texts, a list of token ids, or a list
// of lists of token ids.
func (p *parser) countPrompt() {
	r := p.r
	if p.peek() != '[' {
		if c := p.peek(); c != '"' && c != '{' {
			p.wrongType("a string or a list")
			return
		}
		r.InputBytes += p.countContent(true)
		return
	}
	var prompts int64
	var ids bool
	for p.enter('['); p.element(); {
		switch c := p.peek(); c {
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

// tokenOrText reads a token id or a text.
func (p *parser) tokenOrText() {
	switch c := p.peek(); {
	case c >= '0' && c <= '9':
		p.scalar()
		p.r.InputTokens++
	case c == '"', c == '{':
		p.r.InputBytes += p.countContent(true)
	default:
		p.wrongType("a string or a token id")
	}
}

// stored records a reference to input that the server stores.
func (p *parser) stored() {
	p.r.StoredInput = true
	p.r.HiddenTokens += StoredTokens
}

// embeds reads prompts as vectors: a string or a list of strings.
func (p *parser) embeds() {
	p.r.StoredInput = true
	var size int64
	if p.peek() != '[' {
		p.embedded++
		size = p.countText()
	} else {
		for p.enter('['); p.element(); {
			p.embedded++
			size += p.countText()
		}
	}
	p.r.HiddenTokens += (size + EmbedBytes - 1) / EmbedBytes
}

func (p *parser) toolList() {
	if p.peek() != '[' {
		p.wrongType("a list")
		return
	}
	for p.enter('['); p.element(); {
		p.tools = true
		if p.peek() != '{' {
			p.r.InputBytes += p.countText()
			continue
		}
		for p.enter('{'); p.member(); {
			name := p.name()
			if string(name) == "vector_store_ids" || string(name) == "container" {
				p.stored() // files that the tool reads
			}
			p.r.InputBytes += int64(len(name)) + p.countText()
		}
	}
}

// toolChoice reads a string, or an object with a type.
func (p *parser) toolChoice() {
	if p.peek() == '"' {
		at := p.text()
		p.noTools = !p.failed() && string(at.in(p.b)) == "none"
		return
	}
	kind, n := p.countTyped()
	p.noTools = kind == "none"
	p.r.InputBytes += n
}

// format reads the output format. Any format but text must not be truncated.
func (p *parser) format() {
	kind, n := p.countTyped()
	if kind != "text" {
		p.r.NoTruncation = true
	}
	p.r.InputBytes += n
}

// formatObject reads an object that may have a format.
func (p *parser) formatObject() {
	if p.peek() != '{' {
		p.wrongType("an object")
		return
	}
	for p.enter('{'); p.member(); {
		if string(p.name()) != "format" {
			p.skip()
		} else if !p.skipNull() {
			p.format()
		}
	}
}

// countTyped reads an object and returns its type and size.
func (p *parser) countTyped() (kind string, n int64) {
	if p.peek() != '{' {
		p.wrongType("an object")
		return "", 0
	}
	for p.enter('{'); p.member(); {
		n += int64(len(p.name()))
		if string(p.name()) == "type" && p.peek() == '"' {
			at := p.text()
			if p.failed() {
				return "", 0
			}
			kind = string(at.in(p.b))
			n += int64(at.size)
			continue
		}
		n += p.countText()
	}
	return kind, n
}

func (p *parser) thinkingBudget() {
	if p.peek() != '{' {
		p.wrongType("an object")
		return
	}
	var budget int64
	var off bool
	for p.enter('{'); p.member(); {
		switch name := p.name(); {
		case string(name) == "type" && p.peek() == '"':
			at := p.text()
			off = !p.failed() && string(at.in(p.b)) == "disabled"
		case string(name) == "budget_tokens" && !p.skipNull():
			budget = p.wholeNumber(1)
		case string(name) == "budget_tokens":
		default:
			p.skip()
		}
	}
	if !off {
		p.thinking = budget
	}
}
