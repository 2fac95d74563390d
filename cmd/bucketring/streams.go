// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/lmittmann/tint"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// streams are the outputs of a command: out for data, err for everything else.
type streams struct {
	out, err       io.Writer
	outTTY, errTTY bool
	colour         bool       // allowed on terminals
	height         func() int // rows of the terminal at out; 0: unknown
	width          func() int // its columns; 0: unknown
	lookupEnv      func(string) (string, bool)
	environ        []string // as of [os.Environ], to find misspelled variables
}

func newStreams(out, err *os.File, lookupEnv func(string) (string, bool)) *streams {
	size := func() (columns, rows int) {
		columns, rows, err := term.GetSize(int(out.Fd()))
		if err != nil {
			return 0, 0
		}
		return columns, rows
	}
	s := &streams{
		out: out, err: err, lookupEnv: lookupEnv,
		outTTY: term.IsTerminal(int(out.Fd())), errTTY: term.IsTerminal(int(err.Fd())),
		colour: true,
		height: func() int { _, rows := size(); return rows },
		width:  func() int { columns, _ := size(); return columns },
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

// printf writes data. Write errors are ignored, for example of a closed pipe.
func (s *streams) printf(format string, args ...any) { _, _ = fmt.Fprintf(s.out, format, args...) }

// notef writes a message to standard error.
func (s *streams) notef(format string, args ...any) { _, _ = fmt.Fprintf(s.err, format, args...) }

// writeJSON writes v as indented JSON.
func (s *streams) writeJSON(v any) error {
	e := json.NewEncoder(s.out)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// indentJSON writes JSON text with indentation.
func (s *streams) indentJSON(text []byte) error {
	var out bytes.Buffer
	if err := json.Indent(&out, text, "", "  "); err != nil {
		return fmt.Errorf("print the answer: %w", err)
	}
	s.printf("%s", out.String())
	return nil
}

// logger returns a logger to standard error. Format auto means text on a terminal and
// JSON otherwise. It also gets what libraries log with package log, see [libraryLog].
func (s *streams) logger(format, level string) *slog.Logger {
	logger := slog.New(s.logHandler(format, level))
	log.SetFlags(0)
	log.SetOutput(libraryLog{logger})
	return logger
}

func (s *streams) logHandler(format, level string) slog.Handler {
	var at slog.Level
	_ = at.UnmarshalText([]byte(level)) // config has validated the level
	if format == "json" || format == "auto" && !s.errTTY {
		return slog.NewJSONHandler(s.err, &slog.HandlerOptions{Level: at, ReplaceAttr: inMilliseconds})
	}
	return tint.NewTextHandler(s.err, &tint.Options{Level: at, TimeFormat: "15:04:05.000", NoColor: !s.colour || !s.errTTY})
}

// inMilliseconds gives durations in JSON, which are numbers, a unit: "duration_ms".
func inMilliseconds(_ []string, a slog.Attr) slog.Attr {
	if a.Value.Kind() != slog.KindDuration {
		return a
	}
	return slog.Float64(a.Key+"_ms", float64(a.Value.Duration())/float64(time.Millisecond))
}

// libraryLog logs the lines that libraries write with package log. What these quote may be
// a part of a prompt, of a response, or a credential: net/http quotes bytes that a server
// sends after its response. So a line ends where its first quotation begins.
type libraryLog struct{ logger *slog.Logger }

func (l libraryLog) Write(line []byte) (int, error) {
	text, _, _ := strings.Cut(strings.TrimSpace(string(line)), `"`)
	l.logger.Warn("a library logged a line, without what it quotes", "text", strings.TrimSpace(text))
	return len(line), nil
}

// format is a value of -o.
type format string

const (
	formatTable format = "table"
	formatJSON  format = "json"
	formatJUnit format = "junit"
)

// addFormat declares -o with the choices table, json and more.
func addFormat(flags *pflag.FlagSet, more ...format) *format {
	value := formatTable
	choices := []string{string(formatTable), string(formatJSON)}
	for _, m := range more {
		choices = append(choices, string(m))
	}
	flags.VarP(&choiceFlag{(*string)(&value), choices, formatType}, formatName, "o", listChoices(choices))
	withChoices(flags, formatName, choices...)
	return &value
}

// The name and the type of the flag -o.
const (
	formatName = "output"
	formatType = "format"
)
