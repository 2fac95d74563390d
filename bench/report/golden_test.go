// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/xml"
	"errors"
	"flag"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite golden files")

// golden compares what was written with a file under testdata.
func golden(t *testing.T, name string, got []byte) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.MkdirAll("testdata", 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v (go test ./bench/report -update writes it)", err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("%s differs (-want +got); to accept the change: go test ./bench/report -update\n%s", name,
			cmp.Diff(strings.Split(string(want), "\n"), strings.Split(string(got), "\n")))
	}
}

func TestGolden(t *testing.T) {
	fault, versus := faultRun(t), versusRun(t)
	slower := faultRun(t)
	shift(slower, 1.3)
	compared, err := Compare(fault, slower, CompareOptions{FailOver: 5, Seed: 1})
	if err != nil {
		t.Fatal(err)
	}
	for name, write := range map[string]func(io.Writer) error{
		"fault.txt":        func(w io.Writer) error { return WriteSummary(w, fault, TextOptions{Report: "run.json"}) },
		"versus.txt":       func(w io.Writer) error { return WriteSummary(w, versus, TextOptions{}) },
		"coloured.txt":     func(w io.Writer) error { return WriteSummary(w, versus, TextOptions{Colour: true}) },
		"fault.html":       func(w io.Writer) error { return WriteHTML(w, fault) },
		"versus.html":      func(w io.Writer) error { return WriteHTML(w, versus) },
		"latency.svg":      func(w io.Writer) error { return SVG(w, versus, LatencyPicture) },
		"admitted.svg":     func(w io.Writer) error { return SVG(w, versus, AdmittedPicture) },
		"check.hgrm":       func(w io.Writer) error { return WriteHGRM(w, &fault.Targets[0].Latencies[1]) },
		"compared.txt":     func(w io.Writer) error { return compared.WriteText(w, TextOptions{}) },
		"compared.json":    compared.WriteJSON,
		"run.json":         func(w io.Writer) error { return Write(w, versus) },
		"latency.alt.txt":  func(w io.Writer) error { return writeAlt(w, versus, LatencyPicture) },
		"overload.txt":     func(w io.Writer) error { return WriteSummary(w, overloadedRun(t), TextOptions{}) },
		"overload.html":    func(w io.Writer) error { return WriteHTML(w, overloadedRun(t)) },
		"overload.svg":     func(w io.Writer) error { return SVG(w, overloadedRun(t), OverloadPicture) },
		"overload.alt.txt": func(w io.Writer) error { return writeAlt(w, overloadedRun(t), OverloadPicture) },
		"admitted.alt.txt": func(w io.Writer) error { return writeAlt(w, versus, AdmittedPicture) },
	} {
		t.Run(name, func(t *testing.T) {
			var b bytes.Buffer
			if err := write(&b); err != nil {
				t.Fatal(err)
			}
			golden(t, name, b.Bytes())
		})
	}
}

func writeAlt(w io.Writer, r *Run, kind Picture) error {
	alt, err := Alt(r, kind)
	if err != nil {
		return err
	}
	_, err = io.WriteString(w, alt+"\n")
	return err
}

// wellFormed reports whether a picture is XML, and returns its texts.
func wellFormed(t *testing.T, svg string) {
	t.Helper()
	d := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := d.Token()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatalf("not well-formed: %v\n%.2000s", err, svg)
		}
		if e, ok := token.(xml.StartElement); ok {
			switch e.Name.Local {
			case "svg", "title", "desc", "style", "g", "rect", "line", "path", "circle", "text":
			default:
				t.Fatalf("element <%s> is none of ours", e.Name.Local)
			}
			for _, a := range e.Attr {
				if strings.HasPrefix(a.Name.Local, "on") || a.Name.Local == "href" {
					t.Fatalf("attribute %s is none of ours", a.Name.Local)
				}
			}
		}
	}
}

func TestPicturesAreWellFormed(t *testing.T) {
	for name, r := range map[string]*Run{"fault": faultRun(t), "versus": versusRun(t), "hostile": hostileRun(t)} {
		for _, kind := range []Picture{LatencyPicture, AdmittedPicture} {
			var b bytes.Buffer
			if err := SVG(&b, r, kind); err != nil {
				t.Fatalf("%s %s: %v", name, kind, err)
			}
			wellFormed(t, b.String())
			for _, want := range []string{`role="img"`, "<desc", "prefers-color-scheme: dark"} {
				if !strings.Contains(b.String(), want) {
					t.Errorf("%s %s has no %s", name, kind, want)
				}
			}
			alt, err := Alt(r, kind)
			if err != nil || len(alt) < 20 || strings.ContainsAny(alt, "\n\x00\x1b") {
				t.Errorf("Alt(%s, %s) = %q, %v, want one line that says something", name, kind, alt, err)
			}
		}
	}
}

func TestPictureErrors(t *testing.T) {
	r := faultRun(t)
	r.Targets[0].Audit = nil
	for _, kind := range []Picture{AdmittedPicture, "pie"} {
		if err := SVG(io.Discard, r, kind); err == nil || !strings.Contains(err.Error(), string(kind)) {
			t.Errorf("SVG of %q: %v, want an error that names it", kind, err)
		}
	}
}

var outside = regexp.MustCompile(`(?i)<script|<link[^>]+stylesheet|<img|<iframe|@import|url\(|src=|href="?[^d"]`)

func TestPageNeedsNothing(t *testing.T) {
	for name, r := range map[string]*Run{"fault": faultRun(t), "versus": versusRun(t), "hostile": hostileRun(t)} {
		var b bytes.Buffer
		if err := WriteHTML(&b, r); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if found := outside.FindString(b.String()); found != "" {
			t.Errorf("%s has %q: the page must be complete without network and script", name, found)
		}
		pictures := regexp.MustCompile(`(?s)<svg.*?</svg>`).FindAllString(b.String(), -1)
		if len(pictures) == 0 {
			t.Errorf("%s has no pictures", name)
		}
		ids := make(map[string]bool)
		for _, svg := range pictures {
			wellFormed(t, svg)
		}
		for _, m := range regexp.MustCompile(` id="([^"]*)"`).FindAllStringSubmatch(b.String(), -1) {
			if ids[m[1]] {
				t.Errorf("%s: the id %q stands there twice", name, m[1])
			}
			ids[m[1]] = true
		}
		if got, want := strings.Count(b.String(), "<table>"), len(pictures); got < want {
			t.Errorf("%s: %d tables for %d pictures", name, got, want)
		}
	}
}

// A page can be committed, however long its run was.
func TestPageStaysSmall(t *testing.T) {
	m := newMaker(t, 10)
	r := versusRun(t)
	r.Targets = nil
	for _, name := range []string{"bucketring", "redis INCR", "redis Lua"} {
		target := m.target(name, 500, 300, 300*time.Microsecond, -1)
		m.resources(&target, 300, 3)
		target.Audit = exactAudit()
		r.Targets = append(r.Targets, target)
	}
	var b bytes.Buffer
	if err := WriteHTML(&b, r); err != nil {
		t.Fatal(err)
	}
	if n := b.Len(); n > 450<<10 {
		t.Errorf("a page of 3 targets for 5 minutes, all with resources, has %d KiB, want at most 450", n>>10)
	}
}

func TestSummaryOfHostileNames(t *testing.T) {
	var b bytes.Buffer
	if err := WriteSummary(&b, hostileRun(t), TextOptions{Report: "a\x1b[2Jb"}); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsAny(b.String(), "\x1b\x00\u202e") {
		t.Errorf("control characters reach the terminal: %q", b.String())
	}
}
