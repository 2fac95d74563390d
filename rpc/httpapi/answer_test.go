// SPDX-License-Identifier: Apache-2.0

package httpapi

import (
	"bytes"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/codec/fieldtest"
	"github.com/bucketring/bucketring/rpc/internal/explain"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestDenialMessage: a message has the facts of the binding limit.
func TestDenialMessage(t *testing.T) {
	message := func(d *pb.Decision, model string) string {
		x := explain.FromWire(d, model)
		return explain.Message(&x)
	}
	binding := int32(1)
	burst := &pb.LimitState{
		Name: "l", Dimension: "tokens", Algorithm: "token_bucket", Window: durationpb.New(time.Minute),
		Limit: 5_000_000, Capacity: 500_000, Remaining: 20_000, Cost: 600_000,
	}
	debt := &pb.LimitState{
		Name: "l", Dimension: "tokens", Algorithm: "sliding_window", Window: durationpb.New(time.Minute), Limit: 10_000, Capacity: 10_000, Debt: 2_000,
	}
	for _, tt := range []struct {
		reason pb.Reason
		l      *pb.LimitState
		want   string
	}{
		{pb.Reason_REASON_LIMIT_EXCEEDED, burst, "Token limit l exceeded: 480,000 of a burst of 500,000 tokens used; the rate is 5,000,000 per minute."},
		{pb.Reason_REASON_LIMIT_EXCEEDED, debt, "Token limit l exceeded: 12,000 of 10,000 tokens used in the last minute."},
		{pb.Reason_REASON_EXCEEDS_CAPACITY, burst, "Token limit l exceeded: this call needs 600,000 tokens, and the limit never grants more than 500,000 tokens at once."},
		{pb.Reason_REASON_OWNER_UNREACHABLE, burst, "Token limit l cannot be checked: the node that keeps it is unreachable."},
		{pb.Reason_REASON_NO_PRICE, burst, `A spend limit applies, and the policy has no price for model "m".`},
		{pb.Reason_REASON_TABLE_FULL, burst, "There is no room for a new key; try again later."},
		{pb.Reason_REASON_IDS_FULL, burst, `Live reservations fill the share of request ids of "acme"; settle or cancel them, or try again later.`},
	} {
		d := &pb.Decision{
			Outcome: pb.Outcome_OUTCOME_DENIED, Reason: tt.reason, Binding: &binding, Limits: []*pb.LimitState{{Dimension: "requests", Scope: "acme/alice"}, tt.l},
		}
		if got := message(d, "m"); got != tt.want {
			t.Errorf("message = %s\nwant      %s", got, tt.want)
		}
	}
	if got, want := message(&pb.Decision{Outcome: pb.Outcome_OUTCOME_DENIED}, ""), "The call was denied."; got != want {
		t.Errorf("message = %s, want %s", got, want)
	}
}

// Every field of an answer is in the JSON, but for those that are left out on purpose.
func TestJSONHasEveryFieldOfAnAnswer(t *testing.T) {
	a := &api{now: func() time.Time { return time.Unix(0, 0) }}
	a.buffers.New = func() any { return new(bytes.Buffer) }
	body := func(wire []byte, m proto.Message, write func(http.ResponseWriter)) string {
		if err := proto.Unmarshal(wire, m); err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		write(w)
		return w.Body.String()
	}
	fieldtest.Carried(t, "the JSON of a decision", &pb.Decision{}, []protoreflect.Name{"replayed", "may_wait"}, func(wire []byte) string {
		m := &pb.Decision{}
		return body(wire, m, func(w http.ResponseWriter) { a.writeDecision(w, m, "model", nil) })
	})
	fieldtest.Carried(t, "the JSON of a settlement", &pb.Settlement{}, nil, func(wire []byte) string {
		m := &pb.Settlement{}
		return body(wire, m, func(w http.ResponseWriter) { a.writeSettlement(w, m) })
	})
	peek := func(wire []byte) string {
		m := &pb.PeekResponse{}
		return body(wire, m, func(w http.ResponseWriter) { a.writePeek(w, m) })
	}
	fieldtest.Carried(t, "the JSON of a peek", &pb.PeekResponse{}, nil, peek)
	fieldtest.Carried(t, "the JSON of a limit", &pb.LimitState{}, []protoreflect.Name{"window", "cost", "capacity"}, func(wire []byte) string {
		return peek(fieldtest.Wrap(&pb.PeekResponse{}, "limits", wire))
	})
}
