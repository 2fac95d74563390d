// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"unicode/utf8"
)

// form returns a multipart form with the boundary x.
func form(parts ...string) string {
	var b strings.Builder
	for _, p := range parts {
		b.WriteString("--x\r\nContent-Disposition: form-data; " + p + "\r\n")
	}
	return b.String() + "--x--\r\n"
}

// TestModelOfBody: the model of an endpoint that is not known is what its body says.
func TestModelOfBody(t *testing.T) {
	const multipart = "multipart/form-data; boundary=x"
	file := "name=\"file\"; filename=\"a.mp3\"\r\nContent-Type: audio/mpeg\r\n\r\n--not the end name=\"model\""
	for _, tt := range []struct{ kind, body, want string }{
		{"application/json", `{"model":"m","input":[{"model":"other"}]}`, "m"},
		{"application/json", ` {"input":"x","model":"a\u0062"}`, "ab"},
		{"", `{"model":"m"}`, "m"},
		{"text/plain", `{"model":"m"}`, "m"},
		{"application/x-www-form-urlencoded", `{"model":"m"}`, "m"},
		{"application/octet-stream", `{"model":"m"}`, "m"},
		{"application/json", `{"model":null}`, ""},
		{"application/json", `{}`, ""},
		{"application/json", `[1]`, ""},
		{"application/json", ``, ""},
		{"audio/wav", `{not JSON`, ""},
		{"application/x-www-form-urlencoded", `prompt=x&model=a%2Fb`, "a/b"},
		{"application/x-www-form-urlencoded", `prompt=x;&%zz`, ""},
		{multipart, form("name=\"model\"\r\n\r\nwhisper-1", file), "whisper-1"},
		{multipart, form(file, "name=\"model\"\r\n\r\nwhisper-1"), "whisper-1"},
		{multipart, form(file, "name=model\r\n\r\nm", "name=model\r\n\r\nm"), "m"},
		{multipart, form(file), ""},
		{multipart, form("name=\"model\"; filename=\"model\"\r\n\r\nm"), ""},
		{multipart, form("name=file; filename=\"a\"; filename*=utf-8''a\r\n\r\nx", "name=model\r\n\r\nm"), "m"},
		{multipart, strings.ReplaceAll(form("name=model\r\n\r\nm"), "form-data", "attachment"), "m"},
		{"application/x-www-form-urlencoded", `prompt=x;model=a`, "a"},
		{"audio/mp4", "\x00\x00\x00{", ""},
		{"image/png", "\xef\xbb\xbf{\"model\":\"m\"}", ""},
	} {
		if got, err := ModelOfBody(tt.kind, []byte(tt.body), true); got != tt.want || err != nil {
			t.Errorf("ModelOfBody(%q, %q) = %q, %v, want %q", tt.kind, tt.body, got, err, tt.want)
		}
		if may := MayNameModel(tt.kind, []byte(tt.body[:min(len(tt.body), 64)])); tt.want != "" && !may {
			t.Errorf("MayNameModel(%q, %q) = false", tt.kind, tt.body)
		}
	}
	for _, tt := range []struct{ kind, body string }{
		{"application/json", `{"model":"a","model":"b"}`},
		{"application/json", `{"Model":"a"}`},
		{"application/json", `{"model":7}`},
		{"", `{"x":NaN,"model":"a"}`},
		{"text/plain", `{"model":"a"} {"model":"b"}`},
		{"application/x-www-form-urlencoded", `model=a&model=b`},
		{"application/x-www-form-urlencoded", `model=%ff`},
		{"application/x-www-form-urlencoded", `model=a;model=b`},
		{"application/x-www-form-urlencoded", `{"model":"a","x":"&model=b&"}`},
		{multipart, form("name=model\r\n\r\na", file, "name=model\r\n\r\nb")},
		{"multipart/form-data", form("name=model\r\n\r\na")},
		{multipart + "; charset", form("name=model\r\n\r\na")},
		{multipart + "; boundary=y", form("name=model\r\n\r\na")},
		{multipart, "no form"},
		{multipart, form("name=model\r\n\r\na", "name=x\r\nno header\r\n\r\n1", "name=model\r\n\r\nb")},
		{multipart, strings.TrimSuffix(form("name=model\r\n\r\na"), "--x--\r\n")},
		{multipart, form("name=x; name=model\r\n\r\na")},
		{multipart, form("name=x; name*=utf-8''model\r\n\r\na")},
		{multipart, form("name=x\r\nContent-Disposition: form-data; name=model\r\n\r\na")},
		{"application/json", "\xef\xbb\xbf{\"model\":\"a\"}"},
		{"", "\x00{\x00}"},
		{"application/json", "\xff\xfe{\x00}\x00"},
		{"application/json", "\x00\x00\x00{\x00\x00\x00}"},
	} {
		got, err := ModelOfBody(tt.kind, []byte(tt.body), true)
		if field, ok := errors.AsType[*FieldError](err); !ok || field.Field == "" || got != "" {
			t.Errorf("ModelOfBody(%q, %q) = %q, %v, want an error that names the field", tt.kind, tt.body, got, err)
		}
	}
	for _, tt := range []struct{ kind, body, want string }{
		{"application/json", `{"model":"m","image":"QUJ`, "m"},
		{"application/json", `{"image":"QUJ`, ""},
		{multipart, form("name=model\r\n\r\nm", file)[:60+len("name=model")], "m"},
	} {
		if got, err := ModelOfBody(tt.kind, []byte(tt.body), false); got != tt.want || err != nil {
			t.Errorf("the beginning %q of %q names %q, %v, want %q", tt.body, tt.kind, got, err, tt.want)
		}
	}
	if may := MayNameModel("audio/mpeg", []byte("ID3")); may {
		t.Error("a sound may name a model")
	}
}

// FuzzModelOfBody: a body that names a model as JSON has no other meaning, and errors name
// a field.
func FuzzModelOfBody(f *testing.F) {
	for _, kind := range []string{"application/json", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", ""} {
		f.Add(kind, []byte(`{"model":"m","x":{"model":1}}`), true)
		f.Add(kind, []byte(form("name=model\r\n\r\nm", "name=x\r\n\r\n{")), false)
		f.Add(kind, []byte("model=a&model=a&b=c"), true)
	}
	f.Fuzz(func(t *testing.T, kind string, body []byte, whole bool) {
		model, err := ModelOfBody(kind, body, whole)
		if field, ok := errors.AsType[*FieldError](err); err != nil && (!ok || field.Field == "" || model != "" || len(err.Error()) > 1<<10) {
			t.Fatalf("ModelOfBody(%q, %q) = %q, %v", kind, body, model, err)
		}
		if !utf8.ValidString(model) && whole {
			t.Fatalf("ModelOfBody(%q, %q) = %q", kind, body, model)
		}
		var q struct{ Model *string }
		if err == nil && whole && strings.HasPrefix(kind, "application/json") && json.Unmarshal(body, &q) == nil && isObject(body) {
			if q.Model == nil && model != "" || q.Model != nil && *q.Model != model {
				t.Fatalf("ModelOfBody(%q, %q) = %q", kind, body, model)
			}
		}
	})
}
