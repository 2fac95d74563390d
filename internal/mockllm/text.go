// SPDX-License-Identifier: Apache-2.0

package mockllm

import "strconv"

// words are the tokens; each is a plain word that JSON has no need to escape.
var words = [64]string{
	" the", " of", " and", " to", " in", " is", " you", " that", " it", " he", " was", " for", " on", " are", " as", " with",
	" his", " they", " at", " be", " this", " have", " from", " or", " one", " had", " by", " word", " but", " not", " what", " all",
	" were", " we", " when", " your", " can", " said", " there", " use", " an", " each", " which", " she", " do", " how", " their", " if",
	" will", " up", " other", " about", " out", " many", " then", " them", " these", " so", " some", " her", " would", " make", " like", " him",
}

// text is that of one choice.
type text struct {
	seed   uint64
	choice int
	tool   bool  // the arguments of a tool, one JSON object with one string
	from   int64 // the first token that is shown
	length int64
	cut    bool
}

func (t text) word(i int64) string {
	w := words[(t.seed+uint64(i)*7+uint64(t.choice)*13)&63]
	if i == t.from {
		return w[1:]
	}
	return w
}

// append adds tokens [from, to), those that are not shown left out. Escaped: for
// a place inside of a JSON string.
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

// reported is a usage block, each number as it stands there.
type reported struct {
	input, fresh, cached, cacheWrite, output, reasoning, total string
}

// report is what is said about the cost when so much was generated.
func (p *plan) report(output, reasoning int64) reported {
	in, cached, write := p.input, p.cached, p.cacheWrite
	switch p.usage {
	case "double":
		in, output = 2*in, 2*output
	case "zero":
		in, cached, write, output, reasoning = 0, 0, 0, 0, 0
	case "negative":
		in, output = -in, -output
	case "parts": // more than the whole
		cached, reasoning = in+1000, output+1000
	}
	say := func(n int64) string {
		switch p.usage {
		case "overflow":
			return "99999999999999999999999"
		case "text":
			return `"many"`
		}
		return strconv.FormatInt(n, 10)
	}
	return reported{say(in), say(in - cached - write), say(cached), say(write), say(output), say(reasoning), say(in + output)}
}
