// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// item wraps a call.
func item(call proto.Message) *pb.Item {
	switch r := call.(type) {
	case *pb.CheckRequest:
		return &pb.Item{Call: &pb.Item_Check{Check: r}}
	case *pb.ReserveRequest:
		return &pb.Item{Call: &pb.Item_Reserve{Reserve: r}}
	case *pb.SettleRequest:
		return &pb.Item{Call: &pb.Item_Settle{Settle: r}}
	case *pb.CancelRequest:
		return &pb.Item{Call: &pb.Item_Cancel{Cancel: r}}
	case *pb.PeekRequest:
		return &pb.Item{Call: &pb.Item_Peek{Peek: r}}
	case *pb.CountRequest:
		return &pb.Item{Call: &pb.Item_Count{Count: r}}
	}
	return &pb.Item{}
}

func replay(call proto.Message) *pb.Item {
	i := item(call)
	i.Replay = true
	return i
}

func late(call proto.Message) *pb.Item {
	i := item(call)
	i.TimeoutNanos = -1
	return i
}

func answers(s *Service, items ...*pb.Item) []*pb.Result {
	results := s.Do(context.Background(), callsOf(items...))
	defer results.Release()
	return results.All()
}

// callsOf makes calls of items from a member.
func callsOf(items ...*pb.Item) []call.Call {
	calls := make([]call.Call, len(items))
	for i, item := range items {
		calls[i] = call.FromItem(item, call.MemberStream)
	}
	return calls
}

func callOf(item *pb.Item) *call.Call { return &callsOf(item)[0] }

// brief says a result in a few words.
func brief(r *pb.Result) string {
	switch r := r.GetResult().(type) {
	case *pb.Result_Decision:
		return r.Decision.RequestId + " " + strings.ToLower(strings.TrimPrefix(r.Decision.Outcome.String(), "OUTCOME_"))
	case *pb.Result_Settlement:
		return r.Settlement.RequestId + " " + strings.ToLower(strings.TrimPrefix(r.Settlement.Status.String(), "RESERVATION_STATUS_"))
	case *pb.Result_Limits:
		return fmt.Sprint(len(r.Limits.Limits), " limits")
	case *pb.Result_Counted:
		return fmt.Sprint(r.Counted.Used, " of ", r.Counted.Limit)
	case *pb.Result_Error:
		return strings.TrimSpace(fmt.Sprint(codes.Code(r.Error.Code), " ", r.Error.Field))
	case *pb.Result_Redirect:
		return "redirect to " + r.Redirect.Owner
	}
	return "nothing"
}

func briefs(results []*pb.Result) []string {
	var all []string
	for _, r := range results {
		all = append(all, brief(r))
	}
	return all
}

// TestAnswer: every item of a batch is answered on its own and in its place,
// whatever the others are.
func TestAnswer(t *testing.T) {
	n := newNode(t)
	if _, err := n.Reserve(t.Context(), &pb.ReserveRequest{Key: "r", RequestId: "held", MaxOutputTokens: new(int64(10))}); err != nil {
		t.Fatal(err)
	}
	items := []*pb.Item{
		item(&pb.CheckRequest{Key: "a", InputTokens: 6_000, RequestId: "1"}),
		item(&pb.CheckRequest{Key: "b//c"}),
		item(&pb.ReserveRequest{Key: "r", RequestId: "2", MaxOutputTokens: new(int64(20))}),
		late(&pb.CheckRequest{Key: "late", RequestId: "3"}),
		item(&pb.CheckRequest{Key: "elsewhere", RequestId: "4"}),
		item(&pb.CheckRequest{Key: "a", InputTokens: 6_000, RequestId: "5"}),
		item(&pb.SettleRequest{Key: "r", RequestId: "held", OutputTokens: new(int64(5)), Final: new(false)}),
		item(&pb.CancelRequest{Key: "r", RequestId: "held"}),
		item(&pb.CancelRequest{Key: "r", RequestId: "never"}),
		item(&pb.SettleRequest{Key: "r"}),
		item(&pb.PeekRequest{Key: "p"}),
		item(&pb.PeekRequest{Key: "p", Tier: "gold"}),
		item(&pb.ReserveRequest{Key: "r", RequestId: "6", N: new(int64(0))}),
		item(&pb.CheckRequest{Key: "a", InputTokens: 6_000, RequestId: "1"}),
		item(&pb.CheckRequest{Key: "a", InputTokens: 1, RequestId: "1"}),
		item(&pb.CheckRequest{Key: "free"}),
		{},
		nil,
		{Call: &pb.Item_Check{}},
		{Call: &pb.Item_Settle{}},
	}
	decided := n.NewResults(len(items))
	elsewhere := &pb.Result{Result: &pb.Result_Redirect{Redirect: &pb.Redirect{Owner: "node2"}}, Term: 7}
	decided.Set(4, elsewhere)
	n.Decide(callsOf(items...), decided)
	results := decided.All()
	decided.Release()

	want := []string{
		"1 allowed",
		"InvalidArgument key",
		"2 allowed",
		"DeadlineExceeded",
		"redirect to node2",
		"5 denied",
		"held held",
		"held cancelled",
		"NotFound",
		"InvalidArgument request_id",
		"4 limits",
		"InvalidArgument tier",
		"InvalidArgument n",
		"1 allowed",
		"AlreadyExists",
		"made-1 allowed",
		"InvalidArgument call",
		"InvalidArgument call",
		"InvalidArgument key",
		"InvalidArgument key",
	}
	if diff := cmp.Diff(want, briefs(results)); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	if results[4] != elsewhere || elsewhere.Term != 7 {
		t.Errorf("the result that was there became %v", results[4])
	}
	if got := results[0].GetDecision().Replayed; got {
		t.Error("the first of two copies is a replay: they changed places")
	}
	if got := results[13].GetDecision().Replayed; !got {
		t.Error("the second of two copies is no replay")
	}
	for key, want := range map[string]int64{"a": 4_000, "r": 9_980, "late": 10_000, "elsewhere": 10_000} {
		if left := remaining(t, n, key, "tokens"); left != want {
			t.Errorf("tokens left of %s = %d, want %d", key, left, want)
		}
	}
}

// TestAnswerIsTheUnaryAnswer: a call is answered alike, alone and in a batch.
func TestAnswerIsTheUnaryAnswer(t *testing.T) {
	alone, together := newNode(t), newNode(t)
	ctx := t.Context()
	ask := func(call proto.Message) *pb.Result {
		switch r := call.(type) {
		case *pb.CheckRequest:
			d, err := alone.Check(ctx, r)
			return orError(&pb.Result{Result: &pb.Result_Decision{Decision: d}}, err)
		case *pb.ReserveRequest:
			d, err := alone.Reserve(ctx, r)
			return orError(&pb.Result{Result: &pb.Result_Decision{Decision: d}}, err)
		case *pb.SettleRequest:
			d, err := alone.Settle(ctx, r)
			return orError(&pb.Result{Result: &pb.Result_Settlement{Settlement: d}}, err)
		case *pb.CancelRequest:
			d, err := alone.Cancel(ctx, r)
			return orError(&pb.Result{Result: &pb.Result_Settlement{Settlement: d}}, err)
		case *pb.PeekRequest:
			d, err := alone.Peek(ctx, r)
			return orError(&pb.Result{Result: &pb.Result_Limits{Limits: d}}, err)
		}
		return nil
	}
	calls := []proto.Message{
		&pb.ReserveRequest{Key: "acme/a", RequestId: "1", InputTokens: 100, MaxOutputTokens: new(int64(10)), N: new(int64(2))},
		&pb.ReserveRequest{Key: "acme/b", RequestId: "1", InputTokens: 100, MaxOutputTokens: new(int64(10))},
		&pb.ReserveRequest{Key: "s", Tier: "shrink", RequestId: "2", InputTokens: 500, MaxOutputTokens: new(int64(2000)), MinOutputTokens: new(int64(16))},
		&pb.SettleRequest{Key: "acme/a", RequestId: "1", OutputTokens: new(int64(5)), Final: new(false)},
		&pb.SettleRequest{Key: "acme/a", RequestId: "1", OutputTokens: new(int64(30))},
		&pb.CancelRequest{Key: "s", RequestId: "2"},
		&pb.CancelRequest{Key: "s", RequestId: "3"},
		&pb.PeekRequest{Key: "acme/a"},
		&pb.CheckRequest{Key: "c", RequestId: "1", InputTokens: 20_000},
		&pb.CheckRequest{Key: "c", RequestId: "1", InputTokens: 9_000},
		&pb.CheckRequest{Key: "c", RequestId: "2", InputTokens: 9_000, Model: "m"},
		&pb.CheckRequest{Key: "w", RequestId: "1", Tier: "watched", Costs: map[string]int64{"images": 6}},
		&pb.CheckRequest{Key: "w", Tier: "gold"},
	}
	var items []*pb.Item
	var want []*pb.Result
	for _, call := range calls {
		items = append(items, item(call))
		want = append(want, ask(call))
	}
	if diff := cmp.Diff(want, answers(together.Service, items...), protocmp.Transform()); diff != "" {
		t.Errorf("the batch is answered otherwise (-unary +batch):\n%s", diff)
	}
}

// TestManyLimits: an answer lists every limit, however many there are.
func TestManyLimits(t *testing.T) {
	for _, count := range []int{0, 1, 4, 5, 8, 9, 16} {
		text := "tiers:\n  t:\n    limits: ["
		for i := range count {
			text += fmt.Sprintf("{ name: l%02d, dimension: d%02d, limit: 5, window: 1m }, ", i, i)
		}
		engine := limiter.New(limiter.Options{})
		p, err := policy.Parse("test.yaml", []byte(text+"]\ndefault_tier: t\n"), engine.Catalog())
		if err != nil {
			t.Fatal(err)
		}
		s := New(Options{Engine: engine, Policy: func() Policy { return p }, Now: (&clock{}).now, Name: "node1"})
		reserve := &pb.ReserveRequest{Key: "k", RequestId: "r"}
		alone, err := s.Reserve(t.Context(), reserve)
		if err != nil {
			t.Fatal(err)
		}
		settled, err := s.Settle(t.Context(), &pb.SettleRequest{Key: "k", RequestId: "r"})
		if err != nil {
			t.Fatal(err)
		}
		batch := answers(s, item(reserve), item(&pb.PeekRequest{Key: "k"}), item(&pb.CheckRequest{Key: "k", RequestId: "c"}))
		for name, got := range map[string][]*pb.LimitState{
			"reserve":          alone.Limits,
			"settle":           settled.Limits,
			"reserve in batch": batch[0].GetDecision().GetLimits(),
			"peek in batch":    batch[1].GetLimits().GetLimits(),
			"check in batch":   batch[2].GetDecision().GetLimits(),
		} {
			if len(got) != count {
				t.Errorf("%s lists %d limits, want %d", name, len(got), count)
			}
			for i, l := range got {
				if want := fmt.Sprintf("l%02d", i); l.Name != want {
					t.Errorf("%s: limit %d of %d is %s, want %s", name, i, count, l.Name, want)
				}
			}
		}
	}
}

func orError(r *pb.Result, err error) *pb.Result {
	if err != nil {
		return &pb.Result{Result: &pb.Result_Error{Error: Describe(err)}}
	}
	return r
}

// TestAnswerAtOneInstant: a batch is decided at the time at which it came.
func TestAnswerAtOneInstant(t *testing.T) {
	n := newNode(t)
	reads := 0
	now := n.now
	n.now = func() limiter.Time {
		reads++
		n.clock.elapsed.Add(60e9) // all limits per minute are full again
		return now()
	}
	var items []*pb.Item
	for i := range 12 {
		items = append(items, item(&pb.CheckRequest{Key: "k", RequestId: fmt.Sprint("c", i)}))
		items = append(items, item(&pb.ReserveRequest{Key: "r", RequestId: fmt.Sprint("r", i), MaxOutputTokens: new(int64(6_000))}))
	}
	admitted := map[string]int{}
	for i, r := range answers(n.Service, items...) {
		if r.GetDecision().GetOutcome() == pb.Outcome_OUTCOME_ALLOWED {
			admitted[keyOf(items[i])]++
		}
	}
	if diff := cmp.Diff(map[string]int{"k": 10, "r": 1}, admitted); diff != "" {
		t.Errorf("admitted differs (-want +got):\n%s", diff)
	}
	if reads != 2 { // the second is for the metrics
		t.Errorf("the clock was read %d times, want 2", reads)
	}
}

func keyOf(i *pb.Item) string {
	if r := i.GetReserve(); r != nil {
		return r.Key
	}
	return i.GetCheck().GetKey()
}

// TestReplay: what was decided elsewhere is charged whatever the limits say,
// once, and is not counted as a decision again.
func TestReplay(t *testing.T) {
	n := newNode(t)
	full := item(&pb.CheckRequest{Key: "k", Requests: new(int64(10)), RequestId: "all"})
	got := answers(n.Service,
		full,
		item(&pb.CheckRequest{Key: "k", RequestId: "none left"}),
		replay(&pb.CheckRequest{Key: "k", Requests: new(int64(3)), InputTokens: 100, RequestId: "told"}),
		replay(&pb.ReserveRequest{Key: "r", RequestId: "1", MaxOutputTokens: new(int64(9_000))}),
		replay(&pb.ReserveRequest{Key: "r", RequestId: "2", MaxOutputTokens: new(int64(9_000))}),
	)
	want := []string{"all allowed", "none left denied", "told allowed", "1 allowed", "2 allowed"}
	if diff := cmp.Diff(want, briefs(got)); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	if granted := got[4].GetDecision().GetGrantedOutputTokens(); granted != 9_000 {
		t.Errorf("granted = %d, want 9000", granted)
	}
	again := answers(n.Service, replay(&pb.CheckRequest{Key: "k", Requests: new(int64(3)), InputTokens: 100, RequestId: "told"}))
	if !again[0].GetDecision().GetReplayed() {
		t.Errorf("told again = %v, want the same answer", again[0])
	}
	if left := remaining(t, n, "k", "tokens"); left != 9_900 {
		t.Errorf("tokens left = %d, want 9900: told once", left)
	}
	seen := answers(n.Service, item(&pb.PeekRequest{Key: "k"}))[0].GetLimits()
	for _, l := range seen.Limits {
		if l.Dimension == "requests" && l.Debt != 3 {
			t.Errorf("debt of requests = %d, want 3", l.Debt)
		}
	}
	// The next call with the same scratch is not told, but asked.
	if got := brief(answers(n.Service, item(&pb.CheckRequest{Key: "k", RequestId: "still none"}))[0]); got != "still none denied" {
		t.Errorf("a call after replays: %s, want denied", got)
	}
	for _, sample := range scrape(t, n.registry) {
		if strings.HasPrefix(sample, "bucketring_decisions_total") && strings.Contains(sample, "allowed") && !strings.HasSuffix(sample, " 1") {
			t.Errorf("%s, want 1: a replay is not decided here", sample)
		}
		if strings.HasPrefix(sample, "bucketring_decision_duration_seconds_count") && !strings.HasSuffix(sample, `{route="local"} 3`) {
			t.Errorf("%s, want 3 of local", sample)
		}
	}
}

// TestValidate finds what a call would be refused for before any policy.
func TestValidate(t *testing.T) {
	n := newNode(t)
	for _, tt := range []struct {
		item  *pb.Item
		field string
	}{
		{item(&pb.CheckRequest{Key: "k", Tier: "gold"}), ""}, // a tier may be known to the owner
		{item(&pb.ReserveRequest{Key: "k"}), ""},
		{item(&pb.SettleRequest{Key: "k", RequestId: "never"}), ""},
		{item(&pb.CancelRequest{Key: "k", RequestId: "never"}), ""},
		{item(&pb.PeekRequest{Key: "k"}), ""},
		{item(&pb.CheckRequest{Key: "k/"}), "key"},
		{item(&pb.CheckRequest{Key: "k", Costs: map[string]int64{"spend": 1}}), "costs.spend"},
		{item(&pb.ReserveRequest{Key: "k", N: new(int64(0))}), "n"},
		{item(&pb.SettleRequest{Key: "k"}), "request_id"},
		{item(&pb.CancelRequest{RequestId: "a"}), "key"},
		{item(&pb.PeekRequest{Key: "k", Model: "\x00"}), "model"},
		{&pb.Item{}, "call"},
		{nil, "call"},
	} {
		err := n.Validate(callOf(tt.item))
		if tt.field == "" {
			if err != nil {
				t.Errorf("Validate(%v) = %v, want nil", tt.item, err)
			}
			continue
		}
		if st := grpcstatus.Convert(err); st.Code() != codes.InvalidArgument || violated(st) != tt.field {
			t.Errorf("Validate(%v) = %v, want InvalidArgument for %s", tt.item, err, tt.field)
		}
	}
	if n.engine.Stats().Keys != 0 {
		t.Error("validating made keys")
	}
	want := []string{
		`bucketring_invalid_requests_total{field="call"} 2`,
		`bucketring_invalid_requests_total{field="costs"} 1`,
		`bucketring_invalid_requests_total{field="key"} 2`,
		`bucketring_invalid_requests_total{field="model"} 1`,
		`bucketring_invalid_requests_total{field="n"} 1`,
		`bucketring_invalid_requests_total{field="request_id"} 1`,
	}
	if diff := cmp.Diff(want, scrape(t, n.registry)); diff != "" {
		t.Errorf("metrics differ (-want +got):\n%s", diff)
	}
}

func TestValidateBatch(t *testing.T) {
	n := newNode(t)
	b := &pb.Batch{Items: make([]*pb.Item, MaxBatchItems)}
	if err := n.ValidateBatch(b); err != nil {
		t.Errorf("ValidateBatch(512 items) = %v, want nil", err)
	}
	b.Items = append(b.Items, nil)
	err := n.ValidateBatch(b)
	if st := grpcstatus.Convert(err); st.Code() != codes.InvalidArgument || violated(st) != "items" || !strings.Contains(st.Message(), "at most 512, got 513") {
		t.Errorf("ValidateBatch(513 items) = %v, want InvalidArgument for items", err)
	}
}

// TestLargestBatchFits: what a link sends is a message that the server takes, with the
// longest calls; so is a full batch of calls that are not so long.
func TestLargestBatchFits(t *testing.T) {
	n := newNode(t)
	text := func(n int) string { return strings.Repeat("x", n) }
	costs := map[string]int64{}
	for i := range maxCosts {
		costs[fmt.Sprintf("%02d", i)+text(maxCostNameBytes-2)] = limiter.MaxAmount
	}
	const linkBytes = 64 << 10 // of package link; one call may come on top
	b := &pb.Batch{Sequence: 1 << 63, Ring: 1}
	for range MaxBatchItems {
		longest := item(&pb.ReserveRequest{
			Key: text(limiter.MaxKeyBytes), Tier: text(maxNameBytes), Model: text(maxNameBytes), RequestId: text(maxIDBytes),
			Requests: new(int64(limiter.MaxAmount)), InputTokens: 1 << 52, MaxOutputTokens: new(int64(1)), MinOutputTokens: new(int64(1)),
			N: new(int64(1024)), TtlSeconds: new(int64(maxTTLSeconds)), Costs: costs,
		})
		longest.TimeoutNanos, longest.Term, longest.Replay = 1<<62, 1<<63, true
		if err := n.Validate(callOf(longest)); err != nil {
			t.Fatal(err)
		}
		if b.Items = append(b.Items, longest); proto.Size(b) > linkBytes {
			break
		}
	}
	if size := proto.Size(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: b}}); size > maxMessage {
		t.Errorf("a batch of a link can have %d bytes, and a message %d", size, maxMessage)
	}
	b.Items = make([]*pb.Item, MaxBatchItems)
	for i := range b.Items {
		b.Items[i] = item(&pb.ReserveRequest{
			Key: text(limiter.MaxKeyBytes), Model: text(64), RequestId: text(64), InputTokens: 1 << 40, MaxOutputTokens: new(int64(1 << 40)),
		})
	}
	if size := proto.Size(&pb.PeerMessage{Message: &pb.PeerMessage_Batch{Batch: b}}); size > maxMessage {
		t.Errorf("a full batch has %d bytes, and a message %d", size, maxMessage)
	}
}

func TestNewID(t *testing.T) {
	n := newNode(t)
	if a, b := n.NewID(), n.NewID(); a != "made-1" || b != "made-2" {
		t.Errorf("NewID() = %q, %q, want made-1, made-2", a, b)
	}
}
