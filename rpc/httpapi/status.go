// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"net/http"
	"strings"
)

func (a *api) livez(w http.ResponseWriter, _ *http.Request) error {
	writeText(w, http.StatusOK, "ok")
	return nil
}

// readyz says whether to send calls here; with ?verbose, also why not.
func (a *api) readyz(w http.ResponseWriter, r *http.Request) error {
	err := a.ready()
	switch {
	case err == nil:
		writeText(w, http.StatusOK, "ok")
	case r.URL.Query().Has("verbose"):
		writeText(w, http.StatusServiceUnavailable, "not ready: "+err.Error())
	default:
		writeText(w, http.StatusServiceUnavailable, "not ready")
	}
	return nil
}

func writeText(w http.ResponseWriter, status int, line string) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.WriteHeader(status)
	_, _ = io.WriteString(w, line+"\n")
}

//go:embed status.html
var statusPage string

var statusTemplate = template.Must(template.New("status").Parse(statusPage))

// showStatus answers in JSON, or with a page for people whose browser asks for one.
func (a *api) showStatus(w http.ResponseWriter, r *http.Request) error {
	status := a.status()
	if !strings.Contains(r.Header.Get("Accept"), "text/html") {
		a.write(w, http.StatusOK, status)
		return nil
	}
	rows, err := rowsOf(status)
	if err != nil {
		return fmt.Errorf("show status: %w", err)
	}
	var page bytes.Buffer
	if err := statusTemplate.Execute(&page, rows); err != nil {
		return fmt.Errorf("show status: %w", err)
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	_, _ = w.Write(page.Bytes())
	return nil
}

// row is one line of the status page.
type row struct{ Name, Value string }

// rowsOf flattens v as it encodes in JSON, in that order: a.b is the member b
// of a, and a.0 the first element of a.
func rowsOf(v any) ([]row, error) {
	text, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var rows []row
	flatten(d, "", &rows)
	return rows, nil
}

func flatten(d *json.Decoder, path string, rows *[]row) {
	t := next(d)
	open, nested := t.(json.Delim)
	if !nested {
		if t == nil {
			t = ""
		}
		*rows = append(*rows, row{path, fmt.Sprint(t)})
		return
	}
	for i := 0; d.More(); i++ {
		name := fmt.Sprint(i)
		if open == '{' {
			name = next(d).(string)
		}
		if path != "" {
			name = path + "." + name
		}
		flatten(d, name, rows)
	}
	next(d) // the closing delimiter
}
