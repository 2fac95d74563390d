// SPDX-License-Identifier: Apache-2.0

package waitstudy

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/openai/openai-go/v3"
	"github.com/openai/openai-go/v3/option"

	"github.com/bucketring/bucketring/internal/waittest"
)

// prompt has inputTokens words, as the mock counts tokens.
var prompt = strings.TrimSpace(strings.Repeat("sky ", inputTokens))

// answered is what the user of a call saw.
type answered struct {
	sent, at time.Duration // since the start of the burst
	status   int           // 200, or that of the last error
	id       string        // of the reservation
}

// runBurst sends the calls of a workload with openai-go.
func runBurst(t *testing.T, name string, w *workload, maxWait *time.Duration, options ...option.RequestOption) *result {
	t.Helper()
	s := startStack(t, w.policy(), maxWait)
	options = append(options, option.WithBaseURL(s.url+"/v1/"), option.WithHTTPClient(newHTTPClient(t)))
	clients := make([]openai.Client, len(w.users))
	for i, u := range w.users {
		clients[i] = openai.NewClient(append(options, option.WithAPIKey("sk-"+u.name))...)
	}
	answers := make([]answered, len(w.calls))
	var running sync.WaitGroup
	began := time.Now().Add(100 * time.Millisecond)
	for i := range w.calls {
		c, a := &w.calls[i], &answers[i]
		running.Go(func() {
			time.Sleep(time.Until(began.Add(c.at)))
			a.sent = time.Since(began)
			var raw *http.Response
			_, err := clients[c.user].Chat.Completions.New(context.Background(), openai.ChatCompletionNewParams{
				Model: "mock-small", MaxTokens: openai.Int(c.output),
				Messages: []openai.ChatCompletionMessageParamUnion{openai.UserMessage(prompt)},
			}, option.WithResponseInto(&raw))
			a.at, a.status = time.Since(began), http.StatusOK
			if refused, ok := errors.AsType[*openai.Error](err); ok {
				a.status = refused.StatusCode
			} else if err != nil {
				a.status = 0
			}
			if raw != nil {
				a.id = raw.Header.Get("X-Bucketring-Request-Id")
			}
		})
	}
	running.Wait()
	if err := s.mock.Ledger().Idle(waittest.Context(t, waittest.Limit)); err != nil {
		t.Fatal(err)
	}
	waittest.Until(t, "all calls to be settled", s.asked.allSettled)
	return measure(t, name, w, s, began, answers)
}

// TestBurst sends the same burst of three times the limit to a limit that refuses, with and
// without the retries of openai-go, and to one with a queue.
func TestBurst(t *testing.T) {
	w := shortWorkload()
	if *full {
		w = fullWorkload()
	} else if testing.Short() {
		t.Skip("it takes ten seconds, and measures times")
	}
	t.Logf("%d calls of %d users, who ask for %.2f times the limit", len(w.calls), len(w.users), float64(w.asked())/(float64(w.rate)*w.length.Seconds()))
	noWait, once := new(time.Duration(0)), option.WithMaxRetries(0)
	refused := runBurst(t, "refused", w, noWait, once)
	retried := runBurst(t, "retried by openai-go", w, noWait)
	queued := runBurst(t, "queued", w, nil, once)
	results := []*result{refused, retried, queued}
	if *full {
		results = append(results, runBurst(t, "queued, the rest retried", w, nil))
	}
	t.Logf("\n%s", table(results))
	for _, r := range results {
		t.Logf("%s: the groups of users got %.2f of their fair shares, of all tokens %.2f; %d calls waited in vain", r.name, r.groups, float64(r.tokens)/float64(w.asked()), r.vain)
	}

	calls := len(w.calls)
	if refused.asked != calls || queued.asked != calls || retried.asked <= calls {
		t.Errorf("the limiter was asked %d, %d and %d times, want %d, more, and %d", refused.asked, retried.asked, queued.asked, calls, calls)
	}
	for _, r := range results {
		if r.other != 0 {
			t.Errorf("%s: %d calls ended neither with 200 nor 429, want none", r.name, r.other)
		}
		if most := float64(w.burst) + float64(w.rate)*r.end.Seconds(); float64(r.tokens) > most {
			t.Errorf("%s: %d tokens admitted, want at most %.0f", r.name, r.tokens, most)
		}
	}
	if queued.served <= 1.1*refused.served || queued.served <= 1.1*retried.served {
		t.Errorf("served %.2f with the queue, want clearly more than %.2f and %.2f", queued.served, refused.served, retried.served)
	}
	if queued.unused > 0.1 {
		t.Errorf("%.0f %% of the limit was unused during the burst although calls waited, want at most 10 %%", 100*queued.unused)
	}
	least, more := 0.88, 0.01 // few calls of each user are served
	if *full {
		least, more = 0.95, 0.05
	}
	if queued.jain < least || queued.jain <= refused.jain+more {
		t.Errorf("Jain's index %.3f with the queue, want at least %.2f, and %.2f more than %.3f", queued.jain, least, more, refused.jain)
	}
	// The bound is wide, because the machine may be busy.
	if longest := w.maxWait + 5*time.Second; queued.percentile(100) > longest {
		t.Errorf("an answer took %v with the queue, want at most %v", queued.percentile(100), longest)
	}
	if *docsDir != "" {
		writeDocs(t, w, results)
	}
}

// writeDocs writes the figure, and the table where the page has a place for it.
func writeDocs(t *testing.T, w *workload, results []*result) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(*docsDir, "waiting.svg"), []byte(picture(w, results)), 0o644); err != nil {
		t.Fatal(err)
	}
	page := filepath.Join(*docsDir, "waiting.md")
	text, err := os.ReadFile(page)
	if errors.Is(err, os.ErrNotExist) {
		return
	} else if err != nil {
		t.Fatal(err)
	}
	const begin, end = "<!-- burst -->\n", "<!-- end of burst -->"
	before, rest, ok := strings.Cut(string(text), begin)
	_, after, ended := strings.Cut(rest, end)
	if !ok || !ended {
		t.Fatalf("%s has no place for the table: %q and %q", page, begin, end)
	}
	if err := os.WriteFile(page, []byte(before+begin+table(results)+end+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
