// SPDX-License-Identifier: Apache-2.0

package proxy_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// Input that a request does not show is charged what was reserved for it if the caller
// leaves before the usage arrives, and if the model server does not report it.
func TestHiddenInputIsCharged(t *testing.T) {
	part := func(part string) string {
		return `{"model":"m","stream":true,"messages":[{"role":"user","content":[{"type":"text","text":"look"},` + part + `]}]}`
	}
	input := func(members string) string { return `{"model":"m","stream":true,"input":"go on",` + members + `}` }
	for name, tt := range map[string]struct {
		path, body string
		least      int64 // tokens of input
	}{
		"file by id":              {"/v1/chat/completions", part(`{"type":"file","file":{"file_id":"file-1"}}`), 3000},
		"two files":               {"/v1/chat/completions", part(`{"type":"file","file":{"file_id":"file-1"}},{"type":"file","file":{"file_id":"file-2"}}`), 6000},
		"image by URL":            {"/v1/chat/completions", part(`{"type":"image_url","image_url":{"url":"https://example.org/a.png"}}`), 1600},
		"data sources":            {"/openai/deployments/m/chat/completions", `{"stream":true,"messages":[],"data_sources":[{"type":"azure_search"}]}`, 2000},
		"cached content":          {"/v1/chat/completions", `{"model":"m","stream":true,"messages":[],"cached_content":"cachedContents/1"}`, 2000},
		"embedded prompt":         {"/v1/completions", `{"model":"m","stream":true,"prompt_embeds":"` + strings.Repeat("QUJD", 1<<16) + `"}`, 256},
		"embedded prompts":        {"/v1/completions", `{"model":"m","stream":true,"prompt_embeds":["` + strings.Repeat("QUJD", 1<<16) + `","` + strings.Repeat("QUJD", 1<<16) + `"]}`, 512},
		"previous response":       {"/v1/responses", input(`"previous_response_id":"resp_1"`), 2000},
		"conversation and prompt": {"/v1/responses", input(`"conversation":"conv_1","prompt":{"id":"p"}`), 4000},
		"file of a response":      {"/v1/responses", `{"model":"m","stream":true,"input":[{"role":"user","content":[{"type":"input_file","file_id":"file-1"}]}]}`, 3000},
		"reference to an item":    {"/v1/responses", `{"model":"m","stream":true,"input":[{"type":"item_reference","id":"msg_1"}]}`, 2000},
		"vector store":            {"/v1/responses", input(`"tools":[{"type":"file_search","vector_store_ids":["vs_1"]}]`), 2000},
		"file of a message":       {"/v1/messages", `{"model":"m","stream":true,"max_tokens":10,"messages":[{"role":"user","content":[{"type":"document","source":{"type":"file","file_id":"f"}}]}]}`, 3000},
		"container":               {"/v1/messages", `{"model":"m","stream":true,"max_tokens":10,"container":"c","messages":[]}`, 2000},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			release := make(chan struct{}) // closed in the end
			first := "data: {\"choices\":[{\"index\":0,\"text\":\"a\",\"delta\":{\"content\":\"a\"}}]}\n\n"
			s := start(t, setup{identity: "header:X-User", upstream: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				_, _ = io.Copy(io.Discard, r.Body)
				w.Header().Set("Content-Type", "text/event-stream")
				_, _ = io.WriteString(w, first)
				_ = http.NewResponseController(w).Flush()
				if r.Header.Get("X-Whole") == "" {
					select {
					case <-r.Context().Done():
					case <-release:
					}
				}
			})})
			t.Cleanup(func() { close(release) })
			for i, headers := range [][]string{{"X-User", "books/left"}, {"X-User", "books/stayed", "X-Whole", "1"}} {
				ctx, leave := context.WithCancel(t.Context())
				r, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url+tt.path, strings.NewReader(tt.body))
				if err != nil {
					t.Fatal(err)
				}
				for j := 0; j < len(headers); j += 2 {
					r.Header.Set(headers[j], headers[j+1])
				}
				answer, err := http.DefaultClient.Do(r)
				if err != nil {
					t.Fatal(err)
				}
				if line, err := bufio.NewReader(answer.Body).ReadString('\n'); err != nil || answer.StatusCode != http.StatusOK {
					t.Fatalf("status %d, %q, %v", answer.StatusCode, line, err)
				}
				if i > 0 {
					_, _ = io.Copy(io.Discard, answer.Body)
				}
				leave()
				_ = answer.Body.Close()
				got := s.result(i + 1)
				if got.Source != []middleware.Source{middleware.SourcePartial, middleware.SourceEstimated}[i] || got.Charged.InputTokens < tt.least || got.Charged.InputTokens > tt.least+500 {
					t.Errorf("%v: charged %+v, %s, want at least %d tokens of input and little more", headers, got.Charged, got.Source, tt.least)
				}
				if now := s.books(headers[1]); now.Input != got.Charged.InputTokens {
					t.Errorf("%v: the node has charged %s, want %d tokens of input", headers, fmt.Sprint(now), got.Charged.InputTokens)
				}
			}
		})
	}
}
