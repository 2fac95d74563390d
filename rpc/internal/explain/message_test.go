// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"
)

func TestMessages(t *testing.T) {
	denied := func(reason, model string, l *Limit) *Decision {
		return &Decision{Reason: reason, Model: model, Binding: l}
	}
	state := func(dimension, algorithm string, window time.Duration, limit, remaining int64) *Limit {
		return &Limit{
			Dimension: dimension, Algorithm: algorithm, Window: window, Limit: limit, Capacity: limit, Remaining: remaining,
		}
	}
	burst := state("tokens", "token_bucket", time.Minute, 5_000_000, 20_000)
	burst.Capacity = 500_000
	debt := state("tokens", "token_bucket", time.Minute, 10_000, 0)
	debt.Debt = 2_000
	big := state("tokens", "token_bucket", time.Minute, 10_000, 10_000)
	big.Cost = 12_000
	shut := state("spend", "fixed_window", 24*time.Hour, 0, 0)
	shut.Cost = 1_000_000

	perModel := state("requests", "token_bucket", time.Minute, 5, 0)
	perModel.Name, perModel.Scope, perModel.PerModel, perModel.Cost = "big-model", "acme/alice", true, 7
	slots := state("concurrent", "concurrency", 0, 2, 0)
	slots.Name, slots.Scope = "concurrent", "acme"
	rate := new(*burst)
	rate.Name, rate.Scope = "org", "acme"
	hidden := state("spend", "fixed_window", 24*time.Hour, 2_000_000_000, 0)
	hidden.Name, hidden.Scope, hidden.Hidden, hidden.Cost = "org-spend", "acme", true, 3_000_000_000

	// Limits with headroom, of calls of class batch.
	classed := func(d *Decision) *Decision { d.Priority = "batch"; return d }
	class := func(l *Limit, remaining, headroom int64) *Limit {
		l = new(*l)
		l.Scope, l.Remaining, l.Headroom = "acme", remaining, headroom
		return l
	}
	tpm := state("tokens", "token_bucket", time.Minute, 100_000, 0)
	owing := class(tpm, 0, 40_000)
	owing.Debt = 2_000
	alone := func(d *Decision) *Decision { d.Fallback = true; return d }
	const share = " The node that keeps the limit is unreachable, and this is the share of one other node."
	large := class(tpm, 60_000, 40_000)
	large.Cost = 70_000

	refused := func(why string, need, may time.Duration) *Decision {
		d := denied("limit_exceeded", "m", state("requests", "token_bucket", time.Minute, 10, 0))
		d.Limits = []Limit{{Scope: "acme/alice"}}
		d.WaitRefused, d.RetryAfter, d.MaxWait = why, need, may
		return d
	}
	waited := refused("", time.Second, 5*time.Second)
	waited.Waited = 4999*time.Millisecond + 1
	const tenUsed = "Request limit exceeded: 10 of 10 requests used this minute."

	const exceeded, capacity = "limit_exceeded", "exceeds_capacity"
	long := strings.Repeat("ä", 40)
	for _, tt := range []struct {
		d    *Decision
		want string
	}{
		{denied(exceeded, "m", state("tokens", "token_bucket", time.Minute, 100_000, 5_000)), "Token limit exceeded: 95,000 of 100,000 tokens used this minute."},
		{denied(exceeded, "m", state("requests", "token_bucket", time.Hour, 1, 0)), "Request limit exceeded: 1 of 1 request used this hour."},
		{denied(exceeded, "m", state("requests", "sliding_window", time.Minute, 20, 0)), "Request limit exceeded: 20 of 20 requests used in the last minute."},
		{denied(exceeded, "m", state("requests", "sliding_window", 30*24*time.Hour, 20, 0)), "Request limit exceeded: 20 of 20 requests used in the last 30 days."},
		{denied(exceeded, "m", state("requests", "token_bucket", 90*time.Second, 20, 0)), "Request limit exceeded: 20 of 20 requests used in the last 1m30s."},
		{denied(exceeded, "m", state("input_tokens", "fixed_window", 15*time.Minute, 2000, 0)), "Input token limit exceeded: 2,000 of 2,000 input tokens used in this window of 15m."},
		{denied(exceeded, "m", state("output_tokens", "fixed_window", 7*24*time.Hour, 2000, 0)), "Output token limit exceeded: 2,000 of 2,000 output tokens used this week."},
		{denied(exceeded, "m", state("spend", "fixed_window", 25*time.Hour, 1_000_000, 50_125)), "Spend limit exceeded: $0.949875 of $1.00 used today."},
		{denied(exceeded, "m", state("spend", "fixed_window", 28*24*time.Hour, 2_000_000_000, 0)), "Spend limit exceeded: $2,000.00 of $2,000.00 used this month."},
		{denied(exceeded, "m", state("concurrent", "concurrency", 0, 2, 0)), "Concurrency limit exceeded: 2 of 2 concurrent calls running."},
		{denied(exceeded, "m", state("images", "token_bucket", time.Second, 5, 1)), "Images limit exceeded: 4 of 5 images used this second."},
		{denied(exceeded, "m", burst), "Token limit exceeded: 480,000 of a burst of 500,000 tokens used; the rate is 5,000,000 per minute."},
		{denied(exceeded, "m", debt), "Token limit exceeded: 12,000 of 10,000 tokens used this minute."},
		{denied(capacity, "m", big), "Token limit exceeded: this call needs 12,000 tokens, and the limit never grants more than 10,000 tokens at once."},
		{denied(capacity, "m", shut), "Spend limit exceeded: this call needs $1.00, and the limit is 0."},
		{denied("owner_unreachable", "m", shut), "Spend limit cannot be checked: the node that keeps it is unreachable."},
		{denied("no_price", "m", shut), `A spend limit applies, and the policy has no price for model "m".`},
		{denied("table_full", "m", nil), "There is no room for a new key; try again later."},
		{denied("", "m", nil), "The call was denied."},
		{denied("", "m", nil), "The call was denied."},
		{denied("no_price", "", nil), "A spend limit applies, the call names no model, and the policy has no price for that."},
		{denied("no_price", "a\r\nX: y", nil), `A spend limit applies, and the policy has no price for model "a\r\nX: y".`},
		{denied("no_price", long, nil), `A spend limit applies, and the policy has no price for model "` + long[:64] + `"... (80 bytes).`},
		{denied(exceeded, "llama-3-405b", perModel), "Request limit big-model of llama-3-405b exceeded: 5 of 5 requests used this minute by acme/alice."},
		{denied(exceeded, "", perModel), "Request limit big-model exceeded: 5 of 5 requests used this minute by acme/alice."},
		{denied(exceeded, "a\r\nX: y", perModel), `Request limit big-model of "a\r\nX: y" exceeded: 5 of 5 requests used this minute by acme/alice.`},
		{denied(exceeded, long, perModel), `Request limit big-model of "` + long[:64] + `"... (80 bytes) exceeded: 5 of 5 requests used this minute by acme/alice.`},
		{denied(capacity, "m", perModel), "Request limit big-model of m exceeded: this call needs 7 requests, and the limit of acme/alice never grants more than 5 requests at once."},
		{denied("owner_unreachable", "m", perModel), "Request limit big-model of m cannot be checked: the node that keeps it for acme/alice is unreachable."},
		{denied(exceeded, "m", slots), "Concurrency limit exceeded: 2 of 2 concurrent calls of acme running."},
		{denied(exceeded, "m", rate), "Token limit org exceeded: 480,000 of a burst of 500,000 tokens used by acme; the rate is 5,000,000 per minute."},
		{denied(exceeded, "m", hidden), "Spend limit org-spend of acme exceeded."},
		{denied(capacity, "m", hidden), "Spend limit org-spend of acme exceeded: this call needs more than the limit ever grants at once."},
		{denied("owner_unreachable", "m", hidden), "Spend limit org-spend cannot be checked: the node that keeps it for acme is unreachable."},
		{classed(denied(exceeded, "m", class(tpm, 0, 40_000))), "Token limit exceeded: 60,000 of the 60,000 tokens for class batch used this minute by acme; 40,000 of 100,000 are kept for more urgent classes."},
		{classed(denied(exceeded, "m", class(tpm, 500, 40_000))), "Token limit exceeded: 59,500 of the 60,000 tokens for class batch used this minute by acme; 40,000 of 100,000 are kept for more urgent classes."},
		{denied(exceeded, "m", class(tpm, 0, 40_000)), "Token limit exceeded: 60,000 of the 60,000 tokens for this class used this minute by acme; 40,000 of 100,000 are kept for more urgent classes."},
		{classed(denied(exceeded, "m", owing)), "Token limit exceeded: 102,000 of 100,000 tokens used this minute by acme."},
		{classed(denied(exceeded, "m", class(burst, 20_000, 200_000))), "Token limit exceeded: 280,000 of the burst of 300,000 tokens for class batch used by acme; 200,000 of 500,000 are kept for more urgent classes; the rate is 5,000,000 per minute."},
		{classed(denied(exceeded, "m", class(state("spend", "fixed_window", 24*time.Hour, 10_000_000, 0), 0, 4_000_000))), "Spend limit exceeded: $6.00 of the $6.00 for class batch used today by acme; $4.00 of $10.00 are kept for more urgent classes."},
		{classed(denied(exceeded, "m", class(state("concurrent", "concurrency", 0, 50, 0), 0, 10))), "Concurrency limit exceeded: 40 of the 40 concurrent calls for class batch of acme running; 10 of 50 are kept for more urgent classes."},
		{classed(denied(capacity, "m", large)), "Token limit exceeded: this call needs 70,000 tokens, and the limit of acme never grants more than 60,000 tokens at once to class batch."},
		{refused("limit_full", 12*time.Second, 5*time.Second), tenUsed + " The call may not wait: as many calls wait at this limit as may."},
		{refused("key_full", 12*time.Second, 5*time.Second), tenUsed + " The call may not wait: as many calls of this key wait as may."},
		{refused("line_full", 12*time.Second, 5*time.Second), tenUsed + ` The call may not wait: as many calls of "acme" wait as may.`},
		{refused("too_late", 12_250*time.Millisecond, 5*time.Second), tenUsed + " The call would have to wait for 12.3s, and may wait for 5s."},
		{refused("too_late", 80*time.Millisecond, 50*time.Millisecond), tenUsed + " The call would have to wait for 80ms, and may wait for 50ms."},
		{refused("too_late", 12*time.Second, 0), tenUsed + " The call would have to wait for 12s, which is longer than it may."},
		{refused("too_late", 12*time.Second, time.Minute), tenUsed + " The call would have to wait for 12s, which is longer than it may."},
		{refused("too_late", -1, 0), tenUsed + " The call may not wait: it would not fit in time."},
		{refused("newer", 12*time.Second, 0), tenUsed},
		{alone(denied(exceeded, "m", debt)), "Token limit exceeded: 12,000 of 10,000 tokens used this minute." + share},
		{alone(denied(capacity, "m", big)), "Token limit exceeded: this call needs 12,000 tokens, and the limit never grants more than 10,000 tokens at once." + share},
		{alone(denied(capacity, "m", shut)), "Spend limit exceeded: this call needs $1.00, and the limit is 0."},
		{alone(denied(exceeded, "m", hidden)), "Spend limit org-spend of acme exceeded."},
		{alone(denied("owner_unreachable", "m", shut)), "Spend limit cannot be checked: the node that keeps it is unreachable."},
		{waited, tenUsed + " The call has waited for 5s."},
		{denied(exceeded, "", state("évals", "token_bucket", time.Hour, 2, 0)), "Évals limit exceeded: 2 of 2 évals used this hour."},
	} {
		if got := Message(tt.d); got != tt.want {
			t.Errorf("message = %s\nwant      %s", got, tt.want)
		}
	}
}

func TestDollars(t *testing.T) {
	for _, tt := range []struct {
		micros int64
		want   string
	}{
		{0, "$0.00"}, {1, "$0.000001"}, {10_000, "$0.01"}, {12_500, "$0.0125"}, {1_000_000, "$1.00"}, {1_234_567_890_000, "$1,234,567.89"},
	} {
		if got := dollars(tt.micros); got != tt.want {
			t.Errorf("dollars(%d) = %s, want %s", tt.micros, got, tt.want)
		}
	}
}

// TestHiddenLimitsShowNoNumbers checks the facts of a denial.
func TestHiddenLimitsShowNoNumbers(t *testing.T) {
	l := &Limit{
		Name: "org-spend", Dimension: "spend", Scope: "acme", Algorithm: "fixed_window", Limit: 2_000_000_000, Capacity: 2_000_000_000,
		Remaining: 7, Cost: 31, ResetAt: time.Unix(1_772_000_000, 0), Window: 24 * time.Hour, Hidden: true,
	}
	d := &Decision{Reason: "limit_exceeded", Model: "m", RetryAfter: time.Hour, Binding: l, Limits: []Limit{*l}}
	got, err := json.Marshal(FactsOf(d))
	if err != nil {
		t.Fatal(err)
	}
	if want := `{"reason":"limit_exceeded","retry_after_seconds":3600,"dimension":"spend","name":"org-spend","scope":"acme"}`; string(got) != want {
		t.Errorf("facts = %s\nwant    %s", got, want)
	}
	h := http.Header{}
	SetHeaders(h, d, time.Unix(0, 0))
	SetOpenAIHeaders(h, d.Limits, time.Unix(0, 0))
	if len(h) > 0 {
		t.Errorf("headers = %v, want none", h)
	}
}
