// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"go/ast"
	"go/parser"
	gotoken "go/token"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// Each example fits on a screen.
func TestExamplesAreShort(t *testing.T) {
	fset := gotoken.NewFileSet()
	file, err := parser.ParseFile(fset, "example_test.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range file.Decls {
		if f, ok := d.(*ast.FuncDecl); ok {
			n++
			if lines := fset.Position(f.End()).Line - fset.Position(f.Pos()).Line + 1; lines >= 25 {
				t.Errorf("func %s has %d lines, want fewer than 25", f.Name.Name, lines)
			}
		}
	}
	if n < 6 {
		t.Errorf("%d functions, want at least 6", n)
	}
}

// The page lists all metrics.
func TestDocsListTheMetrics(t *testing.T) {
	page, err := os.ReadFile("../../../docs/in-your-go-server.md")
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	if _, err := middleware.New(middleware.Options{Client: failingLimiter{}, Identify: identify, Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	var want []string
	for _, sample := range samples(reg) {
		name, labels, labelled := strings.Cut(sample, "{")
		name, _, _ = strings.Cut(name, " ")
		if base, isHistogram := strings.CutSuffix(name, "_bucket"); isHistogram {
			name = base
		} else if strings.HasSuffix(name, "_sum") || strings.HasSuffix(name, "_count") {
			continue
		}
		if labelled {
			var names []string
			for label := range strings.SplitSeq(labels[:strings.Index(labels, "}")], ",") {
				if label, _, _ = strings.Cut(label, "="); label != "le" {
					names = append(names, label)
				}
			}
			if len(names) > 0 {
				name += "{" + strings.Join(names, ",") + "}"
			}
		}
		want = append(want, name)
	}
	var got []string
	for line := range strings.Lines(string(page)) {
		if name, ok := strings.CutPrefix(line, "| `bucketring_middleware_"); ok {
			name, _, _ = strings.Cut(name, "`")
			got = append(got, "bucketring_middleware_"+name)
		}
	}
	slices.Sort(got)
	if want = slices.Compact(want); !slices.Equal(got, want) {
		t.Errorf("docs/in-your-go-server.md lists %q, want %q", got, want)
	}
}
