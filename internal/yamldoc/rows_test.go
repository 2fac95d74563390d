// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

var testSections = []RowSection{{Key: "assign", Fields: []string{"key", "tier"}}, {Key: "more", Fields: []string{"key", "tier", "reason"}}}

// itemsOf returns the items of the row sections of a file as text, and whether any was read
// as rows.
func itemsOf(src string, sections []RowSection) (items string, rows bool, err error) {
	r := Reader{RowSections: sections}
	root, ok := r.Open("f.yaml", []byte(src))
	var b strings.Builder
	if ok && root.IsMapping() {
		for _, f := range r.Fields(root, "f", nil) {
			if !slices.ContainsFunc(testSections, func(s RowSection) bool { return s.Key == f.Name }) {
				_, line, column := f.Key.Position()
				fmt.Fprintf(&b, "%s at %d:%d\n", f.Name, line, column)
				continue
			}
			if r.Rows(f.Value, func(row Row) {
				fmt.Fprintf(&b, "%s %d:%d", f.Name, row.Line, row.Column)
				for _, g := range row.Fields {
					fmt.Fprintf(&b, " %s=%q at %d", g.Name, g.Value, g.Column)
				}
				b.WriteString("\n")
			}) {
				rows = true
				continue
			}
			for _, item := range r.Items(f.Value, f.Name) {
				_, line, column := item.Position()
				fmt.Fprintf(&b, "%s %d:%d", f.Name, line, column)
				for _, g := range r.Fields(item, f.Name, nil) {
					text, _ := r.Text(g.Value, g.Name)
					_, _, column = g.Value.Position()
					fmt.Fprintf(&b, " %s=%q at %d", g.Name, text, column)
				}
				b.WriteString("\n")
			}
		}
	}
	return b.String(), rows, r.Err()
}

// checkRows checks that a file with row sections is read as it is without them.
func checkRows(t interface {
	Helper()
	Fatalf(string, ...any)
}, src string,
) (rows bool) {
	t.Helper()
	got, rows, gotErr := itemsOf(src, testSections)
	want, _, wantErr := itemsOf(src, nil)
	if got != want {
		t.Fatalf("%q: rows\n%s\nwant\n%s", src, got, want)
	}
	if fmt.Sprint(gotErr) != fmt.Sprint(wantErr) {
		t.Fatalf("%q: problems\n%v\nwant\n%v", src, gotErr, wantErr)
	}
	return rows
}

func TestRowsAreYAML(t *testing.T) {
	for _, src := range []string{
		"assign:\n  - { key: acme/alice, tier: free }\n",
		"tiers: 1\nassign: # all\n  # the first\n  - { key: \"acme/*\", tier: free } # yes\n\n  - {tier: 'gold', key: b}\r\nafter: 2\nlast: 3\n",
		"assign:\n- { key: a, tier: b }\nmore:\n- { key: a, tier: b, reason: launch day }\nz: 1",
		"a: {x: 1}\nassign:\n    -   {   key: sha256:abc, tier: b   }   \n",
		"more:\n  - { key: äß, tier: \"日本\", reason: 'naïve' }\nx: 1\n",
		"assign:\n  - { key: 1, tier: true }\n  - { key: 2026-12-24, tier: $1.5 }\n  - { tier: x }\n",
	} {
		if !checkRows(t, src) {
			t.Errorf("%q is not read as rows", src)
		}
	}
	for _, src := range []string{
		"assign: []\n", "assign:\n", "assign:\n  - { key: null, tier: b }\n", "assign:\n  - { key: ~, tier: b }\n", "assign:\n  - { key: &a x, tier: *a }\n",
		"assign:\n  - { key: \"a\\tb\", tier: b }\n", "assign:\n  - { key: 'it''s', tier: b }\n", "assign:\n  - { key: a, key: b }\n", "assign:\n  - { kee: a }\n",
		"assign:\n  - { key: a, tier: b }\n   - { key: c, tier: d }\n", "assign:\n  - key: a\n    tier: b\n", "assign:\n  - { key: a,\n  tier: b }\n",
		"{ x: \"\nassign:\n  - { key: a, tier: b }\n\" }", "x: \"\nassign:\n  - { key: a, tier: b }\n\"\n", "--- |\nassign:\n  - { key: a, tier: b }\n",
		"assign:\n  - { key: a, tier: b }\nassign:\n  - { key: c, tier: d }\n", "assign:\n  - { key: a, tier: b }\n---\nx: 1\n", "assign:\n  - { key: a, tier: b }\n...\n---\nx: 1\n",
		"assign:\n  - { key: a, tier: b }\nx: [\n", "assign:\n  - { key: a, tier: b }\n\tx: 1\n", "assign:#\n  - { key: a, tier: b }\n", "assign:\n  - { key: a:, tier: b }\n", "assign:\n  - { key: a: b, tier: b }\n",
		"assign:\n  - { key: a # b, tier: b }\n", "assign:\n  - { key: a, tier: b }# c\n", "assign:\n  - { key: a , tier: b,}\n", "assign:\n  - { key:a, tier: b }\n", "x:\n  assign:\n  - { key: a, tier: b }\n",
		"assign:\n  - { key: a, tier: b } # c\r  - { key: c, tier: d }\n", "assign:\n  - { key: [a], tier: b }\n", "assign:\n  - { key: -1, tier: b }\n", "assign:\n  - { key: a, tier: b }\n]\n",
	} {
		checkRows(t, src)
	}
}

func TestRandomRowsAreYAML(t *testing.T) {
	value := rapid.StringMatching(`[a-zA-Z0-9_./$*:@+ #,'"{}\[\]~&!|>%-]{0,6}|null|"[^"\\\n]{0,5}"|'[^'\n]{0,5}'`)
	line := rapid.OneOf(
		rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("%s- {%skey: %s, tier: %s }%s", rapid.SampledFrom([]string{"", "  ", "  ", "  "}).Draw(t, "indent"), rapid.SampledFrom([]string{" ", ""}).Draw(t, "space"),
				value.Draw(t, "key"), value.Draw(t, "tier"), rapid.SampledFrom([]string{"", "", " # c", "#", " x"}).Draw(t, "end"))
		}),
		rapid.SampledFrom([]string{"assign:", "assign:", "more:", "x: 1", "", "# c", "  # d", "---", "x: \"", "\"", "- a", "  - key: a", "    tier: b"}),
	)
	rapid.Check(t, func(t *rapid.T) {
		checkRows(t, strings.Join(rapid.SliceOfN(line, 0, 6).Draw(t, "lines"), "\n"))
	})
}

func FuzzRowsAreYAML(f *testing.F) {
	f.Add("assign:\n  - { key: acme/alice, tier: free } # x\nx: 1\n")
	f.Add("x: \"\nassign:\n  - { key: a, tier: b }\n\"\n")
	f.Fuzz(func(t *testing.T, src string) {
		if len(src) < 10_000 {
			checkRows(t, src)
		}
	})
}

// TestManyRows checks the bounds of a file with rows: they do not count for MaxBytes, and
// the message says which line is none.
func TestManyRows(t *testing.T) {
	var b strings.Builder
	b.WriteString("first: 1\nassign:\n")
	const n = 40_000
	for i := range n {
		fmt.Fprintf(&b, "  - { key: tenant-%d/user, tier: free }\n", i)
	}
	src := b.String() + "last: [\n"
	if len(src) <= MaxBytes {
		t.Fatal("the file is too small for this test")
	}
	r := Reader{RowSections: testSections}
	_, ok := r.Open("f.yaml", []byte(src))
	if want := fmt.Sprintf("f.yaml:%d:", n+4); ok || !strings.HasPrefix(r.Err().Error(), want) {
		t.Errorf("Open of a file with an error after its rows = %v, want it at %s", r.Err(), want)
	}
	r = Reader{RowSections: testSections}
	root, ok := r.Open("f.yaml", []byte(b.String()+"last: 2\n"))
	if !ok {
		t.Fatal(r.Err())
	}
	fields, count := r.Fields(root, "f", nil), 0
	if !r.Rows(fields[1].Value, func(Row) { count++ }) || count != n || fields[2].Key.At() != fmt.Sprintf("f.yaml:%d:1", n+3) {
		t.Errorf("%d rows, and the last key at %s", count, fields[2].Key.At())
	}
	r = Reader{RowSections: testSections}
	_, ok = r.Open("f.yaml", []byte(b.String()+"  - key: x\n    tier: y\n"))
	var problems Problems
	if ok || !errors.As(r.Err(), &problems) || problems[0].Line != n+3 || !strings.Contains(problems[0].Message, "at most 1048576 bytes besides the items of assign, more that each stand on one line, as in - { key: X, tier: Y }") {
		t.Errorf("Open of a file with an item that is no row = %v", r.Err())
	}
}
