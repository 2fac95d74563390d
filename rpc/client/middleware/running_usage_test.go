// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"fmt"
	"net/http"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

func messageStart(input, cached int) string {
	return fmt.Sprintf("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"m\",\"content\":[],\"usage\":{\"input_tokens\":%d,\"cache_read_input_tokens\":%d,\"output_tokens\":1}}}\n\n", input, cached)
}

const messageDelta = "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"a\"}}\n\n"

// An interrupted call is charged the input that the server has counted so far, be
// it above or below the estimate.
func TestPartialInputIsCharged(t *testing.T) {
	const prompt = `,"max_tokens":500,"stream":true`
	running := func(input int) string {
		return fmt.Sprintf("data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"a\"}}],\"usage\":{\"prompt_tokens\":%d,\"completion_tokens\":1}}\n\n", input)
	}
	for name, test := range map[string]struct {
		path          string
		events        []string
		input, cached int64 // input 0: estimated
		output        int64
	}{
		"less than estimated": {messages, []string{messageStart(7, 0), messageDelta, messageDelta}, 7, 0, 2},
		"more than estimated": {messages, []string{messageStart(3000, 0), messageDelta}, 3000, 0, 1},
		"of a cache":          {messages, []string{messageStart(4, 900), messageDelta}, 904, 900, 1},
		"0 for a prompt":      {messages, []string{messageStart(0, 0), messageDelta}, 0, 0, 1},
		"negative":            {messages, []string{messageStart(-5, 0), messageDelta}, 0, 0, 1},
		"no usage":            {messages, []string{messageDelta}, 0, 0, 1},
		"in each chunk":       {chat, []string{running(7), running(7)}, 7, 0, 2},
		"with the output":     {chat, []string{strings.Replace(running(7), `"a"`, `"`+strings.Repeat("word ", 60)+`"`, 1)}, 7, 0, 1},
		"and uncounted text":  {chat, []string{running(7), event(strings.Repeat("word ", 6))}, 7, 0, 11},
		"and then negative":   {chat, []string{running(7), running(-7)}, 0, 0, 2},
	} {
		t.Run(name, func(t *testing.T) {
			_, c := start(t)
			s := serve(t, middleware.Options{Client: c}, func(w http.ResponseWriter, r *http.Request) {
				streaming(test.events...)(w, r)
				panic(http.ErrAbortHandler)
			})
			if err := readAll(s.URL+test.path, ask(prompt)); err == nil {
				t.Error("the answer ended well, want it to break off")
			}
			r := s.result(t)
			if test.input == 0 {
				wantEstimate(t, c, r, middleware.SourcePartial, test.output)
				return
			}
			wantCharge(t, r, middleware.SourcePartial, test.input, test.output)
			if r.Charged.CachedInputTokens != test.cached {
				t.Errorf("cached input = %d, want %d", r.Charged.CachedInputTokens, test.cached)
			}
			wantUsed(t, c, "free", "tokens", test.input+test.output)
			wantUsed(t, c, "free", "concurrent", 0)
		})
	}
}
