// SPDX-License-Identifier: Apache-2.0

package client_test

import (
	"os"
	"regexp"
	"strings"
	"testing"
)

// Every Go block of docs/client.md is part of the compiled examples.
func TestDocsShowCompiledExamples(t *testing.T) {
	page, err := os.ReadFile("../../docs/client.md")
	if err != nil {
		t.Fatal(err)
	}
	var source []byte
	for _, file := range []string{"example_test.go", "clienttest/example_test.go"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source = append(source, text...)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllStringSubmatch(string(page), -1)
	if len(blocks) < 3 {
		t.Errorf("docs/client.md has %d Go blocks, want at least 3", len(blocks))
	}
	for _, block := range blocks {
		if !strings.Contains(unindent(string(source)), unindent(block[1])) {
			t.Errorf("docs/client.md shows what the examples do not have:\n%s", block[1])
		}
	}
}

// The example has fewer than 20 lines, as promised.
func TestExampleIsShort(t *testing.T) {
	source, err := os.ReadFile("example_test.go")
	if err != nil {
		t.Fatal(err)
	}
	_, body, _ := strings.Cut(string(source), "\nfunc complete(")
	body, _, _ = strings.Cut(body, "\n}\n")
	if lines := strings.Count(body, "\n") + 2; lines >= 20 {
		t.Errorf("func complete has %d lines, want fewer than 20", lines)
	}
}

// unindent removes the indentation of every line.
func unindent(s string) string {
	return regexp.MustCompile(`(?m)^[ \t]+`).ReplaceAllString(s, "")
}
