// SPDX-License-Identifier: Apache-2.0

package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"github.com/google/go-cmp/cmp"
)

func TestWriteAndRead(t *testing.T) {
	for name, want := range map[string]*Run{"fault": faultRun(t), "versus": versusRun(t)} {
		var b bytes.Buffer
		if err := Write(&b, want); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		got, err := Read(&b)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// edited writes a run after its JSON was changed.
func edited(t *testing.T, edit func(map[string]any)) string {
	t.Helper()
	var b bytes.Buffer
	if err := Write(&b, faultRun(t)); err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	edit(doc)
	out, err := json.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}

func TestReadRejects(t *testing.T) {
	target := func(doc map[string]any) map[string]any { return doc["targets"].([]any)[0].(map[string]any) }
	latency := func(doc map[string]any) map[string]any { return target(doc)["latencies"].([]any)[0].(map[string]any) }
	series := func(doc map[string]any, i int) map[string]any {
		return target(doc)["series"].([]any)[i].(map[string]any)
	}
	course := func(doc map[string]any) map[string]any {
		return target(doc)["audit"].(map[string]any)["courses"].([]any)[0].(map[string]any)
	}
	coursePoint := func(doc map[string]any, i int) map[string]any {
		return course(doc)["points"].([]any)[i].(map[string]any)
	}
	for _, test := range []struct{ name, document, want string }{
		{"nothing", "", "not a document"},
		{"something else", `{"a":1}`, "format_version is missing"},
		{"a list", `[]`, "not a document"},
		{"newer", edited(t, func(d map[string]any) { d["format_version"] = 3; d["new_name"] = 1 }), "format_version 3 is newer than this program, which reads version 2"},
		{"no such version", edited(t, func(d map[string]any) { d["format_version"] = 0 }), "unknown format_version 0"},
		{"unknown name", edited(t, func(d map[string]any) { d["sed"] = 1 }), `unknown field "sed"`},
		{"cut short", edited(t, func(map[string]any) {})[:500], "not a document"},
		{"more behind", edited(t, func(map[string]any) {}) + "{}", "not a document"},
		{"no targets", edited(t, func(d map[string]any) { d["targets"] = []any{} }), "targets: must have 1 to 64 entries, got 0"},
		{"no name", edited(t, func(d map[string]any) { target(d)["name"] = "" }), `targets[0].name: must be unique and not empty, got ""`},
		{"twice", edited(t, func(d map[string]any) { d["targets"] = append(d["targets"].([]any), d["targets"].([]any)[0]) }), "targets[1].name"},
		{"negative", edited(t, func(d map[string]any) { target(d)["denied"] = -1 }), "targets[0].denied: must be 0 to 2^53, got -1"},
		{"backwards", edited(t, func(d map[string]any) { series(d, 3)["at_ns"] = 0 }), "targets[0].series[3]: intervals must be in order and not empty, got at_ns 0"},
		{"no length", edited(t, func(d map[string]any) { series(d, 3)["length_ns"] = 0 }), "targets[0].series[3]"},
		{"damaged histogram", edited(t, func(d map[string]any) { latency(d)["hdr"] = "HISTFAAAAC" }), "targets[0].latencies[0]: hdr"},
		{"not base64", edited(t, func(d map[string]any) { latency(d)["hdr"] = "%%%" }), "targets[0].latencies[0]: hdr"},
		{"another count", edited(t, func(d map[string]any) { latency(d)["count"] = 1 }), "targets[0].latencies[0].count: must be the count of the histogram"},
		{"a huge histogram", edited(t, func(d map[string]any) { latency(d)["hdr"] = huge(t) }), "4 significant digits, got 5"},
		{"unknown verdict", edited(t, func(d map[string]any) { target(d)["audit"].(map[string]any)["verdict"] = "fine" }), `or not_audited, got "fine"`},
		{"a course without steps", edited(t, func(d map[string]any) { course(d)["step_ns"] = 0 }), "audit.courses[0].step_ns: must be above 0, got 0"},
		{"a course of less than nothing", edited(t, func(d map[string]any) { course(d)["allowed"] = -1 }), "audit.courses[0].allowed: must be 0 to 2^53, got -1"},
		{"a course backwards", edited(t, func(d map[string]any) { coursePoint(d, 2)["at_ns"] = 0 }), "audit.courses[0].points[2].at_ns: points must be at least a step apart, got 0"},
		{"a course below zero", edited(t, func(d map[string]any) { coursePoint(d, 0)["at_ns"] = -1 }), "audit.courses[0].points[0].at_ns: points must be at least a step apart, got -1"},
		{"a course that is less with fallback", edited(t, func(d map[string]any) { coursePoint(d, 1)["with_fallback"] = 0 }), "audit.courses[0].points[1].with_fallback: must be at least used"},
		{"too many courses", edited(t, func(d map[string]any) {
			a := target(d)["audit"].(map[string]any)
			for range 5 {
				a["courses"] = append(a["courses"].([]any), a["courses"].([]any)...)
			}
		}), "audit.courses: "},
		{"a percentile above all", edited(t, func(d map[string]any) {
			latency(d)["percentiles"] = []any{map[string]any{"percentile": 101, "value_ns": 1}}
		}), "percentiles[0].percentile: must be 0 to 100, got 101"},
		{"unknown baseline", edited(t, func(d map[string]any) { d["pairing"] = map[string]any{"baseline": "x", "rounds": []any{}} }), `pairing.baseline: must be a target, got "x"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			r, err := Read(strings.NewReader(test.document))
			if err == nil || r != nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("Read = %v, %v, want an error with %q", r != nil, err, test.want)
			}
		})
	}
}

func huge(t *testing.T) string {
	t.Helper()
	b, err := hdrhistogram.New(1, 1<<60, 5).EncodeV2()
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestVersionErrorIsTyped(t *testing.T) {
	_, err := Read(strings.NewReader(`{"format_version":7}`))
	if v := new(VersionError); !errors.As(err, &v) || v.Got != 7 {
		t.Errorf("Read = %v, want a VersionError of 7", err)
	}
}

func TestReadPassesErrorsOn(t *testing.T) {
	broken := errors.New("broken disk")
	if _, err := Read(io.MultiReader(strings.NewReader(`{`), failing{broken})); !errors.Is(err, broken) {
		t.Errorf("Read = %v, want %v", err, broken)
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }

func TestOverallIsTheSumOfChecksAndReserves(t *testing.T) {
	r := faultRun(t)
	tg := &r.Targets[0]
	want := tg.Overall()
	tg.Latencies = tg.Latencies[1:]
	got := tg.Overall()
	if got == nil || got.Count != want.Count || got.at(99) != want.at(99) || got.Max != want.Max {
		t.Errorf("Overall = %+v, want %+v", got, want)
	}
	tg.Latencies = nil
	if got := tg.Overall(); got != nil {
		t.Errorf("Overall of nothing = %+v, want nil", got)
	}
}

// FuzzRead: damaged input is an error, never a panic; what is read can be shown
// in every way.
func FuzzRead(f *testing.F) {
	small := &Run{FormatVersion: FormatVersion, Targets: []Target{{Name: "a", Duration: time.Second, Series: []Interval{{Length: time.Second, Counts: Counts{Offered: 3, Achieved: 2}, P50: 1, P99: 9}}}}}
	h := hdrhistogram.New(1, 1e9, 2)
	_ = h.RecordValues(1000, 3)
	l, err := NewLatency("check", "", "", h)
	if err != nil {
		f.Fatal(err)
	}
	t := &small.Targets[0]
	t.Latencies = []Latency{l}
	t.Marks = []Mark{{1, "kill", "node"}}
	t.Audit = &Audit{Verdict: Violated, Worst: []LimitResult{{Key: "k", Allowed: 1, Admitted: 2, Over: 1}}}
	t.Resources = &Resources{Servers: []Process{{Name: "n", Samples: []Sample{{}, {At: 5, CPU: 3, RSS: 7}}}}, ServerCPUPerMillion: 5}
	small.Targets = append(small.Targets, Target{Name: "b"})
	small.Pairing = &Pairing{Baseline: "b", Rounds: []Round{{[]Turn{{"a", 1, 1, 1, 1}, {"b", 2, 2, 2, 2}}}}}
	var b bytes.Buffer
	if err := Write(&b, small); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Add([]byte(`{"format_version":2,"targets":[{"name":"a","duration_ns":9007199254740992,"latencies":null,"series":[{"at_ns":0,"length_ns":1,"offered":9007199254740992},{"at_ns":9007199254740992,"length_ns":9007199254740992,"p99_ns":9007199254740992}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		r, err := Read(bytes.NewReader(data))
		if err != nil {
			return
		}
		var page bytes.Buffer
		if err := WriteHTML(&page, r); err != nil {
			t.Fatalf("HTML of what was read: %v", err)
		}
		for _, kind := range []Picture{LatencyPicture, AdmittedPicture} {
			var svg bytes.Buffer
			if err := SVG(&svg, r, kind); err == nil {
				wellFormed(t, svg.String())
			}
		}
		if strings.Contains(page.String(), "NaN") && !bytes.Contains(data, []byte("NaN")) {
			t.Error("NaN in the page")
		}
		if err := WriteSummary(io.Discard, r, TextOptions{}); err != nil {
			t.Fatalf("Summary of what was read: %v", err)
		}
		c, err := Compare(r, r, CompareOptions{FailOver: 1, Resamples: 100})
		if err != nil {
			t.Fatalf("Compare with itself: %v", err)
		}
		if len(c.Regressions) > 0 {
			t.Errorf("a run is worse than itself: %v", c.Regressions)
		}
		if err := Write(io.Discard, r); err != nil {
			t.Fatalf("Write of what was read: %v", err)
		}
	})
}
