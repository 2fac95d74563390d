// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"unicode"
)

// A Problem is one problem of a file, with its position.
type Problem struct {
	File    string `json:"file"`
	Line    int    `json:"line"`   // from 1; 0: the problem is the file
	Column  int    `json:"column"` // from 1, in characters
	Message string `json:"message"`
	// Suggestion is the nearest valid word, "" if none is near.
	Suggestion string `json:"suggestion,omitempty"`
	// Excerpt is the line with the problem, cut around the column if it is long.
	// Caret is the offset of the column in it, in characters.
	Excerpt string `json:"excerpt,omitempty"`
	Caret   int    `json:"-"`
}

// String returns the problem in one line: file:line:column, message, suggestion.
func (p Problem) String() string {
	s := fmt.Sprintf("%s:%d:%d: %s", p.File, p.Line, p.Column, p.Message)
	if p.Line == 0 {
		s = p.File + ": " + p.Message
	}
	if p.Suggestion != "" {
		s += fmt.Sprintf("; did you mean %q?", p.Suggestion)
	}
	return s
}

// maxShown bounds how many problems the text of an error shows.
const maxShown = 100

// Problems are all problems of a set of files, in order of position. The text of the
// error shows each with its line.
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

// sorted orders problems by file (in the given order), line and column, and drops
// duplicates, which aliases and merged mappings cause.
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

// maxExcerpt is the length of the longest excerpt, in characters. Lines over maxLine
// bytes have no excerpt: they are generated, and may have very many problems.
const (
	maxExcerpt = 120
	maxLine    = 4096
)

// excerpt returns line, or the part around column if it is long, and the offset of
// the column. Control characters become spaces, so that the caret is aligned.
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
