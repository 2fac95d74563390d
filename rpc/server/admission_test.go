// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"net"
	"slices"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	grpcstatus "google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/internal/listenlimit"
	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// refusing returns an Admission that refuses every new call.
func refusing(reg prometheus.Registerer) *Admission {
	a := NewAdmission(reg)
	a.Refuse(overload.Whole)
	return a
}

// wantOverloaded checks that err is a refusal because of overload.
func wantOverloaded(t *testing.T, what string, err error) {
	t.Helper()
	var reason string
	var retry int64
	for _, d := range grpcstatus.Convert(err).Details() {
		switch d := d.(type) {
		case *errdetails.ErrorInfo:
			reason = d.GetReason()
		case *errdetails.RetryInfo:
			retry = d.GetRetryDelay().AsDuration().Milliseconds()
		}
	}
	if grpcstatus.Code(err) != codes.ResourceExhausted || reason != ReasonOverloaded || retry != refusedRetry.Milliseconds() {
		t.Errorf("%s = %v, reason %q, retry after %d ms; want an overloaded node", what, err, reason, retry)
	}
}

// TestRefusedCalls: new unary calls and items are refused, and what ends a reservation is
// not. A refusal charges nothing and is no invalid request.
func TestRefusedCalls(t *testing.T) {
	n := newNode(t)
	admission := NewAdmission(n.registry)
	rejections := NewRejections(n.registry)
	client := pb.NewRateLimiterClient(serveWith(t, n, GRPCOptions{Admission: admission, Rejections: rejections}, func(*grpc.Server) {}))
	ctx := deadline(t)
	for _, id := range []string{"a", "b"} {
		if _, err := client.Reserve(ctx, &pb.ReserveRequest{Key: "k", RequestId: id, InputTokens: 10}); err != nil {
			t.Fatal(err)
		}
	}
	before, err := client.Peek(ctx, &pb.PeekRequest{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	admission.Refuse(overload.Whole)
	_, err = client.Check(ctx, &pb.CheckRequest{Key: "k"})
	wantOverloaded(t, "Check", err)
	_, err = client.Reserve(ctx, &pb.ReserveRequest{Key: "k"})
	wantOverloaded(t, "Reserve", err)
	_, err = client.Peek(ctx, &pb.PeekRequest{Key: "k"})
	wantOverloaded(t, "Peek", err)
	batch := func() (got []string) {
		t.Helper()
		answer, err := client.Batch(ctx, &pb.BatchRequest{Items: []*pb.Item{
			item(&pb.CheckRequest{Key: "k"}),
			item(&pb.SettleRequest{Key: "k", RequestId: "a", OutputTokens: new(int64(1)), Final: new(false)}),
			item(&pb.ReserveRequest{Key: "k"}), item(&pb.PeekRequest{Key: "k"}),
			item(&pb.CancelRequest{Key: "k", RequestId: "unknown"}),
		}})
		if err != nil {
			t.Fatal(err)
		}
		for i, r := range answer.GetResults() {
			if r.GetError().GetRetryAfterMs() == refusedRetry.Milliseconds() {
				got = append(got, "refused")
			} else if r.GetError() != nil {
				got = append(got, codes.Code(r.GetError().GetCode()).String())
			} else {
				got = append(got, brief(answer.GetResults()[i]))
			}
		}
		return got
	}
	want := []string{"refused", "a held", "refused", "refused", "NotFound"}
	if got := batch(); !slices.Equal(got, want) {
		t.Errorf("Batch() = %q, want %q", got, want)
	}
	admission.Refuse(0)
	admission.SetBound(1)
	admission.begin()
	if got := batch(); !slices.Equal(got, want) {
		t.Errorf("Batch() with too many calls = %q, want %q", got, want)
	}
	_, err = client.Check(ctx, &pb.CheckRequest{Key: "k"})
	wantOverloaded(t, "Check with too many calls in progress", err)
	for _, id := range []string{"a", "b"} {
		if _, err := client.Cancel(ctx, &pb.CancelRequest{Key: "k", RequestId: id}); err != nil {
			t.Errorf("Cancel() = %v", err)
		}
	}
	if _, err := client.Settle(ctx, &pb.SettleRequest{Key: "k", RequestId: "x"}); grpcstatus.Code(err) != codes.NotFound {
		t.Errorf("Settle() of an unknown id = %v, want NotFound", err)
	}
	admission.End()
	after, err := client.Peek(ctx, &pb.PeekRequest{Key: "k"})
	if err != nil {
		t.Fatal(err)
	}
	for i, l := range after.GetLimits() {
		if was := before.GetLimits()[i]; l.GetRemaining() < was.GetRemaining() {
			t.Errorf("%s: remaining %d before and %d after, although all was refused or cancelled", l.GetName(), was.GetRemaining(), l.GetRemaining())
		}
	}
	refused := valuesOf(t, n.registry, "bucketring_overload_refused_total")
	if got := refused["grpc node"]; got != 3+3+3+1 || admission.Refused() != 10 {
		t.Errorf("refused: %v, %d in all, want 10 over grpc", refused, admission.Refused())
	}
	for _, name := range []string{"bucketring_invalid_requests_total", "bucketring_rejected_requests_total"} {
		for labels, count := range valuesOf(t, n.registry, name) {
			if count != 0 {
				t.Errorf("%s{%s} = %v, want 0", name, labels, count)
			}
		}
	}
	if admission.Calls() != 0 {
		t.Errorf("%d calls in progress at the end", admission.Calls())
	}
}

// TestRefusedItems: new items of clients are refused, and items of members are not. A
// client whose batch is small is spared.
func TestRefusedItems(t *testing.T) {
	n := newNode(t)
	n.admission = refusing(nil)
	ask := func(origin call.Origin, share int64, more int) (refused []int) {
		n.admission.Refuse(share)
		items := []*pb.Item{
			item(&pb.CheckRequest{Key: "k"}), item(&pb.SettleRequest{Key: "k", RequestId: "r"}), item(&pb.ReserveRequest{Key: "k"}),
			item(&pb.PeekRequest{Key: "k"}), item(&pb.CancelRequest{Key: "k", RequestId: "r"}),
			{Call: &pb.Item_Cancel{Cancel: &pb.CancelRequest{Key: "k", RequestId: "r"}}, Attempt: 7},
		}
		for range more {
			items = append(items, item(&pb.CheckRequest{Key: "k"}))
		}
		var calls []call.Call
		for _, i := range items {
			calls = append(calls, call.FromItem(i, origin))
		}
		results := n.Do(t.Context(), calls)
		defer results.Release()
		for i := range items {
			if results.Code(i) == codes.ResourceExhausted {
				refused = append(refused, i)
			}
		}
		return refused
	}
	if got := ask(call.ClientStream, overload.Whole, 11); !slices.Equal(got, []int{0, 2, 3, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16}) {
		t.Errorf("refused items of a client: %v, want 0, 2, 3 and 6 to 16", got)
	}
	for _, origin := range []call.Origin{call.MemberStream, call.Outbox, call.API} {
		if got := ask(origin, overload.Whole, 11); got != nil {
			t.Errorf("refused items of origin %d: %v, want none", origin, got)
		}
	}
	if got := ask(call.ClientStream, overload.Whole, maxSpared-6); got != nil {
		t.Errorf("refused items of a small batch: %v, want none", got)
	}
	if _, items := n.admission.Asked(); items != 3+11+3+10 {
		t.Errorf("%d items of clients could have been refused, want 27", items)
	}
	got := len(ask(call.ClientStream, overload.Whole/4, 500))
	if want := 503 / 4; got < want/2 || got > 2*want {
		t.Errorf("%d of 503 new items refused, want about %d", got, want)
	}
}

// stuck answers checks of the key "stuck" when it is told to.
type stuck struct {
	fixed
	release chan struct{}
}

func (s stuck) Check(ctx context.Context, r *pb.CheckRequest) (*pb.Decision, error) {
	if r.GetKey() == "stuck" {
		<-s.release
	}
	return s.fixed.Check(ctx, r)
}

// TestCallsInProgressAreBounded: what is above the bound is refused, until calls end.
func TestCallsInProgressAreBounded(t *testing.T) {
	s := stuck{release: make(chan struct{})}
	admission := NewAdmission(nil)
	admission.SetBound(3)
	client := pb.NewRateLimiterClient(serveWith(t, s, GRPCOptions{Admission: admission}, func(*grpc.Server) {}))
	ctx := deadline(t)
	done := make(chan error, 3)
	for range 3 {
		go func() {
			_, err := client.Check(ctx, &pb.CheckRequest{Key: "stuck"})
			done <- err
		}()
	}
	waittest.Until(t, "calls are in progress", func() bool { return admission.Calls() == 3 })
	_, err := client.Check(ctx, &pb.CheckRequest{})
	wantOverloaded(t, "a fourth Check", err)
	close(s.release)
	for range 3 {
		if err := <-done; err != nil {
			t.Errorf("an admitted Check = %v", err)
		}
	}
	if _, err := client.Check(ctx, &pb.CheckRequest{}); err != nil {
		t.Errorf("a Check after that = %v", err)
	}
}

// connected returns the context of a call over gRPC whose address has so many.
func connected(t *testing.T, calls int64) context.Context {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	l := listenlimit.New(inner, listenlimit.Options{Max: 1, MaxPerAddress: 1})
	t.Cleanup(func() { _ = l.Close() })
	client, err := net.Dial("tcp", inner.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = client.Close() })
	conn, err := l.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	listenlimit.Of(conn.RemoteAddr()).Peer().Counts[UnaryStream].Store(calls)
	return peer.NewContext(t.Context(), &peer.Peer{Addr: conn.RemoteAddr()})
}

// TestFewCallsAreSpared: an address with few calls is not refused because others send
// many, unless that is not enough.
func TestFewCallsAreSpared(t *testing.T) {
	a := NewAdmission(nil)
	few, many := connected(t, maxSpared), connected(t, maxSpared+1)
	refused := func(ctx context.Context) (n int) {
		for range 1000 {
			if a.Begin(ctx, FromGRPC) != nil {
				n++
			} else {
				a.End()
			}
		}
		return n
	}
	for _, tt := range []struct {
		name                string
		share, bound, calls int64
		few, many           bool // are refused
	}{
		{"no overload", 0, 100, 99, false, false},
		{"a share", overload.MaxShare, 0, 0, false, true},
		{"at the bound", 0, 100, 100, false, true},
		{"at twice the bound", 0, 100, 200, true, true},
	} {
		a.Refuse(tt.share)
		a.SetBound(tt.bound)
		a.begun.Store(a.ended.Load() + tt.calls)
		if got := refused(few); got > 0 != tt.few {
			t.Errorf("%s: %d of 1000 calls of an address with few are refused", tt.name, got)
		}
		if got := refused(many); got > 0 != tt.many {
			t.Errorf("%s: %d of 1000 calls of an address with many are refused", tt.name, got)
		}
	}
}

// TestRefusedShare: the share of refused calls is the one that was set.
func TestRefusedShare(t *testing.T) {
	a := NewAdmission(nil)
	const calls = 20_000
	for _, percent := range []int64{0, 1, 10, 50, 75} {
		a.Refuse(percent * overload.Whole / 100)
		before := a.Refused()
		for range calls {
			if a.Begin(t.Context(), FromHTTP) == nil {
				a.End()
			}
		}
		got, want := a.Refused()-before, calls*percent/100
		if off := 5 * max(want/10, 10); percent == 0 && got != 0 || got < want-off/2 || got > want+off/2 {
			t.Errorf("%d %%: %d of %d refused, want about %d", percent, got, calls, want)
		}
	}
}

func TestAdmissionAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector allocates")
	}
	ctx := t.Context()
	for name, a := range map[string]*Admission{"none": nil, "admitting": NewAdmission(nil), "refusing": refusing(nil)} {
		if got := testing.AllocsPerRun(100, func() {
			if a.Begin(ctx, FromGRPC) == nil {
				a.End()
			}
			_ = a.AdmitItem(1)
		}); got != 0 {
			t.Errorf("%s: %v allocations, want none", name, got)
		}
	}
}

// BenchmarkAdmission is what the admission of a unary call takes.
func BenchmarkAdmission(b *testing.B) {
	admitting := NewAdmission(nil)
	admitting.SetBound(1000)
	for name, a := range map[string]*Admission{"none": nil, "admitting": admitting, "refusing": refusing(nil)} {
		b.Run(name, func(b *testing.B) {
			ctx := b.Context()
			b.ReportAllocs()
			for b.Loop() {
				if a.Begin(ctx, FromGRPC) == nil {
					a.End()
				}
			}
		})
	}
}

// BenchmarkUnary is a check over gRPC, answered or refused.
func BenchmarkUnary(b *testing.B) {
	for name, a := range map[string]*Admission{"none": nil, "admitting": NewAdmission(nil), "refusing": refusing(nil)} {
		b.Run(name, func(b *testing.B) {
			n, _ := benchNode(b)
			client := pb.NewRateLimiterClient(serveWith(b, n, GRPCOptions{Admission: a}, func(*grpc.Server) {}))
			ctx, check := b.Context(), &pb.CheckRequest{Key: "acme/alice", InputTokens: 1}
			b.ReportAllocs()
			for b.Loop() {
				_, _ = client.Check(ctx, check)
			}
		})
	}
}

// TestAdmissionRests: the first call or item after Rest is told of, once, and a call that came
// before Rest keeps it from resting.
func TestAdmissionRests(t *testing.T) {
	a := NewAdmission(nil)
	resumed := func() bool {
		select {
		case <-a.Resumed():
			return true
		default:
			return false
		}
	}
	for name, call := range map[string]func(){
		"a call": func() {
			if err := a.Begin(t.Context(), FromGRPC); err != nil {
				t.Fatal(err)
			}
			a.End()
		},
		"items": func() { a.countItems(3) },
	} {
		calls, items := a.Asked()
		call()
		if resumed() || a.Rest(calls, items) {
			t.Errorf("%s before Rest: it rests", name)
		}
		calls, items = a.Asked()
		if !a.Rest(calls, items) || resumed() {
			t.Errorf("%s: it does not rest", name)
		}
		call()
		if !resumed() {
			t.Errorf("%s after Rest is not told of", name)
		}
		if call(); resumed() {
			t.Errorf("%s is told of twice", name)
		}
	}
}
