// SPDX-License-Identifier: Apache-2.0

package scenario

import (
	"errors"
	"testing"

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
			return suite.Run(p).String()
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
	got := suite.Run(policy.Default(limiter.NewCatalog()))
	if got.Passed != 1 || got.Failed != 1 || len(got.Results[1].Failures) != 1 {
		t.Fatalf("Run = %+v, want one passed and one failed", got)
	}
	if f := got.Results[1].Failures[0]; f.File != "test.yaml" || f.Line != 3 || f.Step != 1 {
		t.Errorf("failure = %+v, want test.yaml:3, step 1", f)
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
		_ = suite.Run(p).String()
	})
}
