// SPDX-License-Identifier: Apache-2.0

package llm

import (
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"testing"
)

// answerCase is an answer of a model server, and what the call that got it used.
type answerCase struct {
	Name        string
	Why, Source string
	Path        string
	Stream      bool
	ContentType string `json:"content_type"`
	Unreported  bool
	Answer      string
	Want        struct {
		Input        int64  `json:"input_tokens"`
		Cached       int64  `json:"cached_input_tokens"`
		CacheWrite   int64  `json:"cache_write_5m_tokens"`
		CacheWrite1h int64  `json:"cache_write_1h_tokens"`
		Output       int64  `json:"output_tokens"`
		Images       int64  `json:"images"`
		Searches     int64  `json:"searches"`
		ServiceTier  string `json:"service_tier"`
		Spend        int64  `json:"spend_micros"`
	}
}

// answerFiles have the cases: usage.json those that were given to the project, and the
// others those that documentation and users of servers report.
var answerFiles = []string{"usage.json", "reported.json", "counted.json"}

// answerCases are the cases of a file.
func answerCases(t testing.TB, file string) []answerCase {
	t.Helper()
	text, err := os.ReadFile(filepath.Join("testdata", file))
	if err != nil {
		t.Fatal(err)
	}
	var list struct{ Cases []answerCase }
	if err := json.Unmarshal(text, &list); err != nil {
		t.Fatal(err)
	}
	if len(list.Cases) == 0 {
		t.Fatalf("%s has no cases", file)
	}
	return list.Cases
}

// TestAnswers reads each answer whole and cut at every byte.
func TestAnswers(t *testing.T) {
	for _, file := range answerFiles {
		for _, tt := range answerCases(t, file) {
			t.Run(tt.Name, func(t *testing.T) {
				t.Parallel()
				r := NewUnread(tt.Path, "m")
				if e, ok := EndpointOf(http.MethodPost, tt.Path); ok {
					r = &Request{Endpoint: e, N: 1, Stream: tt.Stream, InputBytes: 10, usageAsked: tt.Stream}
				}
				for cut := range len(tt.Answer) {
					m := NewMeter(r, 200, tt.ContentType)
					run(m, tt.Answer, cut)
					if problem := tt.compare(m); problem != "" {
						t.Fatalf("cut at %d, %s: %s\n%s", cut, tt.Why, problem, tt.Answer)
					}
				}
			})
		}
	}
}

// compare compares what a meter reports with what is wanted.
func (c *answerCase) compare(m *Meter) string {
	u, ok := m.Usage()
	if c.Unreported {
		u = m.PartialUsage()
		ok = !ok && u.Input < 0 && u.Output <= 0
		u.Input, u.Output = 0, 0
	}
	switch {
	case !ok:
		return "the usage is not known, want " + toJSON(c.Want)
	case m.UsageRejected():
		return "the usage is rejected, want " + toJSON(c.Want)
	}
	got := c.Want
	got.Input, got.Cached, got.CacheWrite, got.CacheWrite1h = u.Input, max(u.CachedInput, 0), max(u.CacheWrite, 0), max(u.CacheWrite1h, 0)
	got.Output, got.Images, got.Searches, got.ServiceTier = u.Output, max(u.Images, 0), max(u.Searches, 0), u.ServiceTier
	// Hundredths of a millionth of a dollar: input 1.00, cached 0.10, written 1.25 and 2.00, output 10.00 per million.
	spend := 100*(u.Input-u.inputParts()) + 10*got.Cached + 125*got.CacheWrite + 200*got.CacheWrite1h + 1000*u.Output
	got.Spend = (spend + 99) / 100
	if got != c.Want {
		return "used " + toJSON(got) + ", want " + toJSON(c.Want)
	}
	return ""
}

func toJSON(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(text)
}

// TestReportedAnswersNameTheirSource: a case that nobody can look up cannot be kept
// right.
func TestReportedAnswersNameTheirSource(t *testing.T) {
	names := map[string]bool{}
	for _, tt := range append(answerCases(t, "reported.json"), answerCases(t, "counted.json")...) {
		if tt.Source == "" || names[tt.Name] {
			t.Errorf("%q has no source, or its name is not unique", tt.Name)
		}
		names[tt.Name] = true
	}
}
