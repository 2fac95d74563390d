// SPDX-License-Identifier: Apache-2.0

// Package pricelist turns the price table of LiteLLM, model_prices_and_context_window.json,
// into prices of a policy, and says what it leaves out. The table is an object with an
// object for each model, whose prices are dollars per token, request, image or search.
//
// Numbers are read as exact decimals. What is no whole number of the policy's units is
// rounded up, and that is said.
package pricelist

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"

	"github.com/bucketring/bucketring/internal/text"
)

// A List is the prices of a table.
type List struct {
	models []model
	notes  map[string][]string // reason -> models
}

// model is one line of the list.
type model struct{ name, text string }

// Parse reads a table. The error says why it is not one.
func Parse(table []byte) (*List, error) {
	d := json.NewDecoder(bytes.NewReader(table))
	d.UseNumber()
	l := &List{notes: map[string][]string{}}
	if err := expect(d, json.Delim('{')); err != nil {
		return nil, err
	}
	seen := map[string]bool{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, wrap(d, err)
		}
		name, _ := t.(string) // the key of an object
		var entry any
		if err := d.Decode(&entry); err != nil {
			return nil, wrap(d, err)
		}
		fields, ok := entry.(map[string]any)
		switch {
		case name == "sample_spec": // describes the table
		case !ok:
			l.note(name, "left out: not an object")
		case seen[name]:
			l.note(name, "its second entry is left out: the table has it twice")
		default:
			seen[name] = true
			l.add(name, fields)
		}
	}
	if err := expect(d, json.Delim('}')); err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errors.New("more follows the table")
	}
	slices.SortFunc(l.models, func(a, b model) int { return strings.Compare(a.name, b.name) })
	return l, nil
}

func expect(d *json.Decoder, want json.Delim) error {
	t, err := d.Token()
	switch {
	case err != nil:
		return wrap(d, err)
	case t != want:
		return fmt.Errorf("byte %d: must be %q, an object of models, got %s", d.InputOffset(), want, text.Quote(fmt.Sprint(t)))
	}
	return nil
}

func wrap(d *json.Decoder, err error) error {
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	return fmt.Errorf("byte %d: %w", d.InputOffset(), err)
}

// note says about a model what was not taken over as it is.
func (l *List) note(name, format string, args ...any) {
	reason := fmt.Sprintf(format, args...)
	l.notes[reason] = append(l.notes[reason], text.Quote(name))
}

// Len returns how many models have a price.
func (l *List) Len() int { return len(l.models) }

// YAML returns the section prices of a policy.
func (l *List) YAML() string {
	var b strings.Builder
	b.WriteString("# US dollars per million tokens; request, image and search in dollars each.\nprices:\n")
	for _, m := range l.models {
		fmt.Fprintf(&b, "  %s: { %s }\n", strconv.Quote(m.name), m.text)
	}
	if len(l.models) == 0 {
		b.WriteString("  {}\n")
	}
	return b.String()
}

// Notes returns what was rounded or not taken over, in order: a line for each reason with
// its models.
func (l *List) Notes() []string {
	var lines []string
	for reason, models := range l.notes {
		slices.Sort(models)
		models = slices.Compact(models)
		lines = append(lines, fmt.Sprintf("%s: %s", reason, strings.Join(models, ", ")))
	}
	slices.Sort(lines)
	return lines
}
