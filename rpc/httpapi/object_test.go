// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"math/big"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/bucketring/bucketring/internal/nearest"
)

// object has a field of every kind.
type object struct {
	Text    string
	Number  int64
	Maybe   *int64
	Flag    *bool
	Numbers map[string]int64
}

func (o *object) fields() []field {
	return []field{{"text", &o.Text}, {"number", &o.Number}, {"maybe", &o.Maybe}, {"flag", &o.Flag}, {"numbers", &o.Numbers}}
}

// FuzzObject: encoding/json accepts what readObject accepts, and reads the same
// values. Every error of readObject names a field.
func FuzzObject(f *testing.F) {
	for _, body := range []string{
		`{}`, `{"text":"a","number":1,"maybe":2,"flag":true,"numbers":{"x":3}}`, `{"number":1e3}`, `{"number":1.50e1}`,
		`{"text":"\ud83d\ude00"}`, `{"text":"\ud83d"}`, `{"text":null}`, `{"numbers":{"a":1,"a":2}}`, `{"Text":"a"}`, `[[`, "{\"text\":\"\xff\"}",
		`{"numbers":{"":-1}}`, `{"number":9007199254740993}`,
	} {
		f.Add([]byte(body))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var got object
		if err := readObject(body, got.fields()); err != nil {
			var p *problem
			if !errors.As(err, &p) || p.status != 400 || p.Field == "" || p.Message == "" || len(p.Message) > 1000 {
				t.Errorf("readObject(%q) = %#v, want a problem with a field", body, err)
			}
			return
		}
		var want struct {
			Text    string                 `json:"text"`
			Number  json.Number            `json:"number"`
			Maybe   *json.Number           `json:"maybe"`
			Flag    *bool                  `json:"flag"`
			Numbers map[string]json.Number `json:"numbers"`
		}
		d := json.NewDecoder(bytes.NewReader(body))
		d.DisallowUnknownFields()
		if err := d.Decode(&want); err != nil {
			t.Fatalf("readObject(%q) = %+v, encoding/json: %v", body, got, err)
		}
		if got.Text != want.Text || cmp.Diff(got.Flag, want.Flag) != "" || !equal(got.Number, want.Number) ||
			(got.Maybe == nil) != (want.Maybe == nil) || got.Maybe != nil && !equal(*got.Maybe, *want.Maybe) || len(got.Numbers) != len(want.Numbers) {
			t.Errorf("readObject(%q) = %+v, encoding/json: %+v", body, got, want)
		}
		for name, n := range got.Numbers {
			if !equal(n, want.Numbers[name]) {
				t.Errorf("readObject(%q): numbers.%s = %d, encoding/json: %s", body, name, n, want.Numbers[name])
			}
		}
	})
}

func equal(n int64, text json.Number) bool {
	if text == "" {
		return n == 0
	}
	if len(text) > 1000 {
		return true // too large to compute
	}
	r, ok := new(big.Rat).SetString(text.String())
	return !ok || r.Cmp(new(big.Rat).SetInt64(n)) == 0
}

func TestSuggestions(t *testing.T) {
	known := []string{"key", "tier", "input_tokens", "output_tokens", "max_output_tokens"}
	for _, tt := range []struct{ name, want string }{
		{"kye", "; did you mean key?"},
		{"Key", "; did you mean key?"},
		{"input_token", "; did you mean input_tokens?"},
		{"inputTokens", "; did you mean input_tokens?"},
		{"max_tokens", ""},
		{"teir", "; did you mean tier?"},
		{"x", ""},
		{"", ""},
	} {
		if got := nearest.DidYouMean(tt.name, known); got != tt.want {
			t.Errorf("nearest.DidYouMean(%q) = %q, want %q", tt.name, got, tt.want)
		}
	}
}
