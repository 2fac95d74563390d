// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"fmt"
	"net/http"
	"testing"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// messageAnswer is an answer of 26 tokens to a prompt of which most was written to a
// cache.
const messageAnswer = `{"id":"m","type":"message","role":"assistant","model":"claude","content":[{"type":"text","text":"hi"}],"stop_reason":"end_turn",
"usage":{"input_tokens":18,"cache_creation_input_tokens":10000,"cache_read_input_tokens":0,"output_tokens":26,
"cache_creation":{"ephemeral_5m_input_tokens":4000,"ephemeral_1h_input_tokens":6000}%s}}`

func TestSpendOfAnAnswer(t *testing.T) {
	const fee = 10_000
	for _, tt := range []struct {
		name          string
		asked, answer string // members
		status        int
		reported      *client.Usage // by SetUsage
		want          int64         // micros
	}{
		{name: "cache writes have prices of their own", want: 17278 + fee},
		{name: "half the price", answer: `,"service_tier":"flex"`, want: 8639 + fee},
		{name: "twice the price as asked", asked: `,"service_tier":"priority"`, want: 34556 + fee},
		{name: "half the price is only asked", asked: `,"service_tier":"flex"`, want: 17278 + fee},
		{name: "the normal price, dearer was asked", asked: `,"service_tier":"priority"`, answer: `,"service_tier":"standard"`, want: 17278 + fee},
		{name: "names that no policy can have", asked: `,"service_tier":"\u00e4"`, answer: `,"service_tier":"\u00e4"`, want: 17278 + fee},
		{name: "a refused call has no fee", status: 400, want: 0},
		{name: "reported searches", reported: &client.Usage{Searches: 2, ServiceTier: "flex"}, want: 8639 + fee + 40_000},
		{
			name:     "reported cache writes",
			reported: &client.Usage{InputTokens: new(int64(100)), CacheWriteTokens: 40, CacheWrite1hTokens: 60, OutputTokens: new(int64(0))},
			want:     50 + 120 + fee,
		},
	} {
		_, c := start(t)
		s := serve(t, middleware.Options{Client: c, Identify: identifyAs("paid")}, func(w http.ResponseWriter, r *http.Request) {
			if call, ok := middleware.FromContext(r.Context()); ok && tt.reported != nil {
				call.SetUsage(*tt.reported)
			}
			if tt.status != 0 {
				whole(tt.status, `{"error":{"message":"no"}}`)(w, r)
				return
			}
			whole(200, fmt.Sprintf(messageAnswer, tt.answer))(w, r)
		})
		s.post(t, messages, fmt.Sprintf(`{"model":"claude","max_tokens":1000,"messages":[{"role":"user","content":"hi"}]%s}`, tt.asked))
		r := s.result(t)
		if got := used(t, c, "paid", "spend"); got != tt.want {
			t.Errorf("%s: spend = %d, want %d (%+v, %s)", tt.name, got, tt.want, r.Charged, r.Source)
		}
		if tt.status != 0 && r.Source != middleware.SourceRejected {
			t.Errorf("%s: source %q, want %q", tt.name, r.Source, middleware.SourceRejected)
		}
	}
}
