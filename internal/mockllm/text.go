// SPDX-License-Identifier: Apache-2.0

package mockllm

import "strconv"

// words are the tokens. None needs escaping in JSON.
var words = [64]string{
	" the", " of", " and", " to", " in", " is", " you", " that", " it", " he", " was", " for", " on", " are", " as", " with",
	" his", " they", " at", " be", " this", " have", " from", " or", " one", " had", " by", " word", " but", " not", " what", " all",
	" were", " we", " when", " your", " can", " said", " there", " use", " an", " each", " which", " she", " do", " how", " their", " if",
	" will", " up", " other", " about", " out", " many", " then", " them", " these", " so", " some", " her", " would", " make", " like", " him",
}

// text is the text of one choice.
type text struct {
	seed   uint64
	choice int
	tool   bool  // the arguments of a tool, one JSON object with one string
	from   int64 // the first token in the response
	length int64
	cut    bool // shortened by a bound, so the arguments of a tool are not closed
}

func (t text) word(i int64) string {
	w := words[(t.seed+uint64(i)*7+uint64(t.choice)*13)&63]
	if i == t.from {
		return w[1:]
	}
	return w
}

// append appends tokens [from, to), without those that are not in the response. If
// escaped is set, quotes are escaped for use in a JSON string.
func (t text) append(dst []byte, from, to int64, escaped bool) []byte {
	quote := `"`
	if escaped {
		quote = `\"`
	}
	for i := max(from, t.from); i < to; i++ {
		last := i == t.length-1 && !t.cut
		switch {
		case !t.tool:
			dst = append(dst, t.word(i)...)
		case i == t.from && last:
			dst = append(dst, "{}"...)
		case i == t.from:
			dst = append(append(append(append(append(dst, '{'), quote...), "text"...), quote...), ':')
			dst = append(dst, quote...)
		case last:
			dst = append(append(dst, quote...), '}')
		default:
			dst = append(dst, t.word(i)...)
		}
	}
	return dst
}

// usageBlock has the numbers of a usage block as JSON values.
type usageBlock struct {
	input, fresh, cached, cacheWrite, output, reasoning, total string
	dialect                                                    Dialect
}

// usageBlock returns the usage to report for an output so far.
func (p *plan) usageBlock(output, reasoning int64) usageBlock {
	in, cached, write := p.input, p.cached, p.cacheWrite
	switch p.usage {
	case "double":
		in, output = 2*in, 2*output
	case "zero":
		in, cached, write, output, reasoning = 0, 0, 0, 0, 0
	case "negative":
		in, output = -in, -output
	case "parts": // parts larger than the whole
		cached, reasoning = in+1000, output+1000
	}
	total := in + output
	openAI := !p.showsReasoning // the endpoint is not messages
	if p.dialect == Beside && p.usage == usageTrue && openAI {
		output -= reasoning
	}
	format := func(n int64) string {
		switch p.usage {
		case "overflow":
			return "99999999999999999999999"
		case "text":
			return `"many"`
		}
		if p.dialect == Relay && openAI {
			return strconv.Quote(strconv.FormatInt(n, 10))
		}
		return strconv.FormatInt(n, 10)
	}
	return usageBlock{format(in), format(in - cached - write), format(cached), format(write), format(output), format(reasoning), format(total), p.dialect}
}
