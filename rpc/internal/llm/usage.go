// SPDX-License-Identifier: Apache-2.0

package llm

import "github.com/bucketring/bucketring/internal/amount"

// Usage is what a call used, in tokens unless a field says otherwise. -1: unknown.
type Usage struct {
	Input        int64 // all of it: new, read from a cache and written to one
	CachedInput  int64 // the part of Input that was read from a cache
	CacheWrite   int64 // the part of Input that was written to a cache for minutes
	CacheWrite1h int64 // the part of Input that was written to a cache for an hour
	Output       int64 // including reasoning
	Reasoning    int64 // the part of Output that is reasoning
	Images       int64 // number of generated images
	Searches     int64 // number of web searches

	ServiceTier string // as the server calls it, such as flex or priority; "": unknown
}

var noUsage = Usage{Input: -1, CachedInput: -1, CacheWrite: -1, CacheWrite1h: -1, Output: -1, Reasoning: -1, Images: -1, Searches: -1}

// inputParts returns the parts of the input that have prices of their own.
func (u *Usage) inputParts() int64 {
	return max(u.CachedInput, 0) + max(u.CacheWrite, 0) + max(u.CacheWrite1h, 0)
}

// hasInputParts reports whether a part of the input is known.
func (u *Usage) hasInputParts() bool { return max(u.CachedInput, u.CacheWrite, u.CacheWrite1h) >= 0 }

// usage returns the usage that the block reports at endpoint e. It is false if no
// reading of the block is consistent.
//
// Servers agree on the names of the counts more than on what they include:
//
//   - Cached and written input is a part of the input, except where it is beside it:
//     in the Messages format, where the total says so, and where Anthropic's names
//     have larger counts than the input.
//   - Reasoning is a part of the output, except where the total has more than input
//     and output: the rest is output then. Without such a total, reasoning that
//     exceeds the output is beside it.
//   - A total that is smaller than its parts is ignored.
//   - A missing input or output is what the total leaves.
//   - Embeddings, scores and vectors have no output (noOutput): see inputOnly. The total of
//     Other endpoints is input if they report no more.
func (b *usageBlock) usage(e Endpoint, noOutput bool) (Usage, bool) {
	if b.invalid {
		return noUsage, false
	}
	u := Usage{
		Input: b.input, CachedInput: b.cached, CacheWrite: b.write, CacheWrite1h: b.write1h,
		Output: b.output, Reasoning: b.reasoning, Images: b.images, Searches: max(b.searches, b.sources),
	}
	if rest := b.writes - max(b.write1h, 0); b.writes >= 0 && rest > u.CacheWrite {
		u.CacheWrite = rest // what is not for an hour is for minutes
	}
	if u.Input >= 0 && b.toolInput > 0 {
		u.Input += b.toolInput
	}
	if e == Embeddings || noOutput {
		u.Input, u.Output, u.Reasoning = b.inputOnly(u.Input), 0, min(u.Reasoning, 0)
	} else if e == Other && b.input < 0 && b.output < 0 {
		u.Output = max(b.reasoning, 0)
		u.Input = max(b.total-u.Output, min(b.total, 0)) // all that rerankers report
	} else {
		b.resolve(&u, e)
	}
	if max(u.Input, 0)+max(u.Output, 0) > amount.Max || u.Input >= 0 && u.inputParts() > u.Input {
		return noUsage, false
	}
	return u, true
}

// inputOnly returns the input of a block of an endpoint without output, whatever names
// its counts have. An output or a total that repeats the input is the input again, and
// any other one is input, too. It returns -1 if there is no count.
func (b *usageBlock) inputOnly(input int64) int64 {
	output, total := b.output, b.total
	if output == input {
		if total == input+output {
			total = input
		}
		output = -1
	}
	return max(addCount(input, output), total)
}

// resolve sets the input and the output of u.
func (b *usageBlock) resolve(u *Usage, e Endpoint) {
	switch { // what the total leaves
	case b.total < 0:
	case u.Output < 0 && u.Input >= 0 && b.total >= u.Input:
		u.Output = b.total - u.Input
	case u.Input < 0 && u.Output >= 0 && b.total >= u.Output:
		u.Input = b.total - u.Output
	}
	if b.isPartBeside(u, e) {
		u.Input += u.inputParts()
	}
	if u.Output < 0 && e == Other {
		u.Output = 0
	}
	if u.Output < 0 {
		return
	}
	reported := u.Output
	if u.Input >= 0 {
		u.Output = max(u.Output, b.total-u.Input)
	}
	if u.Reasoning > u.Output || b.thoughts {
		u.Output = max(u.Output, reported+max(u.Reasoning, 0))
	}
}

// isPartBeside reports whether the parts of the input are beside it.
func (b *usageBlock) isPartBeside(u *Usage, e Endpoint) bool {
	parts := u.inputParts()
	if u.Input < 0 || parts == 0 {
		return false
	}
	if u.Output >= 0 && b.total >= 0 {
		thought := max(u.Reasoning, 0)
		switch b.total - u.Input - u.Output {
		case 0:
			if parts <= u.Input {
				return false
			}
		case thought: // reasoning beside the output is the dearer reading
			return e == Messages
		case parts, parts + thought:
			return true
		}
	}
	return e == Messages && !b.openAI || b.anthropic && parts > u.Input
}

// combine returns what two usage blocks of one answer say together. It is the only
// place where blocks are combined, for all formats:
//
//   - A later block replaces an earlier one, and what it lacks stays: an absent or null
//     count, or a block with nothing but zeros, takes nothing away.
//   - The input and its parts belong together: a block that has both replaces both, so
//     that input which an earlier block counted as new and a later one as cached counts
//     once. A block that has the input alone keeps the parts: inside its input, or, in
//     the Messages format, beside it if it is smaller than the earlier input.
//   - Counts of output, images and searches are cumulative, and what was generated
//     stays generated: a later smaller count is ignored.
func combine(earlier, later Usage, e Endpoint) Usage {
	u := earlier
	if later.Output >= u.Output {
		u.Output = later.Output
		if later.Reasoning >= 0 {
			u.Reasoning = later.Reasoning
		}
		u.Reasoning = min(u.Reasoning, max(u.Output, -1))
	}
	u.Images = max(u.Images, later.Images)
	u.Searches = max(u.Searches, later.Searches)
	beside := e == Messages
	switch {
	case later.Input > 0 && later.hasInputParts(), u.Input < 0 && !u.hasInputParts():
		u.setInput(&later)
	case later.Input > 0 && beside && later.Input < u.Input:
		u.Input = later.Input + u.inputParts()
	case later.Input > 0:
		u.Input = later.Input
		if u.inputParts() > u.Input {
			u.CachedInput, u.CacheWrite, u.CacheWrite1h = -1, -1, -1
		}
	case later.Input < 0 && later.inputParts() > 0:
		u.setInputParts(&later, beside)
	}
	if max(u.Input, 0)+max(u.Output, 0) > amount.Max {
		return earlier
	}
	return u
}

// setInput copies the input and its parts.
func (u *Usage) setInput(from *Usage) {
	u.Input, u.CachedInput, u.CacheWrite, u.CacheWrite1h = from.Input, from.CachedInput, from.CacheWrite, from.CacheWrite1h
}

// setInputParts sets the known parts of the input, unless they do not fit into it.
func (u *Usage) setInputParts(from *Usage, beside bool) {
	next := *u
	if from.CachedInput >= 0 {
		next.CachedInput = from.CachedInput
	}
	if from.CacheWrite >= 0 {
		next.CacheWrite = from.CacheWrite
	}
	if from.CacheWrite1h >= 0 {
		next.CacheWrite1h = from.CacheWrite1h
	}
	if beside && u.Input >= 0 {
		next.Input += next.inputParts() - u.inputParts()
	}
	if next.Input < 0 || next.inputParts() <= next.Input {
		*u = next
	}
}

// isEmpty reports whether a block has no count above zero.
func (u *Usage) isEmpty() bool {
	return max(u.Input, u.CachedInput, u.CacheWrite, u.CacheWrite1h, u.Output, u.Images, u.Searches) <= 0
}
