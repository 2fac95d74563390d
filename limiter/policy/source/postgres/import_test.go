// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"errors"
	"os"
	"testing"

	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

func importPolicy(t testing.TB, d *pgtest.Database, p *policy.Policy) (before *policy.Policy, c Changes) {
	t.Helper()
	check(t, Import(t.Context(), Options{URL: d.URL}, p, func(b *policy.Policy, changes Changes) error {
		before, c = b, changes
		return nil
	}))
	return before, c
}

func parse(t testing.TB, text string) *policy.Policy {
	t.Helper()
	p, err := policy.Parse("p.yaml", []byte(text), limiter.NewCatalog())
	check(t, err)
	return p
}

// TestImportExport: a policy with every key survives the tables and a file exactly.
func TestImportExport(t *testing.T) {
	text, err := os.ReadFile("../../testdata/example.yaml")
	check(t, err)
	p := parse(t, string(text))
	d := tablesWith(t, "")
	if before, c := importPolicy(t, d, p); before != nil || c.Updated != 0 || c.Deleted != 0 || c.Inserted == 0 {
		t.Errorf("Import into empty tables: %v, %+v", before, c)
	}
	f := newFeed(t, d)
	loaded := load(t, f)
	if loaded.Digest() != p.Digest() {
		t.Errorf("the tables have another policy: %v", policy.Diff(p, loaded))
	}
	var out bytes.Buffer
	check(t, loaded.Definition().WriteYAML(&out, nil))
	if again := parse(t, out.String()); again.Digest() != p.Digest() {
		t.Errorf("the exported file is another policy: %v\n%s", policy.Diff(p, again), &out)
	}
	if before, c := importPolicy(t, d, p); before.Digest() != p.Digest() || c != (Changes{}) {
		t.Errorf("Import of the same changed rows: %+v", c)
	}
	if again := load(t, f); again != loaded {
		t.Error("Import of the same notified nodes of a change")
	}
	other := parse(t, "tiers: { free: { tokens: 5/min } }\nassign: [ { key: acme, tier: free } ]\n")
	refused := errors.New("refused")
	err = Import(t.Context(), Options{URL: d.URL}, other, func(_ *policy.Policy, c Changes) error {
		if c.Deleted == 0 || c.Updated == 0 {
			t.Errorf("Changes = %+v, want some deleted and updated", c)
		}
		return refused
	})
	if !errors.Is(err, refused) || load(t, f) != loaded {
		t.Errorf("a refused import: %v, or it changed the tables", err)
	}
	importPolicy(t, d, other)
	if got := load(t, f); got.Digest() != other.Digest() {
		t.Errorf("after an import, the feed has: %v", policy.Diff(other, got))
	}
}
