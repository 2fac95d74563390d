// SPDX-License-Identifier: Apache-2.0

package workload

import (
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/bucketring/bucketring/internal/trace"
)

// Tokens is the distribution of the sizes of calls. The zero value means the default,
// chat.
type Tokens struct {
	kind          tokenKind
	input, output intRange
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
	chatTokens:    "write chat without numbers",
}

const (
	tokensHint = "write fixed:900+100, uniform:100-2000+50-400 or chat"
	// maxTokens is the maximum input and the maximum output of a call.
	maxTokens = 10_000_000
)

// ParseTokens parses fixed:900+100, uniform:100-2000+50-400 or chat.
func ParseTokens(text string) (Tokens, error) {
	if text == "" {
		return Tokens{}, nil
	}
	kind, sizes, sized := strings.Cut(text, ":")
	t := Tokens{kind: tokenKind(kind)}
	hint, ok := tokenHints[t.kind]
	if !ok {
		return Tokens{}, inPart("tokens", text, tokensHint, fmt.Errorf("unknown kind of tokens %s", quote(kind)))
	}
	var err error
	if t.kind != chatTokens {
		err = t.parse(sizes)
	} else if sized {
		err = fmt.Errorf("must not have sizes, got %s", quote(sizes))
	}
	if err != nil {
		return Tokens{}, inPart("tokens", text, hint, err)
	}
	return t, nil
}

func (t *Tokens) parse(sizes string) (err error) {
	input, output, ok := strings.Cut(sizes, "+")
	if !ok {
		return errors.New("must have + between input and output")
	}
	if t.input, err = t.parseRange(input); err != nil {
		return fmt.Errorf("the input: %w", err)
	}
	if t.output, err = t.parseRange(output); err != nil {
		return fmt.Errorf("the output: %w", err)
	}
	return nil
}

func (t *Tokens) parseRange(text string) (intRange, error) {
	text = strings.TrimSpace(text)
	if t.kind == uniformTokens {
		return parseIntRange(text, 0, maxTokens)
	}
	n, err := parseNumber(text, 0, maxTokens)
	return intRange{n, n}, err
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

// UnmarshalText parses text like [ParseTokens].
func (t *Tokens) UnmarshalText(text []byte) (err error) {
	*t, err = ParseTokens(string(text))
	return err
}

// tokenPicker draws input and output tokens.
type tokenPicker struct {
	random random
	tokens Tokens
	rows   []trace.Call // of chat
}

func newTokenPicker(t Tokens, seed uint64) (*tokenPicker, error) {
	s := &tokenPicker{random: newRandom(seed, seqTokens), tokens: t}
	if t.kind == chatTokens {
		rows, err := loadTrace()
		if err != nil {
			return nil, err
		}
		s.rows = rows
	}
	return s, nil
}

func (s *tokenPicker) next() (input, output int64) {
	if s.rows != nil {
		row := &s.rows[s.random.below(uint64(len(s.rows)))]
		return row.ContextTokens, row.GeneratedTokens
	}
	return s.tokens.input.draw(&s.random), s.tokens.output.draw(&s.random)
}

// loadTrace returns the trace, which must not be changed.
var loadTrace = sync.OnceValues(trace.Load)
