// SPDX-License-Identifier: Apache-2.0

package yamldoc

import (
	"strings"
	"testing"
)

func open(t *testing.T, src string) (*Reader, Node) {
	t.Helper()
	r := &Reader{}
	n, ok := r.Open("f.yaml", []byte(src))
	if !ok {
		t.Fatalf("Open: %v", r.Err())
	}
	return r, n
}

func TestMergeKeys(t *testing.T) {
	r, n := open(t, `
x: &x { a: 1, b: 1 }
y: &y { b: 2, c: 2 }
z: { <<: [*x, *y], a: 0 }
`)
	var got []string
	for _, top := range r.Fields(n, "top", nil) {
		if top.Name != "z" {
			continue
		}
		for _, f := range r.Fields(top.Value, "z", nil) {
			text, _ := r.Text(f.Value, f.Name)
			got = append(got, f.Name+"="+text)
		}
	}
	if err := r.Err(); err != nil {
		t.Fatal(err)
	}
	// The mapping's own key wins, then the earlier merged mapping.
	if want := "a=0 b=1 c=2"; strings.Join(got, " ") != want {
		t.Errorf("Fields = %v, want %s", got, want)
	}
}

func TestBounds(t *testing.T) {
	for name, test := range map[string]struct{ src, want string }{
		"size":  {strings.Repeat("#", MaxBytes+1), "at most 1048576 bytes"},
		"depth": {strings.Repeat("[", 40) + strings.Repeat("]", 40), "32 levels"},
		"deep":  {strings.Repeat("[", MaxBytes/2), "is not valid YAML"},
		// The YAML library gives no line for an alias without its anchor, as on the second.
		"alias":      {"assign:\n- { key: , tier: *- }", "f.yaml:2:18: is not valid YAML: unknown anchor '-' referenced"},
		"long alias": {"a: 1\nbcdefghijklmnopqrstuvw: *gone", "f.yaml:2:25: is not valid YAML: unknown anchor 'gone' referenced"},
		"utf-8":      {"a: b\nc: \xff", "f.yaml:2:4: is not valid UTF-8"},
	} {
		r := &Reader{}
		if _, ok := r.Open("f.yaml", []byte(test.src)); ok || !strings.Contains(r.Err().Error(), test.want) {
			t.Errorf("Open(%s) = %v, %v, want %q", name, ok, r.Err(), test.want)
		}
	}
}

func TestManyProblemsAreCut(t *testing.T) {
	r, n := open(t, strings.Repeat("- x\n", 300))
	for _, item := range r.Items(n, "list") {
		r.Problem(item, "wrong")
	}
	text := r.Err().Error()
	if got := strings.Count(text, "wrong"); got != maxShown {
		t.Errorf("%d problems shown, want %d", got, maxShown)
	}
	if !strings.HasSuffix(text, "and 200 more problems") {
		t.Errorf("error ends with %q, want the number of the rest", text[len(text)-40:])
	}
}

// A misspelled key is one problem: its field is not missing, and its value is not judged.
func TestMisspelledKeyIsOneProblem(t *testing.T) {
	r, n := open(t, "sise: [x, { colr: red }]\ncolor: red\ncolour: blue\nother: 1\n")
	names := map[string]bool{}
	for _, f := range r.Fields(n, "a thing", []string{"size", "color"}) {
		if names[f.Name] {
			t.Errorf("field %s twice", f.Name)
		}
		names[f.Name] = true
		if f.Name != "size" {
			continue
		}
		for _, item := range r.Items(f.Value, "size") {
			if !item.Guessed() {
				t.Error("an element of a guessed list is not guessed")
			}
			r.Fields(item, "an element", []string{"color"})
		}
		r.Text(f.Value, "size")
	}
	if !names["size"] || !names["color"] {
		t.Errorf("fields %v, want size and color", names)
	}
	want := []string{
		`unknown key "sise" in a thing; did you mean "size"?`,
		`unknown key "colour" in a thing; did you mean "color"?`,
		`unknown key "other" in a thing, want one of size, color`,
	}
	got := r.Err().Error()
	for _, text := range want {
		if !strings.Contains(got, text) {
			t.Errorf("problems lack %s:\n%s", text, got)
		}
	}
	if n := strings.Count(got, "f.yaml:"); n != len(want) {
		t.Errorf("%d problems, want %d:\n%s", n, len(want), got)
	}
}
