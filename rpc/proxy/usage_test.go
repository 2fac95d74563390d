// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// answerCase is an answer of a model server, and what the call that got it is charged.
type answerCase struct {
	Name        string
	Path        string
	Stream      bool
	ContentType string `json:"content_type"`
	Answer      string
	Unreported  bool
	Want        struct {
		charged
		Images, Searches int64
	}
}

type charged struct {
	Input  int64 `json:"input_tokens"`
	Output int64 `json:"output_tokens"`
	Spend  int64 `json:"spend_micros"`
}

// answerCases are the cases that rpc/internal/llm reads alone.
func answerCases(t *testing.T) (all []answerCase) {
	t.Helper()
	for _, file := range []string{"usage.json", "reported.json", "counted.json"} {
		text, err := os.ReadFile(filepath.Join("..", "internal", "llm", "testdata", file))
		if err != nil {
			t.Fatal(err)
		}
		var list struct{ Cases []answerCase }
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		all = append(all, list.Cases...)
	}
	return all
}

// replay answers each call with the answer of the case that the caller's X-Case names,
// in pieces.
func replay(cases []answerCase) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		i, err := strconv.Atoi(r.Header.Get("X-Case"))
		if err != nil || i >= len(cases) {
			http.Error(w, "no such case", http.StatusNotFound)
			return
		}
		_, _ = io.Copy(io.Discard, r.Body)
		w.Header().Set("Content-Type", cases[i].ContentType)
		for rest := cases[i].Answer; rest != ""; {
			n := min(len(rest), 97)
			_, _ = io.WriteString(w, rest[:n])
			_ = http.NewResponseController(w).Flush()
			rest = rest[n:]
		}
	})
}

// requestBodies are the bodies of calls, by path.
var requestBodies = map[string]string{
	"/v1/chat/completions": `{"model":"fees","messages":[{"role":"user","content":"hi, how are you?"}]`,
	"/v1/completions":      `{"model":"fees","prompt":"hi, how are you?"`,
	"/v1/embeddings":       `{"model":"fees","input":"hi, how are you?"`,
	"/v1/responses":        `{"model":"fees","input":"hi, how are you?"`,
	"/v1/messages":         `{"model":"fees","max_tokens":100000,"messages":[{"role":"user","content":"hi, how are you?"}]`,
}

// TestAnswersAreCharged makes a call for each answer through a proxy and a node: the
// node charges what the case says, to the token and the millionth of a dollar, and a fee
// for each image and search.
func TestAnswersAreCharged(t *testing.T) {
	cases := answerCases(t)
	s := start(t, setup{upstream: replay(cases), identity: "header:X-User", edit: meter(t, "POST /*")})
	for i, tt := range cases {
		t.Run(tt.Name, func(t *testing.T) {
			key := fmt.Sprintf("books/case%d", i)
			body, ok := requestBodies[tt.Path]
			if !ok {
				body = `{"model":"fees","prompt":"hi, how are you?"`
			}
			if tt.Stream {
				body += `,"stream":true`
			}
			answer := s.post(tt.Path, body+"}", "X-User", key, "X-Case", strconv.Itoa(i), "Authorization", "")
			got := text(t, answer)
			if answer.StatusCode != http.StatusOK {
				t.Fatalf("status %d: %s", answer.StatusCode, got)
			}
			if want := asSent(tt); got != want {
				t.Errorf("the caller got\n%s\nwant\n%s", got, want)
			}
			r, source := s.result(i+1), middleware.SourceReported
			if tt.Unreported {
				source = middleware.SourceEstimated
			}
			if r.Source != source || r.Charged.Images != tt.Want.Images || r.Charged.Searches != tt.Want.Searches || r.UsageRejected || r.Deferred || r.Err != nil {
				t.Errorf("the charge is %s, %+v, rejected %v, deferred %v, %v, want %s", r.Source, r.Charged, r.UsageRejected, r.Deferred, r.Err, source)
			}
			want := tt.Want.charged
			want.Spend += 40_000*tt.Want.Images + 10_000*tt.Want.Searches
			if now := s.books(key); now != want {
				t.Errorf("charged %+v, want %+v", now, want)
			}
		})
	}
}

// asSent is what the caller gets: the answer without what the proxy asked for.
func asSent(c answerCase) string {
	if !c.Stream || !strings.HasSuffix(c.Path, "/completions") {
		return c.Answer
	}
	var b strings.Builder
	for _, event := range strings.SplitAfter(c.Answer, "\n\n") {
		var chunk struct {
			Choices *[]json.RawMessage
			Usage   map[string]json.RawMessage
		}
		data, isData := strings.CutPrefix(event, "data: {")
		if isData && json.Unmarshal([]byte("{"+data), &chunk) == nil && chunk.Choices != nil && len(*chunk.Choices) == 0 && chunk.Usage != nil {
			continue
		}
		b.WriteString(strings.NewReplacer(`,"usage":null`, "", `, "usage": null`, "").Replace(event))
	}
	return b.String()
}

// books returns what a key of the tier books has been charged.
func (s *stack) books(key string) (c charged) {
	s.t.Helper()
	state, err := s.client.Peek(s.t.Context(), client.Query{Key: key, Tier: "books"})
	if err != nil {
		s.t.Fatal(err)
	}
	for _, l := range state.Limits {
		used := l.Capacity - l.Remaining + l.Debt
		switch l.Name {
		case "input":
			c.Input = used
		case "output":
			c.Output = used
		case "spend":
			c.Spend = used
		}
	}
	return c
}
