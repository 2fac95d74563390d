// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"math"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

var day = limiter.Window{Unit: limiter.UnitDay}

// perDay is hits on a counter of 10 a day, from a member.
func perDay(hits int64, id string) *pb.CountRequest {
	return &pb.CountRequest{Key: "k", Limit: 10, Unit: pb.Unit_UNIT_DAY, Hits: hits, RequestId: id}
}

func count(s *Service, q *Count) Counted { return counted(s, countCalls(q)) }

// countCalls makes a call of hits, as a router does.
func countCalls(q *Count) []call.Call {
	r := &pb.CountRequest{}
	q.Fill(r)
	return []call.Call{call.Of(r)}
}

func counted(s *Service, calls []call.Call) Counted {
	results := s.Do(context.Background(), calls)
	defer results.Release()
	return results.Counted(0)
}

// TestCount: hits are counted alike where they come and from a member.
func TestCount(t *testing.T) {
	n := newNode(t)
	start := n.now()
	_, end := day.Bounds(start.Wall)
	left := time.Duration(end - start.Wall)
	got := count(n.Service, &Count{Key: "k", Limit: 10, Window: day, Hits: 8})
	if diff := cmp.Diff(Counted{Limit: 10, Used: 8, Remaining: 2, Reset: left, Owner: "node1", Route: pb.Route_ROUTE_LOCAL}, got); diff != "" {
		t.Errorf("Count differs (-want +got):\n%s", diff)
	}
	results := answers(n.Service, item(perDay(3, "a")), item(perDay(0, "")), item(&pb.CountRequest{Key: "k", Limit: 10, Unit: pb.Unit_UNIT_DAY, Hits: 3, GiveBack: true}), item(perDay(3, "a")))
	if diff := cmp.Diff([]string{"11 of 10", "11 of 10", "8 of 10", "11 of 10"}, briefs(results)); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	over := countedBy(results[0].GetCounted())
	if diff := cmp.Diff(Counted{Over: true, Limit: 10, Used: 11, Reset: left, Owner: "node1", Route: pb.Route_ROUTE_LOCAL}, over); diff != "" {
		t.Errorf("from a member: Count differs (-want +got):\n%s", diff)
	}
	if c := results[0].GetCounted(); c.WindowEnd != end || c.Replayed || !results[3].GetCounted().Replayed {
		t.Errorf("counted = %v and %v, want the window to end at %d, and the second to be a replay", c, results[3], end)
	}
	for want, line := range map[string]string{"2": `bucketring_counts_total{result="within"}`, "3": `bucketring_counts_total{result="over"}`} {
		if !strings.Contains(strings.Join(scrape(t, n.registry), "\n"), line+" "+want) {
			t.Errorf("%s is not %s:\n%s", line, want, strings.Join(scrape(t, n.registry), "\n"))
		}
	}
}

// TestCountToldLate: a replay counts until its window is over, once, and is not
// counted as an answer again.
func TestCountToldLate(t *testing.T) {
	n := newNode(t)
	told := perDay(4, "told")
	_, told.WindowEnd = day.Bounds(n.now().Wall)
	got := briefs(answers(n.Service, replay(told), replay(told), item(perDay(0, ""))))
	if diff := cmp.Diff([]string{"4 of 10", "4 of 10", "4 of 10"}, got); diff != "" {
		t.Errorf("results differ (-want +got):\n%s", diff)
	}
	n.clock.elapsed.Add(int64(24 * time.Hour))
	late := perDay(4, "late")
	late.WindowEnd = told.WindowEnd
	got = briefs(answers(n.Service, replay(late), item(perDay(0, ""))))
	if diff := cmp.Diff([]string{"0 of 10", "0 of 10"}, got); diff != "" {
		t.Errorf("a day later: results differ (-want +got):\n%s", diff)
	}
	if all := strings.Join(scrape(t, n.registry), "\n"); !strings.Contains(all, `bucketring_counts_total{result="within"} 2`) {
		t.Errorf("replays are counted as answers:\n%s", all)
	}
}

func TestCountIsRefused(t *testing.T) {
	n := newNode(t)
	for _, tt := range []struct {
		change      func(*pb.CountRequest)
		field, says string
	}{
		{func(q *pb.CountRequest) { q.Key = "" }, "key", "must not be empty"},
		{func(q *pb.CountRequest) { q.Key = "a//b" }, "key", "segments must not be empty"},
		{func(q *pb.CountRequest) { q.Limit = -1 }, "limit", "must be between 0 and 2^53"},
		{func(q *pb.CountRequest) { q.Limit = limiter.MaxAmount + 1 }, "limit", "must be between 0 and 2^53"},
		{func(q *pb.CountRequest) { q.Hits = -1 }, "hits", "must be between 0 and 2^53"},
		{func(q *pb.CountRequest) { q.Hits = math.MaxInt64 }, "hits", "must be between 0 and 2^53"},
		{func(q *pb.CountRequest) { q.Unit = 0 }, "unit", "must be second, minute"},
		{func(q *pb.CountRequest) { q.Unit = 8 }, "unit", "is unknown"},
		{func(q *pb.CountRequest) { q.Unit = 257 }, "unit", "is unknown"}, // not 1
		{func(q *pb.CountRequest) { q.Unit = -1 }, "unit", "is unknown"},
		{func(q *pb.CountRequest) { q.UnitMultiplier = 1 << 31 }, "unit_multiplier", "at most 100 years"},
		{func(q *pb.CountRequest) { q.RequestId = strings.Repeat("x", 129) }, "request_id", "at most 128 bytes"},
		{func(q *pb.CountRequest) { q.WindowEnd = -1 }, "window_end", "must not be negative"},
	} {
		q := perDay(1, "id")
		tt.change(q)
		e := answers(n.Service, item(q))[0].GetError()
		if codes.Code(e.GetCode()) != codes.InvalidArgument || e.GetField() != tt.field || !strings.Contains(e.GetMessage(), tt.says) {
			t.Errorf("%v: %v, want an error of %s that says %q", q, e, tt.field, tt.says)
		}
		if n.Validate(callOf(item(q))) == nil {
			t.Errorf("%v: Validate() = nil, want an error", q)
		}
	}
	for field, q := range map[string]Count{
		"key":   {Key: "", Window: day},
		"limit": {Key: "k", Window: day, Limit: -1},
		"unit":  {Key: "k"},
		"hits":  {Key: "k", Window: day, Hits: limiter.MaxAmount + 1},
	} {
		if err := count(n.Service, &q).Err; grpcstatus.Code(err) != codes.InvalidArgument || Describe(err).GetField() != field {
			t.Errorf("Count(%+v) = %v, want an error of %s", q, err, field)
		}
	}
	if got := count(n.Service, &Count{Key: "k", Window: day}); got.Used != 0 || got.Err != nil {
		t.Errorf("after refusals %+v, want nothing used", got)
	}
	q := perDay(limiter.MaxAmount, "")
	var last *pb.Result
	for range 600 {
		last = answers(n.Service, item(q))[0]
	}
	if e := last.GetError(); e.GetField() != "hits" || !strings.Contains(e.GetMessage(), "does not fit the counter") {
		t.Errorf("hits beyond what a counter holds = %v, want an error of hits", last)
	}
}

// TestUnits: the units of the wire are the limiter's.
func TestUnits(t *testing.T) {
	for number, name := range pb.Unit_name {
		if number == 0 {
			continue
		}
		if got := limiter.Unit(number).String(); "UNIT_"+strings.ToUpper(got) != name {
			t.Errorf("unit %d is %s on the wire, and %s", number, name, got)
		}
	}
	q := Count{Key: "a/b", Limit: 5, Window: limiter.Window{Unit: limiter.UnitMonth, Multiple: 3}, Hits: 7, GiveBack: true}
	var sent pb.CountRequest
	q.Fill(&sent)
	x := &scratch{}
	if err := x.hits(&sent, "id"); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(limiter.CountRequest{Key: "a/b", ID: "id", Limit: 5, Window: q.Window, Hits: 7, GiveBack: true}, x.count); diff != "" {
		t.Errorf("a Count from one member to another differs (-want +got):\n%s", diff)
	}
}

// TestCountAllocatesNothing, where the hits come.
func TestCountAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools")
	}
	n := newNode(t)
	calls := countCalls(&Count{Key: "domain|some descriptor", Limit: 10, Window: limiter.Window{Unit: limiter.UnitYear, Multiple: 3}, Hits: 1})
	if got := testing.AllocsPerRun(200, func() { counted(n.Service, calls) }); got != 0 {
		t.Errorf("Count allocates %v times, want 0", got)
	}
}

func BenchmarkCount(b *testing.B) {
	s, _ := benchNode(b)
	calls := countCalls(&Count{Key: "domain|some descriptor", Limit: 10, Window: limiter.Window{Unit: limiter.UnitMinute}, Hits: 1})
	b.ReportAllocs()
	for b.Loop() {
		if err := counted(s, calls).Err; err != nil {
			b.Fatal(err)
		}
	}
}
