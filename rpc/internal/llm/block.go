// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"bytes"

	"github.com/bucketring/bucketring/internal/amount"
)

// usageBlock is a usage object as sent. -1: absent or null. If a count has several
// names, it is the largest of them.
type usageBlock struct {
	input, output, total    int64
	cached                  int64 // input that was read from a cache
	writes, write, write1h  int64 // input that was written to a cache: all, for minutes, for an hour
	reasoning               int64
	otherInput, otherOutput int64 // of Cohere, beside what it bills
	toolInput               int64 // input that the server's tools added (Gemini)
	images, searches        int64
	sources                 int64  // searches that are counted outside of the tools
	serviceTier             []byte // valid as long as the text

	openAI    bool // the input has OpenAI's name
	anthropic bool // a part of the input has Anthropic's name
	thoughts  bool // reasoning has Gemini's name, with which it is beside the output
	isBeside  bool // an iteration that the counts of its block leave out
	invalid   bool // a count is not a whole number, or out of bounds

	iterations, beside usageCounts // of Anthropic: the sum of all, and of those that the counts leave out
}

// usageCounts are counts of tokens in Anthropic's format, in which cached and written
// input is beside the input. -1: absent or null.
type usageCounts struct{ input, cached, writes, write, write1h, output int64 }

var noCounts = usageCounts{-1, -1, -1, -1, -1, -1}

func (c *usageCounts) add(b *usageBlock) {
	c.input = addCount(c.input, b.input)
	c.cached = addCount(c.cached, b.cached)
	c.writes = addCount(c.writes, b.writes)
	c.write = addCount(c.write, b.write)
	c.write1h = addCount(c.write1h, b.write1h)
	c.output = addCount(c.output, b.output)
}

// allInput is the input with its parts.
func (c *usageCounts) allInput() int64 {
	return addCount(addCount(c.input, c.cached), max(c.writes, addCount(c.write, c.write1h)))
}

var emptyBlock = usageBlock{input: -1, output: -1, total: -1, cached: -1, writes: -1, write: -1, write1h: -1, reasoning: -1, toolInput: -1, otherInput: -1, otherOutput: -1, images: -1, searches: -1, sources: -1, iterations: noCounts, beside: noCounts}

// read reads a usage object of any of the formats.
func (b *usageBlock) read(s *scanner, text []byte) {
	*b = emptyBlock
	s.reset(text)
	for s.enter('{'); s.member(); {
		b.member(s)
	}
	if s.failed() {
		b.invalid = true
	}
	if b.input < 0 && b.output < 0 {
		b.input, b.output = b.otherInput, b.otherOutput
	}
	b.addIterations()
}

// addIterations adds the iterations that the counts of Anthropic leave out, unless a relay
// has added them.
func (b *usageBlock) addIterations() {
	own, all, more := noCounts, &b.iterations, &b.beside
	own.add(b)
	if own.allInput() < all.allInput() {
		b.input = addCount(b.input, more.input)
		b.cached = addCount(b.cached, more.cached)
		b.writes = addCount(b.writes, more.writes)
		b.write = addCount(b.write, more.write)
		b.write1h = addCount(b.write1h, more.write1h)
	}
	if own.output < all.output {
		b.output = addCount(b.output, more.output)
	}
}

// readIterations adds up the iterations of a message. Those that compact the context or ask
// an advisor are beside the counts of the block; others are in them, or not billed.
func (b *usageBlock) readIterations(s *scanner) {
	if s.peek() != '[' {
		s.skip()
		return
	}
	for s.enter('['); s.element(); {
		one := emptyBlock
		one.object(s, (*usageBlock).iteration)
		b.invalid = b.invalid || one.invalid
		b.iterations.add(&one)
		if one.isBeside {
			b.beside.add(&one)
		}
	}
}

// iteration reads a count of one iteration.
func (b *usageBlock) iteration(s *scanner) {
	switch string(s.name()) {
	case "input_tokens":
		b.number(s, &b.input)
	case "output_tokens":
		b.number(s, &b.output)
	case "type":
		s.peek()
		start := s.i
		s.skip()
		kind := string(s.b[start:s.i])
		b.isBeside = kind == `"compaction"` || kind == `"advisor_message"`
	default:
		b.cache(s)
	}
}

// member reads a member of the usage object.
func (b *usageBlock) member(s *scanner) {
	switch string(s.name()) {
	case "prompt_tokens":
		b.openAI = true
		b.number(s, &b.input)
	case "input_tokens", "inputTokens", "promptTokenCount":
		b.number(s, &b.input)
	case "completion_tokens", "output_tokens", "outputTokens", "candidatesTokenCount":
		b.number(s, &b.output)
	case "total_tokens", "totalTokens", "totalTokenCount":
		b.number(s, &b.total)
	case "reasoning_tokens":
		b.number(s, &b.reasoning)
	case "toolUsePromptTokenCount":
		b.number(s, &b.toolInput)
	case "billed_units":
		b.object(s, (*usageBlock).billed)
	case "tokens":
		b.object(s, (*usageBlock).unbilled)
	case "thoughtsTokenCount":
		b.thoughts = true
		b.number(s, &b.reasoning)
	case "prompt_tokens_details", "input_tokens_details", "prompt_token_details", "input_token_details":
		b.object(s, (*usageBlock).inputDetail)
	case "completion_tokens_details", "output_tokens_details", "completion_token_details", "output_token_details":
		b.object(s, (*usageBlock).outputDetail)
	case "server_tool_use", "server_side_tool_usage_details":
		b.object(s, (*usageBlock).toolUse)
	case "num_search_queries", "num_sources_used", "search_units":
		b.extra(s, &b.sources)
	case "image_count", "num_images", "generated_images":
		b.extra(s, &b.images)
	case "service_tier":
		b.tier(s)
	case "iterations":
		b.readIterations(s)
	default:
		b.cache(s)
	}
}

// billed reads a count of what Cohere bills, in place of the tokens beside it.
func (b *usageBlock) billed(s *scanner) {
	switch string(s.name()) {
	case "input_tokens", "output_tokens", "search_units":
		b.member(s)
	default:
		s.skip()
	}
}

// unbilled reads a count of tokens that counts only if nothing else does.
func (b *usageBlock) unbilled(s *scanner) {
	switch string(s.name()) {
	case "input_tokens":
		b.number(s, &b.otherInput)
	case "output_tokens":
		b.number(s, &b.otherOutput)
	default:
		s.skip()
	}
}

// cache reads a count of cached input, which may be at two levels.
func (b *usageBlock) cache(s *scanner) {
	switch string(s.name()) {
	case "cached_tokens", "prompt_cache_hit_tokens", "cachedContentTokenCount":
		b.number(s, &b.cached)
	case "cache_read_input_tokens", "cacheReadInputTokens":
		b.anthropic = true
		b.number(s, &b.cached)
	case "cache_creation_input_tokens", "cacheWriteInputTokens":
		b.anthropic = true
		b.number(s, &b.writes)
	case "cache_write_tokens", "cache_creation_tokens":
		b.number(s, &b.writes)
	case "cache_creation", "cache_creation_token_details":
		b.object(s, (*usageBlock).cacheLifetime)
	default:
		s.skip()
	}
}

func (b *usageBlock) inputDetail(s *scanner) { b.cache(s) }

func (b *usageBlock) outputDetail(s *scanner) {
	switch string(s.name()) {
	case "reasoning_tokens", "thinking_tokens":
		b.number(s, &b.reasoning)
	default:
		s.skip()
	}
}

func (b *usageBlock) cacheLifetime(s *scanner) {
	switch string(s.name()) {
	case "ephemeral_5m_input_tokens":
		b.number(s, &b.write)
	case "ephemeral_1h_input_tokens":
		b.number(s, &b.write1h)
	default:
		s.skip()
	}
}

// toolUse reads the calls of one tool of the server. There may be several that search.
func (b *usageBlock) toolUse(s *scanner) {
	calls := int64(-1)
	switch string(s.name()) {
	case "web_search_requests", "web_search_calls", "x_search_calls":
		b.extra(s, &calls)
		b.searches = addCount(b.searches, calls)
	case "image_generation_calls":
		b.extra(s, &calls)
		b.images = addCount(b.images, calls)
	default:
		s.skip()
	}
}

// addCount adds two counts, either of which may be absent.
func addCount(a, b int64) int64 {
	if a < 0 || b < 0 {
		return max(a, b)
	}
	return min(a+b, amount.Max)
}

// object reads the members of an object. Anything else is skipped.
func (b *usageBlock) object(s *scanner, member func(*usageBlock, *scanner)) {
	if s.peek() != '{' {
		s.skip()
		return
	}
	for s.enter('{'); s.member(); {
		member(b, s)
	}
}

// number reads a count of tokens, which may be quoted. Anything else but null makes the
// block invalid.
func (b *usageBlock) number(s *scanner, to *int64) {
	n, ok := count(s)
	if !ok {
		b.invalid = true
		return
	}
	*to = max(*to, n)
}

// extra reads a count that is not of tokens. What is no count is ignored: the name may
// have another meaning to some server.
func (b *usageBlock) extra(s *scanner, to *int64) {
	if n, ok := count(s); ok {
		*to = max(*to, n)
	}
}

// count reads a value that is a whole number of at most amount.Max, as a number or as
// text. It returns -1 for null, and false for any other value.
func count(s *scanner) (int64, bool) {
	var digits []byte
	switch c := s.peek(); {
	case c == '"':
		at := s.text()
		if s.failed() {
			return 0, false
		}
		digits = bytes.TrimSpace(s.b[at.start+1 : at.end-1])
	case c == '-' || c >= '0' && c <= '9':
		digits = s.scalar()
	default:
		s.skip()
		return -1, c == 'n'
	}
	if !isNumber(digits) {
		return 0, false
	}
	n, ok := parseWhole(digits)
	return n, ok && n >= 0 && n <= amount.Max
}

// maxTierBytes is the length of the longest name of a service tier that is read.
const maxTierBytes = 32

// tier reads the name of a service tier.
func (b *usageBlock) tier(s *scanner) {
	if s.peek() != '"' {
		s.skip()
		return
	}
	at := s.text()
	if s.failed() || at.escaped || at.end-at.start-2 > maxTierBytes {
		return
	}
	b.serviceTier = s.b[at.start+1 : at.end-1]
}
