// SPDX-License-Identifier: Apache-2.0

package auth

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A token costs no allocation but that of the context.
func TestGRPCAllocates(t *testing.T) {
	w := newWorld(t, callersText())
	token, hash := NewToken()
	w.reload(strings.Replace(callersText(), hashOf("gate-1"), hash.String(), 1))
	ctx, md := from(somewhere, nil), bearerOf(token)
	if n := testing.AllocsPerRun(100, func() { w.GRPC(ctx, check, md) }); n > 1 {
		t.Errorf("GRPC allocates %v times, want 1", n)
	}
	ctx = w.GRPC(ctx, check, md)
	if n := testing.AllocsPerRun(100, func() { _ = w.Check(ctx); From(ctx) }); n > 0 {
		t.Errorf("Check allocates %v times, want 0", n)
	}
}

func BenchmarkGRPC(b *testing.B) {
	dir := b.TempDir()
	path := filepath.Join(dir, "auth.yaml")
	token, hash := NewToken()
	if err := os.WriteFile(path, []byte("callers: [{name: a, scopes: [call], tokens: ["+hash.String()+"]}]"), 0o600); err != nil {
		b.Fatal(err)
	}
	a, err := New(Options{Path: path})
	if err != nil {
		b.Fatal(err)
	}
	ctx, md := from(somewhere, nil), bearerOf(token)
	b.ReportAllocs()
	for b.Loop() {
		if a.Check(a.GRPC(ctx, check, md)) != nil {
			b.Fatal("refused")
		}
	}
}

func BenchmarkForKey(b *testing.B) {
	g := &Grant{caller: &caller{scopes: Call, roots: []pattern{"acme", "globex", "team-*"}}}
	b.ReportAllocs()
	for b.Loop() {
		if g.ForKey("team-blue/bob", false) != nil {
			b.Fatal("refused")
		}
	}
}
