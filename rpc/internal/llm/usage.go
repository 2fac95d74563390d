// SPDX-License-Identifier: Apache-2.0

package llm

import "github.com/bucketring/bucketring/internal/amount"

// Usage is what a call used, in tokens. -1: unknown.
type Usage struct {
	Input       int64 // cached or not; for Anthropic the sum of its three counts
	CachedInput int64 // the part of Input that was read from a cache
	Output      int64 // including reasoning
	Reasoning   int64 // the part of Output that is reasoning
}

var noUsage = Usage{-1, -1, -1, -1}

// usageBlock is a usage object as sent. -1: absent or null.
type usageBlock struct {
	input, output, total     int64
	cacheCreation, cacheRead int64 // Anthropic: in addition to input
	cached                   int64 // OpenAI: a part of input
	reasoning                int64 // a part of output
	invalid                  bool  // a count is not a number, or out of bounds
}

// readUsage reads a usage object of any of the formats.
func readUsage(s *scanner, text []byte) usageBlock {
	u := usageBlock{-1, -1, -1, -1, -1, -1, -1, false}
	s.reset(text)
	for s.enter('{'); s.member(); {
		switch string(s.name()) {
		case "prompt_tokens", "input_tokens":
			u.number(s, &u.input)
		case "completion_tokens", "output_tokens":
			u.number(s, &u.output)
		case "total_tokens":
			u.number(s, &u.total)
		case "cache_creation_input_tokens":
			u.number(s, &u.cacheCreation)
		case "cache_read_input_tokens":
			u.number(s, &u.cacheRead)
		case "prompt_tokens_details", "input_tokens_details":
			u.detail(s, "cached_tokens", "", &u.cached)
		case "completion_tokens_details", "output_tokens_details":
			u.detail(s, "reasoning_tokens", "thinking_tokens", &u.reasoning)
		default:
			s.skip()
		}
	}
	if s.failed() {
		u.invalid = true
	}
	return u
}

// number reads a count of tokens.
func (u *usageBlock) number(s *scanner, to *int64) {
	if c := s.peek(); c != '-' && (c < '0' || c > '9') {
		if c != 'n' {
			u.invalid = true
		}
		s.skip()
		return
	}
	n, ok := parseWhole(s.scalar())
	if !ok || n < 0 || n > amount.Max {
		u.invalid = true
		return
	}
	*to = n
}

// detail reads one member of an object. It may have one of two names.
func (u *usageBlock) detail(s *scanner, name, orName string, to *int64) {
	if s.peek() != '{' {
		s.skip()
		return
	}
	for s.enter('{'); s.member(); {
		if at := s.name(); string(at) == name || string(at) == orName {
			u.number(s, to)
		} else {
			s.skip()
		}
	}
}

// merge merges a later block of an Anthropic stream. Its counts are cumulative, so
// they never decrease.
func (u *usageBlock) merge(later usageBlock) {
	u.input = max(u.input, later.input)
	u.output = max(u.output, later.output)
	u.cacheCreation = max(u.cacheCreation, later.cacheCreation)
	u.cacheRead = max(u.cacheRead, later.cacheRead)
	u.reasoning = max(u.reasoning, later.reasoning)
	u.invalid = u.invalid || later.invalid
}

// usage is the usage that the block reports at endpoint e. It is false if it cannot
// be true.
func (u usageBlock) usage(e Endpoint) (Usage, bool) {
	if u.invalid {
		return noUsage, false
	}
	out := Usage{Input: u.input, CachedInput: u.cached, Output: u.output, Reasoning: u.reasoning}
	if e == Messages {
		out.CachedInput = u.cacheRead
		if u.input >= 0 {
			out.Input += max(u.cacheCreation, 0) + max(u.cacheRead, 0)
		}
	}
	if (e == Embeddings || e == Other) && u.input < 0 && u.output < 0 {
		out.Input = u.total // all that rerankers and some embedding servers report
	}
	if out.Output < 0 && u.total >= 0 && u.input >= 0 {
		out.Output = u.total - u.input // embeddings report no more
		if out.Output < 0 {
			return noUsage, false
		}
	}
	if out.Output < 0 && (e == Embeddings || e == Other) {
		out.Output = 0
	}
	switch {
	case out.Input > amount.Max,
		out.Input >= 0 && out.CachedInput > out.Input,
		out.Output >= 0 && out.Reasoning > out.Output:
		return noUsage, false
	}
	return out, true
}
