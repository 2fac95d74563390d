// SPDX-License-Identifier: Apache-2.0

package text

import (
	"regexp"
	"strings"
)

// excerpt matches a line of a file that an error shows, and the caret below it.
var excerpt = regexp.MustCompile(`\n {4}[^\n]*\n *\^(\n|$)`)

// OneLine returns the text of an error in one line. Excerpts of files are left out, a line
// that is indented continues the one before, and others are separated by semicolons.
func OneLine(s string) string {
	var b strings.Builder
	for line := range strings.Lines(excerpt.ReplaceAllString(s, "\n")) {
		words := strings.Join(strings.Fields(line), " ")
		switch {
		case words == "" || b.Len() == 0:
		case line[0] == ' ' || line[0] == '\t':
			b.WriteByte(' ')
		default:
			b.WriteString("; ")
		}
		b.WriteString(words)
	}
	return b.String()
}
