// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// A Problem is one thing that is wrong with a file, and where.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1
	Column  int    `json:"column"` // from 1, in characters
	Message string `json:"message"`
	// Suggestion is the nearest valid word, "" if none is near.
	Suggestion string `json:"suggestion,omitempty"`
	// Excerpt is the offending line, shortened around the column; Caret is the
	// column's offset in it, in characters.
	Excerpt string `json:"excerpt,omitempty"`
	Caret   int    `json:"-"`
}

// String is the problem in one line: file:line:column, message, suggestion.
func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
	if p.Suggestion != "" {
		s += fmt.Sprintf("; did you mean %q?", p.Suggestion)
	}
	return s
}

// maxShown bounds the text of an error; the list itself is complete.
const maxShown = 100

// Problems is every problem of a set of files, in order of position. As an
// error it shows each with the line that it is about.
type Problems []Problem

// Error implements error.
func (ps Problems) Error() string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte('\n')
		}
		if i == maxShown {
			fmt.Fprintf(&b, "and %d more problems", len(ps)-i)
			break
		}
		b.WriteString(p.String())
		if strings.TrimSpace(p.Excerpt) != "" {
			fmt.Fprintf(&b, "\n    %s\n    %s^", p.Excerpt, strings.Repeat(" ", p.Caret))
		}
	}
	return b.String()
}

// sorted orders by file (in the order given), line and column, and drops
// repetitions, which aliases and merged mappings cause.
func (ps Problems) sorted(files []string) Problems {
	slices.SortStableFunc(ps, func(a, b Problem) int {
		return cmp.Or(
			cmp.Compare(slices.Index(files, a.File), slices.Index(files, b.File)),
			cmp.Compare(a.Line, b.Line),
			cmp.Compare(a.Column, b.Column),
		)
	})
	return slices.Compact(ps)
}

// maxExcerpt is the longest excerpt, in characters. Lines over maxLine bytes
// have none: nobody wrote them by hand, and they may have very many problems.
const (
	maxExcerpt = 120
	maxLine    = 4096
)

// excerpt cuts a window around column out of line, if it is long. Control
// characters become spaces, so that the caret stands right.
func excerpt(line string, column int) (text string, caret int) {
	runes := []rune(strings.TrimRight(line, " \t\r"))
	for i, r := range runes {
		if !unicode.IsPrint(r) {
			runes[i] = ' '
		}
	}
	caret = max(column-1, 0)
	if len(runes) > maxExcerpt {
		start := min(max(caret-maxExcerpt/2, 0), len(runes)-maxExcerpt)
		runes, caret = runes[start:start+maxExcerpt], caret-start
	}
	return string(runes), caret
}
