// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"encoding/json"
	"testing"
	"time"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// The answers as encoding/json writes them, which the append functions are held to.

// decisionJSON is the answer to check and reserve.
type decisionJSON struct {
	Outcome string `json:"outcome"`
	*denialJSON
	RequestID           string `json:"request_id"`
	Tier                string `json:"tier"`
	GrantedOutputTokens *int64 `json:"granted_output_tokens,omitempty"`
	BoundOutput         bool   `json:"bound_output,omitempty"`
	waitJSON
	stateJSON
}

// waitJSON is what is said of classes and waiting.
type waitJSON struct {
	Priority    string `json:"priority,omitempty"`
	WaitedMS    *int64 `json:"waited_ms,omitempty"` // rounded up
	Place       int64  `json:"place,omitempty"`
	WaitRefused string `json:"wait_refused,omitempty"`
}

// denialJSON is what a denial has in addition.
type denialJSON struct {
	Error   string `json:"error"`
	Message string `json:"message"`
	explain.Facts
}

// settlementJSON is the answer to settle and cancel.
type settlementJSON struct {
	RequestID string `json:"request_id"`
	Status    string `json:"status"`
	peekJSON
}

// peekJSON is the answer to limits.
type peekJSON struct {
	Tier string `json:"tier"`
	stateJSON
}

// stateJSON ends every answer: the limits, and where they come from.
type stateJSON struct {
	Limits        []limitJSON `json:"limits"`
	PolicyVersion string      `json:"policy_version"`
	Owner         string      `json:"owner"`
	Route         string      `json:"route"`
}

// waitOf converts what a decision says of classes and waiting.
func waitOf(d *pb.Decision) waitJSON {
	j := waitJSON{Priority: explain.ClassFromWire(d.GetPriority()), Place: d.GetPlace(), WaitRefused: d.GetWaitRefused()}
	if d.Waited != nil {
		j.WaitedMS = new(int64(explain.Ceil(d.GetWaited().AsDuration(), time.Millisecond) / time.Millisecond))
	}
	return j
}

// stateOf converts what all answers have.
func stateOf(answer interface {
	GetLimits() []*pb.LimitState
	GetPolicyVersion() string
	GetOwner() string
	GetRoute() pb.Route
},
) stateJSON {
	s := stateJSON{
		Limits:        make([]limitJSON, len(answer.GetLimits())),
		PolicyVersion: answer.GetPolicyVersion(),
		Owner:         answer.GetOwner(),
		Route:         routes.Of(int32(answer.GetRoute())),
	}
	for i, l := range answer.GetLimits() {
		s.Limits[i] = limitOf(l)
	}
	return s
}

func decisionOf(d *pb.Decision, x *explain.Decision) *decisionJSON {
	j := &decisionJSON{
		Outcome:             outcomes.Of(int32(d.GetOutcome())),
		RequestID:           d.GetRequestId(),
		Tier:                d.GetTier(),
		GrantedOutputTokens: d.GrantedOutputTokens,
		BoundOutput:         d.GetBoundOutput(),
		waitJSON:            waitOf(d),
		stateJSON:           stateOf(d),
	}
	if d.GetOutcome() == pb.Outcome_OUTCOME_DENIED {
		j.denialJSON = &denialJSON{Error: "rate_limit_exceeded", Message: explain.Message(x), Facts: explain.FactsOf(x)}
	}
	return j
}

func encoded(t *rapid.T, v any) string {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

func drawLimit(t *rapid.T) *pb.LimitState {
	text, number, flag := rapid.String(), rapid.Int64(), rapid.Bool()
	l := &pb.LimitState{
		Name: text.Draw(t, "name"), Dimension: rapid.SampledFrom([]string{"tokens", "requests", "concurrent", "spend", "images"}).Draw(t, "dimension"),
		Scope: text.Draw(t, "scope"), Algorithm: text.Draw(t, "algorithm"), Limit: number.Draw(t, "limit"), Capacity: number.Draw(t, "capacity"),
		Remaining: rapid.Int64Min(0).Draw(t, "remaining"), Debt: number.Draw(t, "debt"), Credit: number.Draw(t, "credit"), Headroom: number.Draw(t, "headroom"),
		Shadow: flag.Draw(t, "shadow"), Exceeded: flag.Draw(t, "exceeded"), Hidden: flag.Draw(t, "hidden"), PerModel: flag.Draw(t, "per model"),
	}
	if flag.Draw(t, "resets") {
		l.ResetAt = &timestamppb.Timestamp{Seconds: rapid.Int64Range(0, 1<<34).Draw(t, "reset"), Nanos: rapid.Int32Range(0, 999_999_999).Draw(t, "nanos")}
	}
	if flag.Draw(t, "waits") {
		l.MaxWait = durationpb.New(time.Duration(rapid.Int64Range(0, 600e9).Draw(t, "max wait")))
	}
	return l
}

// TestAnswersAsEncodingJSON: answers are written byte for byte as encoding/json would.
func TestAnswersAsEncodingJSON(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text, flag := rapid.String(), rapid.Bool()
		d := &pb.Decision{
			Outcome: pb.Outcome(rapid.Int32Range(-1, 5).Draw(t, "outcome")), Reason: pb.Reason(rapid.Int32Range(-1, 8).Draw(t, "reason")),
			RequestId: text.Draw(t, "id"), Tier: text.Draw(t, "tier"), BoundOutput: flag.Draw(t, "bound"), PolicyVersion: text.Draw(t, "version"),
			Owner: text.Draw(t, "owner"), Route: pb.Route(rapid.Int32Range(0, 5).Draw(t, "route")), Place: rapid.Int64Range(0, 9).Draw(t, "place"),
			Priority: pb.Priority(rapid.Int32Range(0, 4).Draw(t, "class")), WaitRefused: text.Draw(t, "refused"),
			Limits: rapid.SliceOfN(rapid.Custom(drawLimit), 0, 3).Draw(t, "limits"),
		}
		if flag.Draw(t, "granted") {
			d.GrantedOutputTokens = new(rapid.Int64().Draw(t, "tokens"))
		}
		if flag.Draw(t, "waited") {
			d.Waited = durationpb.New(time.Duration(rapid.Int64Range(0, 600e9).Draw(t, "wait")))
		}
		if flag.Draw(t, "retries") {
			d.RetryAfter = durationpb.New(time.Duration(rapid.Int64Range(0, 1<<45).Draw(t, "retry")))
		}
		if len(d.Limits) > 0 && flag.Draw(t, "binds") {
			d.Binding = new(int32(rapid.IntRange(0, len(d.Limits)-1).Draw(t, "binding")))
		}
		x := explain.FromWire(d, text.Draw(t, "model"))
		s := &pb.Settlement{RequestId: d.RequestId, Status: pb.ReservationStatus(rapid.Int32Range(0, 6).Draw(t, "status")), Tier: d.Tier, Limits: d.Limits, PolicyVersion: d.PolicyVersion, Owner: d.Owner, Route: d.Route}
		p := &pb.PeekResponse{Tier: d.Tier, Limits: d.Limits, PolicyVersion: d.PolicyVersion, Owner: d.Owner, Route: d.Route}
		for _, tt := range []struct{ got, want string }{
			{string(appendDecision(nil, d, &x)), encoded(t, decisionOf(d, &x))},
			{string(appendSettlement(nil, s)), encoded(t, &settlementJSON{s.RequestId, statuses.Of(int32(s.Status)), peekJSON{s.Tier, stateOf(s)}})},
			{string(appendPeek(nil, p)), encoded(t, &peekJSON{p.Tier, stateOf(p)})},
		} {
			if tt.got != tt.want {
				t.Errorf("answer = %s\nwant     %s", tt.got, tt.want)
			}
		}
	})
}

// FuzzText: texts are written as encoding/json writes them, whatever is in them.
func FuzzText(f *testing.F) {
	for _, s := range []string{"", "acme/alice", `a"b\c`, "<&>", "\x00\x1f\x7f", "\u2028\u2029", "\xff\xc0", "ä€😀", "\n\r\t\b\f"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(s); err != nil {
			t.Fatal(err)
		}
		if got := string(appendText(nil, s)) + "\n"; got != b.String() {
			t.Errorf("appendText(%q) = %s, want %s", s, got, b.String())
		}
	})
}
