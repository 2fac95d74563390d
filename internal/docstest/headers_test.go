// SPDX-License-Identifier: Apache-2.0

package docstest

import (
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// headerWithDash is a literal that is the name of a header in Go's canonical form; those of one
// word are found by how they are used.
var headerWithDash = regexp.MustCompile(`^[A-Z][A-Za-z0-9]*(-[A-Z][A-Za-z0-9]*)+$`)

// TestProxyHeadersAreListed: every header that the packages of the proxy name is in the table.
func TestProxyHeadersAreListed(t *testing.T) {
	_, rest, begun := strings.Cut(read(t, "docs/proxy.md"), "<!-- headers -->")
	table, _, ended := strings.Cut(rest, "<!-- end of headers -->")
	if !begun || !ended {
		t.Fatal("docs/proxy.md has no table of headers")
	}
	table = strings.ToLower(table)
	found := 0
	for _, dir := range []string{"rpc/proxy", "rpc/client/middleware", "rpc/internal/dialect", "rpc/internal/explain"} {
		files, err := filepath.Glob(filepath.Join(root, dir, "*.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("%s: %d files, %v", dir, len(files), err)
		}
		for _, file := range files {
			if strings.HasSuffix(file, "_test.go") {
				continue
			}
			for _, name := range headersOf(t, file) {
				found++
				if !strings.Contains(table, "`"+strings.ToLower(name)+"`") {
					t.Errorf("%s names the header %s, which the table of docs/proxy.md does not have", file, name)
				}
			}
		}
	}
	if found < 40 {
		t.Errorf("only %d names of headers were found in the code", found)
	}
}

// headersOf returns the names of headers in a file: literals with a dash, and what is the
// index of a header, or the name in a call of its methods.
func headersOf(t *testing.T, path string) (names []string) {
	file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	add := func(e ast.Expr, oneWord bool) {
		literal, ok := e.(*ast.BasicLit)
		if !ok || literal.Kind != token.STRING {
			return
		}
		if name, err := strconv.Unquote(literal.Value); err == nil && (headerWithDash.MatchString(name) || oneWord) {
			names = append(names, name)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.BasicLit:
			add(n, false)
		case *ast.IndexExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "h" {
				add(n.Index, true)
			}
		case *ast.CallExpr:
			if f, ok := n.Fun.(*ast.SelectorExpr); ok && len(n.Args) > 0 && isHeader(f.X) {
				add(n.Args[0], true)
			}
		}
		return true
	})
	return names
}

// isHeader reports whether an expression is a header by its name: h, r.Header or w.Header().
func isHeader(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "h"
	case *ast.SelectorExpr:
		return e.Sel.Name == "Header"
	case *ast.CallExpr:
		f, ok := e.Fun.(*ast.SelectorExpr)
		return ok && f.Sel.Name == "Header"
	}
	return false
}
