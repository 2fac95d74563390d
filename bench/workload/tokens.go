// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/bucketring/bucketring/internal/trace"
)

// Tokens says how large calls are. The zero value was not said; a workload then has
// chat.
type Tokens struct {
	kind          tokenKind
	input, output span
}

type tokenKind string

const (
	fixedTokens   tokenKind = "fixed"
	uniformTokens tokenKind = "uniform"
	chatTokens    tokenKind = "chat"
)

var tokenHints = map[tokenKind]string{
	fixedTokens:   "write fixed:INPUT+OUTPUT such as fixed:900+100",
	uniformTokens: "write uniform:INPUT+OUTPUT such as uniform:100-2000+50-400",
	chatTokens:    "write chat alone; it has no numbers",
}

const (
	tokensHint = "write fixed:900+100, uniform:100-2000+50-400 or chat"
	// maxTokens is the most of one call, each way.
	maxTokens = 10_000_000
)

// ParseTokens reads fixed:900+100, uniform:100-2000+50-400 or chat.
func ParseTokens(text string) (Tokens, error) {
	if text == "" {
		return Tokens{}, nil
	}
	kind, sizes, sized := strings.Cut(text, ":")
	t := Tokens{kind: tokenKind(kind)}
	hint, ok := tokenHints[t.kind]
	if !ok {
		return Tokens{}, in("tokens", text, tokensHint, fmt.Errorf("no kind of tokens is called %s", quote(kind)))
	}
	var err error
	if t.kind != chatTokens {
		err = t.parse(sizes)
	} else if sized {
		err = fmt.Errorf("%s is too much", quote(sizes))
	}
	if err != nil {
		return Tokens{}, in("tokens", text, hint, err)
	}
	return t, nil
}

func (t *Tokens) parse(sizes string) (err error) {
	input, output, ok := strings.Cut(sizes, "+")
	if !ok {
		return errors.New("there is no + between input and output")
	}
	if t.input, err = t.parseSpan(input); err != nil {
		return fmt.Errorf("the input: %w", err)
	}
	if t.output, err = t.parseSpan(output); err != nil {
		return fmt.Errorf("the output: %w", err)
	}
	return nil
}

func (t *Tokens) parseSpan(text string) (span, error) {
	text = strings.TrimSpace(text)
	if t.kind == uniformTokens {
		return parseSpan(text, 0, maxTokens)
	}
	n, err := parseNumber(text, 0, maxTokens)
	return span{n, n}, err
}

// String returns the canonical text.
func (t Tokens) String() string {
	if t.kind == "" || t.kind == chatTokens {
		return string(t.kind)
	}
	return fmt.Sprintf("%s:%s+%s", t.kind, t.input, t.output)
}

// MarshalText returns the canonical text.
func (t Tokens) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// UnmarshalText is [ParseTokens].
func (t *Tokens) UnmarshalText(text []byte) (err error) {
	*t, err = ParseTokens(string(text))
	return err
}

// sizer draws tokens.
type sizer struct {
	random random
	tokens Tokens
	rows   []trace.Call // of chat
}

func newSizer(t Tokens, seed uint64) (*sizer, error) {
	s := &sizer{random: newRandom(seed, ofTokens), tokens: t}
	if t.kind == chatTokens {
		rows, err := loadTrace()
		if err != nil {
			return nil, err
		}
		s.rows = rows
	}
	return s, nil
}

func (s *sizer) next() (input, output int64) {
	if s.rows != nil {
		row := &s.rows[s.random.below(uint64(len(s.rows)))]
		return row.ContextTokens, row.GeneratedTokens
	}
	return s.tokens.input.draw(&s.random), s.tokens.output.draw(&s.random)
}

// loadTrace returns the trace, which is unpacked once. Nobody changes it.
var loadTrace = sync.OnceValues(trace.Load)
