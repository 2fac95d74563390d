// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"encoding/xml"
	"errors"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/datadriven"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// TestRun replays testdata/run: "policy" compiles its input, "test" runs its
// input against the last policy and prints the report.
func TestRun(t *testing.T) {
	var p *policy.Policy
	datadriven.RunTest(t, "testdata/run", func(t *testing.T, d *datadriven.TestData) string {
		switch d.Cmd {
		case "policy":
			var err error
			if p, err = policy.Parse("policy.yaml", []byte(d.Input), limiter.NewCatalog()); err != nil {
				return err.Error()
			}
			return "ok"
		case "test":
			suite, err := Parse("test.yaml", []byte(d.Input))
			if err != nil {
				return err.Error()
			}
			return suite.Run(p, nil).String()
		}
		t.Fatalf("%s: unknown command %s", d.Pos, d.Cmd)
		return ""
	})
}

func TestReportCounts(t *testing.T) {
	suite, err := Parse("test.yaml", []byte(`
- { name: good, steps: [{ check: 1, want: allowed }] }
- { name: bad, steps: [{ check: 1, want: denied }] }
`))
	if err != nil {
		t.Fatal(err)
	}
	got := suite.Run(policy.Default(limiter.NewCatalog()), nil)
	if got.Passed != 1 || got.Failed != 1 || len(got.Results[1].Failures) != 1 {
		t.Fatalf("Run = %+v, want one passed and one failed", got)
	}
	if f := got.Results[1].Failures[0]; f.File != "test.yaml" || f.Line != 3 || f.Step != 1 {
		t.Errorf("failure = %+v, want test.yaml:3, step 1", f)
	}
}

// TestRunsSome: only scenarios whose names match are run, and each of their steps is logged.
func TestRunsSome(t *testing.T) {
	suite, err := Parse("test.yaml", []byte(`
- { name: daily spend, steps: [{ check: 1 }] }
- { name: monthly spend, steps: [{ reserve: 1, id: a }, { at: 1d12h, settle: a, tokens: 1 }, { at: 40d, peek: tokens, remaining: 10_000 }] }
`))
	if err != nil {
		t.Fatal(err)
	}
	got := suite.Run(policy.Default(limiter.NewCatalog()), regexp.MustCompile("^month"))
	if got.Passed != 1 || got.Failed != 0 || len(got.Results) != 1 || got.Results[0].Name != "monthly spend" {
		t.Fatalf("Run(^month) = %+v, want the second scenario", got)
	}
	want := []string{
		"at 0s reserve a: allowed, concurrent of test, 1 of 2 remaining",
		"at 36h settle a: settled",
		"at 40d peek tokens: tokens of test, 10000 of 10000 remaining",
	}
	if !slices.Equal(got.Results[0].Log, want) {
		t.Errorf("log %q, want %q", got.Results[0].Log, want)
	}
	if text := got.Verbose(); !strings.Contains(text, "\n      "+want[1]+"\n") {
		t.Errorf("Verbose() = %s, want a line for each step", text)
	}
}

func TestDurations(t *testing.T) {
	for text, want := range map[string]time.Duration{"90s": 90 * time.Second, "40d": 960 * time.Hour, "1d12h": 36 * time.Hour, "0d1ns": 1} {
		if got, err := parseDuration(text); err != nil || got != want {
			t.Errorf("parseDuration(%s) = %v, %v, want %v", text, got, err, want)
		}
	}
	for _, text := range []string{"d", "1.5d", "-1d", "1d-1h", "12h1d", "99999d", "1d1"} {
		if got, err := parseDuration(text); err == nil {
			t.Errorf("parseDuration(%s) = %v, want an error", text, got)
		}
	}
}

// TestJUnit: the XML has a suite for each file, and the failures of each scenario.
func TestJUnit(t *testing.T) {
	suite, err := Parse("test.yaml", []byte(`
- { name: "good & short", steps: [{ check: 1, want: allowed }] }
- { name: bad, steps: [{ check: 1, want: denied }] }
`))
	if err != nil {
		t.Fatal(err)
	}
	out, err := suite.Run(policy.Default(limiter.NewCatalog()), nil).JUnit()
	if err != nil {
		t.Fatal(err)
	}
	var got junitSuites
	if err := xml.Unmarshal(out, &got); err != nil {
		t.Fatal(err)
	}
	if got.Tests != 2 || got.Failures != 1 || len(got.Suites) != 1 || len(got.Suites[0].Cases) != 2 {
		t.Fatalf("JUnit() = %s, want one suite with two cases, of which one failed", out)
	}
	good, bad := got.Suites[0].Cases[0], got.Suites[0].Cases[1]
	if good.Name != "good & short" || good.Failure != nil || good.Output == "" {
		t.Errorf("case %+v, want one that passed", good)
	}
	if bad.Failure == nil || !strings.Contains(bad.Failure.Text, "test.yaml:3:") || !strings.Contains(bad.Failure.Message, "want denied") {
		t.Errorf("case %+v, want the failure", bad)
	}
}

// FuzzParse: no input makes the parser or a run panic.
func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", "- {}", "- { name: a, steps: [{ check: 1, want: allowed }] }",
		"- { name: a, key: a/b, steps: [{ reserve: 5, id: x }, { at: 1h, settle: x, tokens: 9 }, { cancel: x, want: conflict }] }",
		"- { name: a, start: 2100-01-01T00:00:00Z, steps: [{ at: 87000h, peek: spend, remaining: $1, debt: { tokens: 4 } }] }",
		"- { name: a, steps: [{ check: 9007199254740992, requests: 9007199254740992, output_tokens: 9007199254740992 }] }",
	} {
		f.Add([]byte(seed))
	}
	p := policy.Default(limiter.NewCatalog())
	f.Fuzz(func(t *testing.T, src []byte) {
		suite, err := Parse("fuzz.yaml", src)
		if err != nil {
			if _, ok := errors.AsType[policy.Problems](err); !ok {
				t.Fatalf("Parse error = %v (%T), want Problems", err, err)
			}
			return
		}
		if len(suite.Scenarios) > 4 {
			return // an engine each
		}
		_ = suite.Run(p, nil).String()
	})
}
