// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"

	"github.com/lmittmann/tint"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/bucketring/bucketring/internal/nearest"
)

// streams is where a command writes: data to out, all else to err.
type streams struct {
	out, err       io.Writer
	outTTY, errTTY bool
	colour         bool // of out, and of err if that is a terminal
	lookupEnv      func(string) (string, bool)
}

func newStreams(out, err *os.File, lookupEnv func(string) (string, bool)) *streams {
	s := &streams{
		out: out, err: err, lookupEnv: lookupEnv,
		outTTY: term.IsTerminal(int(out.Fd())), errTTY: term.IsTerminal(int(err.Fd())),
		colour: true,
	}
	for _, plain := range []string{"NO_COLOR", "CI"} {
		if v, ok := lookupEnv(plain); ok && v != "" {
			s.colour = false
		}
	}
	if v, _ := lookupEnv("TERM"); v == "dumb" {
		s.colour = false
	}
	return s
}

// printf writes data. A reader that has gone is no error of ours.
func (s *streams) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// note writes what is not data.
func (s *streams) note(format string, args ...any) { _, _ = fmt.Fprintf(s.err, format, args...) }

// json writes v as indented JSON.
func (s *streams) json(v any) error {
	e := json.NewEncoder(s.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// indented writes JSON that somebody else encoded, indented.
func (s *streams) indented(text []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	s.printf("%s", out.String())
	return nil
}

// logger returns one for standard error: text on a terminal, else JSON, unless
// format says which.
func (s *streams) logger(format, level string) *slog.Logger {
	var at slog.Level
	_ = at.UnmarshalText([]byte(level)) // config has validated it
	if format == "json" || format == "auto" && !s.errTTY {
		return slog.New(slog.NewJSONHandler(s.err, &slog.HandlerOptions{Level: at}))
	}
	return slog.New(tint.NewTextHandler(s.err, &tint.Options{Level: at, TimeFormat: "15:04:05.000", NoColor: !s.colour || !s.errTTY}))
}

// format is the value of -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
)

// addFormat declares -o.
func addFormat(flags *pflag.FlagSet) *format {
	f := formatTable
	flags.VarP(&f, "output", "o", "table or json")
	return &f
}

func (f *format) String() string { return string(*f) }
func (f *format) Type() string   { return "format" }

// Set implements pflag.Value.
func (f *format) Set(text string) error {
	choices := []string{string(formatTable), string(formatJSON)}
	if slices.Contains(choices, text) {
		*f = format(text)
		return nil
	}
	if near := nearest.Word(text, choices); near != "" {
		return fmt.Errorf("must be table or json, did you mean %s?", near)
	}
	return fmt.Errorf("must be table or json")
}
