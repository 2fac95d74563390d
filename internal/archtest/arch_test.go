// SPDX-License-Identifier: Apache-2.0

// Package archtest checks the layers of docs/ARCHITECTURE.md.
package archtest

import (
	"bufio"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "github.com/bucketring/bucketring"

// allowedImports lists, for each package, the packages of this module that it may
// import outside of tests. A package may only import packages of lower layers.
var allowedImports = map[string][]string{
	"cmd/bucketring": {"bench", "bench/...", "internal/...", "limiter/policy/...", "limiter", "rpc/client", "rpc/envoy/config", "rpc/httpapi", "rpc/proxy", "rpc/server", "rpc/pb"},

	// Benchmarks. They reach servers through public protocols and rpc/client. The echo of
	// bench/target is a server with the options of a node.
	"bench/continuity": {"bench", "bench/audit", "bench/local", "bench/suite", "bench/target", "rpc/client", "limiter/policy", "limiter"},
	"bench/suite":      {"bench", "bench/audit", "bench/local", "bench/report", "bench/target", "bench/workload", "limiter/policy/source", "limiter/policy", "limiter"},
	"bench/wire":       {"bench", "bench/local", "bench/report", "bench/target", "rpc/pb"},
	"bench/audit":      {"bench"},
	"bench/local":      {},
	"bench/report":     {"bench", "internal/buildinfo"},
	"bench/target":     {"bench", "internal/overload", "internal/tokenfile", "rpc/client", "rpc/server", "rpc/pb"},
	"bench/workload":   {"bench", "internal/trace"},
	"bench":            {},

	// Assembly.
	"internal/node": {"rpc/admin", "internal/audit", "rpc/proxy", "rpc/client", "rpc/envoy/...", "rpc/envoy", "rpc/httpapi/statuspage", "rpc/resp", "rpc/peer", "rpc/replication", "ring", "rpc/server", "rpc/httpapi", "rpc/pb", "cluster", "cluster/continuity", "limiter/fallback", "limiter/policy/...", "limiter", "internal/auth", "internal/config", "internal/buildinfo", "internal/filewatch", "internal/journal", "internal/jwtverify", "internal/listenlimit", "internal/overload", "internal/usagelog", "internal/tracing", "internal/tlserror", "internal/tlsfiles", "internal/tokenfile"},

	// The wire.
	"rpc/httpapi/statuspage":        {},
	"rpc/admin":                     {"internal/audit", "internal/auth", "internal/share", "rpc/server", "rpc/pb"},
	"rpc/httpapi":                   {"internal/auth", "internal/listenlimit", "internal/share", "rpc/httpapi/statuspage", "rpc/server", "rpc/pb", "rpc/internal/explain", "rpc/internal/fields", "limiter/policy", "limiter", "internal/nearest"},
	"rpc/server":                    {"internal/tracing", "internal/nearest", "internal/auth", "internal/listenlimit", "internal/overload", "internal/share", "rpc/internal/codec", "rpc/internal/call", "rpc/internal/requestid", "rpc/pb", "limiter/policy", "limiter/line", "limiter"},
	"rpc/proxy":                     {"internal/tracing", "internal/jwtverify", "internal/listenlimit", "rpc/client/middleware", "rpc/client", "rpc/internal/llm", "rpc/internal/dialect", "limiter/policy", "limiter"},
	"rpc/client/clienttest":         {"rpc/client", "rpc/server", "rpc/pb", "limiter/policy", "limiter"},
	"rpc/client/middleware":         {"rpc/client", "rpc/internal/llm", "rpc/internal/dialect", "rpc/internal/coding"},
	"rpc/internal/dialect":          {"rpc/client", "rpc/internal/llm", "rpc/internal/explain"},
	"rpc/resp":                      {"internal/auth", "internal/listenlimit", "internal/nearest", "rpc/internal/call", "rpc/internal/explain", "rpc/internal/fields", "rpc/server", "rpc/pb"},
	"rpc/envoy":                     {"rpc/envoy/config", "rpc/internal/explain", "rpc/server", "rpc/pb", "limiter"},
	"rpc/envoy/xds":                 {"rpc/envoy/config", "limiter"},
	"rpc/envoy/config":              {"limiter", "internal/yamldoc", "internal/nearest"},
	"rpc/peer":                      {"internal/auth", "rpc/server", "rpc/internal/call", "rpc/internal/slices", "rpc/internal/codec", "rpc/internal/requestid", "rpc/internal/await", "rpc/internal/link", "rpc/internal/outbox", "rpc/internal/handshake", "rpc/replication", "rpc/pb", "cluster/continuity", "ring", "limiter/slice", "limiter", "internal/tracing"},
	"rpc/replication":               {"internal/boottime", "rpc/replication/internal/wire", "rpc/internal/handshake", "rpc/pb", "cluster/continuity", "limiter"},
	"rpc/replication/internal/wire": {"cluster/continuity"},
	"rpc/client":                    {"internal/boottime", "internal/tlserror", "internal/tokenfile", "internal/overload", "rpc/internal/await", "rpc/internal/codec", "rpc/internal/explain", "rpc/internal/link", "rpc/internal/outbox", "rpc/internal/requestid", "rpc/internal/slices", "rpc/pb"},
	"rpc/pb":                        {},

	// Formats of messages.
	"rpc/internal/call":      {"rpc/internal/requestid", "rpc/pb", "ring", "limiter"},
	"rpc/internal/requestid": {},
	"rpc/internal/llm":       {},
	"rpc/internal/coding":    {},
	"rpc/internal/explain":   {"rpc/pb"},
	"rpc/internal/fields":    {"rpc/pb", "limiter"},

	// Connections between processes.
	"rpc/internal/await":           {"rpc/internal/link", "rpc/pb"},
	"rpc/internal/handshake":       {"rpc/pb"},
	"rpc/internal/codec":           {"rpc/pb"},
	"rpc/internal/codec/fieldtest": {}, // for tests
	"rpc/internal/link":            {"internal/overload", "rpc/internal/codec", "rpc/pb"},
	"rpc/internal/outbox":          {"rpc/pb"},
	"rpc/internal/slices":          {"rpc/internal/requestid", "rpc/pb", "limiter/slice", "limiter"},

	// Decisions.
	"limiter/policy/pricelist":       {"limiter/policy", "limiter"},
	"limiter/policy/source":          {"limiter/policy/source/web", "limiter/policy/source/postgres", "limiter/policy", "limiter", "internal/filewatch", "internal/pause", "internal/yamldoc"},
	"limiter/policy/source/web":      {"limiter/policy", "limiter", "internal/pause", "internal/yamldoc"},
	"limiter/policy/source/postgres": {"limiter/policy", "limiter", "internal/pause", "internal/secret"},
	"limiter/policy/scenario":        {"limiter/policy", "limiter", "internal/yamldoc"},
	"limiter/policy":                 {"limiter", "internal/yamldoc", "internal/nearest", "internal/secret"},
	"limiter/fallback":               {"limiter"},
	"limiter/line":                   {"limiter"},
	"limiter":                        {"internal/nearest", "limiter/hotkeys", "limiter/slice"},
	"limiter/hotkeys":                {},
	"limiter/slice":                  {},

	// Membership and ownership.
	"cluster/continuity": {},
	"ring":               {},
	"cluster":            {"internal/listenlimit", "internal/share"},
	"cluster/simnet":     {}, // for tests

	// Leaves. Every package may import these nine.
	"internal/amount":      {},
	"internal/audit":       {},
	"internal/cputime":     {},
	"internal/freeport":    {},
	"internal/growmap":     {},
	"internal/keypath":     {},
	"internal/notify":      {},
	"internal/pause":       {},
	"internal/servicetier": {},
	"internal/text":        {},
	"internal/waittest":    {}, // for tests

	// More leaves.
	"internal/auth":         {"internal/filewatch", "internal/jwtverify", "internal/nearest", "internal/secret", "internal/share", "internal/yamldoc"},
	"internal/buildinfo":    {},
	"internal/config":       {"internal/nearest", "internal/tlsfiles", "internal/tracing", "internal/yamldoc"},
	"internal/filewatch":    {"internal/yamldoc"},
	"internal/gcpace":       {},
	"internal/journal":      {"internal/snapshotfile"},
	"internal/listenlimit":  {"internal/share"},
	"internal/jwtverify":    {},
	"internal/nearest":      {},
	"internal/secret":       {},
	"internal/tokenfile":    {},
	"internal/boottime":     {},
	"internal/overload":     {},
	"internal/share":        {},
	"internal/snapshotfile": {},
	"internal/usagelog":     {"limiter"},
	"internal/trace":        {},
	"internal/tracing":      {},
	"internal/yamldoc":      {"internal/nearest"},
	"internal/mockllm":      {"internal/secret"},

	"internal/certs":    {},
	"internal/tlsfiles": {"internal/tlserror"},
	"internal/tlserror": {},

	// Only tests import these.
	"internal/browsertest": {},
	"internal/oracle":      {"limiter"},
	"internal/pgtest":      {"internal/waittest"},
}

// sharedLeaves may be imported by every package.
var sharedLeaves = []string{"internal/amount", "internal/cputime", "internal/freeport", "internal/growmap", "internal/keypath", "internal/notify", "internal/servicetier", "internal/text"}

// pure lists the packages without I/O, clocks and goroutines.
var pure = []string{"internal/amount", "internal/growmap", "internal/keypath", "internal/servicetier", "internal/text", "limiter", "limiter/fallback", "limiter/hotkeys", "limiter/line", "limiter/slice", "ring", "cluster/continuity", "limiter/policy", "internal/yamldoc", "internal/nearest", "internal/overload"}

// impure lists the packages, and all below them, that pure packages must not import.
var impure = []string{"net", "os", "log", "syscall", "math/rand", "crypto/rand", "context", "google.golang.org", "github.com/fsnotify"}

// clocks lists the functions of package time that pure packages must not use.
var clocks = []string{"Now", "Since", "Until", "Sleep", "After", "AfterFunc", "Tick", "NewTimer", "NewTicker"}

func TestImportsPointDown(t *testing.T) {
	for name, p := range packages(t) {
		if len(p.GoFiles) == 0 {
			continue // only tests
		}
		allowed, listed := allowedImports[name]
		if !listed {
			t.Errorf("package %s is not listed in allowedImports", name)
			continue
		}
		for _, path := range p.Imports {
			to, internal := strings.CutPrefix(path, module+"/")
			if internal && !slices.Contains(sharedLeaves, to) && !slices.ContainsFunc(allowed, func(a string) bool { return matches(a, to) }) {
				t.Errorf("%s imports %s, want only %v", name, to, allowed)
			}
		}
	}
}

// TestClientIsSmall checks that programs with the client library are not linked with the
// client of a database.
func TestClientIsSmall(t *testing.T) {
	cmd := exec.CommandContext(t.Context(), "go", "list", "-deps", module+"/rpc/client", module+"/rpc/client/middleware", module+"/limiter/policy")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	for path := range strings.FieldsSeq(string(out)) {
		if strings.HasPrefix(path, "github.com/jackc/") {
			t.Errorf("rpc/client or limiter/policy is linked with %s", path)
		}
	}
}

func TestPurePackages(t *testing.T) {
	all := packages(t)
	for _, name := range pure {
		p, ok := all[name]
		if !ok {
			t.Errorf("package %s does not exist", name)
			continue
		}
		for _, path := range p.Imports {
			if slices.ContainsFunc(impure, func(bad string) bool { return matches(bad+"/...", path) }) {
				t.Errorf("%s imports %s, want no I/O", name, path)
			}
		}
		for _, file := range p.GoFiles {
			checkFile(t, filepath.Join(p.Dir, file))
		}
	}
}

// checkFile reports uses of clocks and goroutines.
func checkFile(t *testing.T, path string) {
	t.Helper()
	fset := token.NewFileSet()
	file, err := parser.ParseFile(fset, path, nil, parser.SkipObjectResolution)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		switch n := n.(type) {
		case *ast.GoStmt:
			t.Errorf("%s starts a goroutine", fset.Position(n.Pos()))
		case *ast.SelectorExpr:
			if x, ok := n.X.(*ast.Ident); ok && x.Name == "time" && slices.Contains(clocks, n.Sel.Name) {
				t.Errorf("%s uses time.%s, want time as an argument", fset.Position(n.Pos()), n.Sel.Name)
			}
		}
		return true
	})
}

func TestFilesHaveLicenceHeader(t *testing.T) {
	for _, p := range packages(t) {
		for _, file := range slices.Concat(p.GoFiles, p.TestGoFiles, p.XTestGoFiles) {
			if strings.HasSuffix(file, "_vtproto.pb.go") {
				continue // its generator does not copy the header of the .proto
			}
			if line := firstLine(t, filepath.Join(p.Dir, file)); line != "// SPDX-License-Identifier: Apache-2.0" {
				t.Errorf("%s/%s begins with %q, want the licence", p.ImportPath, file, line)
			}
		}
	}
}

func firstLine(t *testing.T, path string) string {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	lines.Scan()
	return lines.Text()
}

// matches reports whether path is pattern, or below it if it ends in /...
func matches(pattern, path string) bool {
	root, tree := strings.CutSuffix(pattern, "/...")
	return path == root || tree && strings.HasPrefix(path, root+"/")
}

type pkg struct {
	Dir, ImportPath                    string
	Imports                            []string
	GoFiles, TestGoFiles, XTestGoFiles []string
}

// packages returns the module's packages by their path relative to its root.
func packages(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "go", "list", "-e", "-json=Dir,ImportPath,Imports,GoFiles,TestGoFiles,XTestGoFiles", module+"/...")
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	all := map[string]pkg{}
	for d := json.NewDecoder(strings.NewReader(string(out))); ; {
		var p pkg
		if err := d.Decode(&p); errors.Is(err, io.EOF) {
			return all
		} else if err != nil {
			t.Fatal(err)
		}
		all[strings.TrimPrefix(p.ImportPath, module+"/")] = p
	}
}
