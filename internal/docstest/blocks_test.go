// SPDX-License-Identifier: Apache-2.0

// Package docstest checks the documentation: it runs the commands in it and
// compares its tables with the code.
package docstest

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// root is the directory of the module, relative to this package.
const root = "../.."

// block is a fenced block of a Markdown file.
type block struct {
	file string // relative to root
	line int    // of its first line, from 1
	lang string // after the fence
	text string
}

// documents lists the Markdown files of the project, relative to root.
func documents(t *testing.T) []string {
	t.Helper()
	var files []string
	for _, pattern := range []string{"*.md", "docs/*.md", "docs/decisions/*.md"} {
		found, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range found {
			name, err := filepath.Rel(root, f)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, name)
		}
	}
	return files
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// blocks returns the fenced blocks of a file whose language is lang.
func blocks(t *testing.T, file, lang string) []block {
	t.Helper()
	var found []block
	var current *block
	for i, line := range strings.Split(read(t, file), "\n") {
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence && current == nil:
			current = &block{file: file, line: i + 2, lang: fence}
		case isFence:
			if current.lang == lang {
				found = append(found, *current)
			}
			current = nil
		case current != nil:
			current.text += line + "\n"
		}
	}
	if current != nil {
		t.Errorf("%s:%d: the block has no end", file, current.line)
	}
	return found
}

// step is a command of a console block and its output.
type step struct {
	line    int
	command string
	output  []string
}

// steps parses a console block. Lines that begin with "$ " are commands. A command
// continues after a backslash, and after <<EOF until a line EOF.
func (b block) steps() []step {
	var steps []step
	lines := strings.Split(strings.TrimSuffix(b.text, "\n"), "\n")
	for i := 0; i < len(lines); i++ {
		command, ok := strings.CutPrefix(lines[i], "$ ")
		if !ok {
			if last := len(steps) - 1; last >= 0 {
				steps[last].output = append(steps[last].output, lines[i])
			}
			continue
		}
		s := step{line: b.line + i, command: command}
		heredoc := strings.HasSuffix(command, "<<EOF")
		for i+1 < len(lines) && (strings.HasSuffix(lines[i], "\\") || heredoc && lines[i] != "EOF") {
			i++
			s.command += "\n" + lines[i]
		}
		steps = append(steps, s)
	}
	return steps
}
