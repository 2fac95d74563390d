// SPDX-License-Identifier: Apache-2.0

package server

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/pb"
)

// TestInvalid sends what must not be sent over a real connection. Every error
// names the field and what is wrong with it, and nothing is charged.
func TestInvalid(t *testing.T) {
	check := func(change func(*pb.CheckRequest)) proto.Message {
		r := &pb.CheckRequest{Key: "acme/alice", InputTokens: 100, RequestId: "id"}
		change(r)
		return r
	}
	reserve := func(change func(*pb.ReserveRequest)) proto.Message {
		r := &pb.ReserveRequest{Key: "acme/alice", InputTokens: 100, RequestId: "id"}
		change(r)
		return r
	}
	settle := func(change func(*pb.SettleRequest)) proto.Message {
		r := &pb.SettleRequest{Key: "acme/alice", RequestId: "id"}
		change(r)
		return r
	}
	key := func(k string) proto.Message { return check(func(r *pb.CheckRequest) { r.Key = k }) }
	cost := func(name string, amount int64) proto.Message {
		return check(func(r *pb.CheckRequest) { r.Costs = map[string]int64{name: amount} })
	}
	many := map[string]int64{}
	for i := range 17 {
		many[fmt.Sprint("images", i)] = 1
	}

	for _, tt := range []struct {
		request     proto.Message
		field, says string
	}{
		{key(""), "key", `must not be empty, got ""`},
		{key("/"), "key", `segments must not be empty, got "/"`},
		{key("acme//alice"), "key", "segments must not be empty"},
		{key("acme/"), "key", "segments must not be empty"},
		{key("a/b/c/d/e"), "key", `must have at most 4 segments, got "a/b/c/d/e"`},
		{key("a\nb"), "key", `must be printable, got "a\nb"`},
		{key("a\u200bb"), "key", "must be printable"},
		{key(strings.Repeat("ä", 200)), "key", `must be at most 256 bytes, got "` + strings.Repeat("ä", 32) + `"... (400 bytes)`},
		{check(func(r *pb.CheckRequest) { r.Tier = "gold" }), "tier", "gold"},
		{check(func(r *pb.CheckRequest) { r.Tier = strings.Repeat("t", 257) }), "tier", "at most 256 bytes"},
		{check(func(r *pb.CheckRequest) { r.Model = "m\x00" }), "model", `must be printable, got "m\x00"`},
		{check(func(r *pb.CheckRequest) { r.RequestId = strings.Repeat("i", 129) }), "request_id", "at most 128 bytes"},
		{check(func(r *pb.CheckRequest) { r.Requests = new(int64(-1)) }), "requests", "must be between 0 and 2^53, got -1"},
		{check(func(r *pb.CheckRequest) { r.InputTokens = math.MinInt64 }), "input_tokens", "got -9223372036854775808"},
		{check(func(r *pb.CheckRequest) { r.OutputTokens = 1<<53 + 1 }), "output_tokens", "must be between 0 and 2^53, got 9007199254740993"},
		{check(func(r *pb.CheckRequest) { r.OutputTokens = 1 << 53 }), "output_tokens", "together must be at most 2^53"},
		{cost("", 1), "costs", "a name must not be empty"},
		{cost("images", -2), "costs.images", "must be between 0 and 2^53, got -2"},
		{cost("tokens", 5), "costs.tokens", "is a built-in dimension: send input_tokens"},
		{cost("spend", 5), "costs.spend", "prices turn tokens into money"},
		{cost("token", 7), "costs.token", "looks like a misspelled tokens, which is a built-in dimension: send input_tokens and the output, tokens is their sum, got 7"},
		{cost("Requests", 7), "costs.Requests", "looks like a misspelled requests, which is a built-in dimension: use the field requests, got 7"},
		{reserve(func(r *pb.ReserveRequest) { r.Costs = map[string]int64{"concurent": 1} }), "costs.concurent", "looks like a misspelled concurrent"},
		{settle(func(r *pb.SettleRequest) { r.Costs = map[string]int64{"input-tokens": 1} }), "costs.input-tokens", "looks like a misspelled input_tokens"},
		{cost("a\tb", 1), "costs", "a name must be printable"},
		{check(func(r *pb.CheckRequest) { r.Costs = many }), "costs", "at most 16 entries, got 17"},

		{reserve(func(r *pb.ReserveRequest) { r.Key = "" }), "key", "must not be empty"},
		{reserve(func(r *pb.ReserveRequest) { r.MaxOutputTokens = new(int64(-5)) }), "max_output_tokens", "got -5"},
		{reserve(func(r *pb.ReserveRequest) { r.N = new(int64(0)) }), "n", "must be between 1 and 2^53, got 0"},
		{reserve(func(r *pb.ReserveRequest) { r.N = new(int64(1<<53 + 1)) }), "n", "got 9007199254740993"},
		{reserve(func(r *pb.ReserveRequest) { r.KnownInputTokens = -1 }), "known_input_tokens", "must not be negative, got -1"},
		{reserve(func(r *pb.ReserveRequest) { r.InputTokens, r.KnownInputTokens = 5, 5 }), "known_input_tokens", "is for estimated_input only, got 5"},
		{reserve(func(r *pb.ReserveRequest) { r.EstimatedInput, r.InputTokens, r.KnownInputTokens = true, 5, 6 }), "known_input_tokens", "must be at most input_tokens = 5, got 6"},
		{reserve(func(r *pb.ReserveRequest) { r.N, r.MaxOutputTokens = new(int64(1024)), new(int64(1<<53)) }), "max_output_tokens", "together must be at most 2^53"},
		{reserve(func(r *pb.ReserveRequest) { r.MinOutputTokens = new(int64(0)) }), "min_output_tokens", "must be between 1 and 2^53, got 0"},
		{reserve(func(r *pb.ReserveRequest) { r.MinOutputTokens, r.MaxOutputTokens = new(int64(9)), new(int64(8)) }), "min_output_tokens", "must be at most max_output_tokens = 8, got 9"},
		{reserve(func(r *pb.ReserveRequest) { r.TtlSeconds = new(int64(0)) }), "ttl_seconds", "must be between 1 and 3600, got 0"},
		{reserve(func(r *pb.ReserveRequest) { r.TtlSeconds = new(int64(3601)) }), "ttl_seconds", "got 3601"},

		{settle(func(r *pb.SettleRequest) { r.RequestId = "" }), "request_id", "must not be empty"},
		{settle(func(r *pb.SettleRequest) { r.InputTokens = new(int64(-1)) }), "input_tokens", "got -1"},
		{settle(func(r *pb.SettleRequest) { r.OutputTokens = new(int64(math.MaxInt64)) }), "output_tokens", "got 9223372036854775807"},
		{settle(func(r *pb.SettleRequest) { r.InputTokens, r.CachedInputTokens = new(int64(5)), new(int64(6)) }), "cached_input_tokens", "must be at most input_tokens = 5"},
		{settle(func(r *pb.SettleRequest) {
			r.InputTokens, r.CachedInputTokens, r.CacheWriteTokens = new(int64(5)), new(int64(3)), new(int64(3))
		}), "cache_write_tokens", "with cached_input_tokens must be at most input_tokens = 5, of which it is a part, got 3"},
		{settle(func(r *pb.SettleRequest) {
			r.InputTokens, r.CacheWriteTokens, r.CacheWrite_1HTokens = new(int64(5)), new(int64(3)), new(int64(4))
		}), "cache_write_1h_tokens", "must be at most input_tokens = 5, of which it is a part, got 4"},
		{settle(func(r *pb.SettleRequest) { r.Images = new(int64(-1)) }), "images", "must be between 0 and 2^53, got -1"},
		{settle(func(r *pb.SettleRequest) { r.Searches = new(int64(1<<53 + 1)) }), "searches", "must be between 0 and 2^53"},
		{settle(func(r *pb.SettleRequest) { r.ServiceTier = strings.Repeat("t", 65) }), "service_tier", "at most 64 bytes"},
		{reserve(func(r *pb.ReserveRequest) { r.ServiceTier = "flex\x00" }), "service_tier", "must be printable"},
		{check(func(r *pb.CheckRequest) { r.ServiceTier = strings.Repeat("t", 65) }), "service_tier", "at most 64 bytes"},
		{&pb.CancelRequest{Key: "acme/alice"}, "request_id", "must not be empty"},
		{&pb.CancelRequest{RequestId: "id"}, "key", "must not be empty"},
		{&pb.PeekRequest{Key: "a//b"}, "key", "segments must not be empty"},
		{&pb.PeekRequest{Key: "a", Tier: "gold"}, "tier", "gold"},
	} {
		n := newNode(t)
		client := pb.NewRateLimiterClient(serve(t, n, nil))
		err := send(deadline(t), client, tt.request)
		st := grpcstatus.Convert(err)
		if st.Code() != codes.InvalidArgument || !strings.Contains(st.Message(), tt.says) || !strings.HasPrefix(st.Message(), tt.field+": ") {
			t.Errorf("%T{%v} = %v, want InvalidArgument, %s: %s", tt.request, tt.request, err, tt.field, tt.says)
			continue
		}
		if got := violated(st); got != tt.field {
			t.Errorf("%T{%v} violates field %q, want %q", tt.request, tt.request, got, tt.field)
		}
		if got := Describe(err); got.Field != tt.field || got.Code != int32(codes.InvalidArgument) {
			t.Errorf("Describe(%v) = %v", err, got)
		}
		if left := remaining(t, n, "acme/alice", "requests"); left != 10 || n.engine.Stats().Keys != 0 {
			t.Errorf("%T{%v} was charged: %d requests left, want 10", tt.request, tt.request, left)
		}
		if _, err := client.Check(deadline(t), &pb.CheckRequest{Key: "acme/alice"}); err != nil {
			t.Errorf("after %T{%v}: Check() = %v", tt.request, tt.request, err)
		}
	}
}

func send(ctx context.Context, client pb.RateLimiterClient, r proto.Message) (err error) {
	switch r := r.(type) {
	case *pb.CheckRequest:
		_, err = client.Check(ctx, r)
	case *pb.ReserveRequest:
		_, err = client.Reserve(ctx, r)
	case *pb.SettleRequest:
		_, err = client.Settle(ctx, r)
	case *pb.CancelRequest:
		_, err = client.Cancel(ctx, r)
	case *pb.PeekRequest:
		_, err = client.Peek(ctx, r)
	}
	return err
}

func violated(st *grpcstatus.Status) string {
	for _, d := range st.Details() {
		if bad, ok := d.(*errdetails.BadRequest); ok {
			return bad.FieldViolations[0].Field
		}
	}
	return ""
}

// TestUndecodable: bytes that are no message are the caller's fault.
func TestUndecodable(t *testing.T) {
	n := newNode(t)
	conn := serve(t, n, nil)
	notUTF8 := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "acme/\xff")
	inBatch := func(item []byte) []byte {
		b := protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), nil)
		return protowire.AppendBytes(protowire.AppendTag(b, 1, protowire.BytesType), item)
	}
	cost := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), "im\xffages")
	inCosts := protowire.AppendBytes(protowire.AppendTag(nil, 7, protowire.BytesType), cost)
	for _, tt := range []struct {
		method      string
		body        []byte
		field, says string
	}{
		{pb.RateLimiter_Check_FullMethodName, notUTF8, "key", `key: must be valid UTF-8, got "acme/\xff"`},
		{pb.RateLimiter_Settle_FullMethodName, notUTF8, "key", "must be valid UTF-8"},
		{pb.RateLimiter_Check_FullMethodName, inCosts, "costs", `got "im\xffages"`},
		{pb.RateLimiter_Batch_FullMethodName, inBatch(protowire.AppendBytes(protowire.AppendTag(nil, 1, protowire.BytesType), notUTF8)), "items[1].check.key", "must be valid UTF-8"},
		{pb.RateLimiter_Check_FullMethodName, []byte{0xff, 0xff}, "", "the message cannot be decoded"},
		{pb.RateLimiter_Check_FullMethodName, []byte{10, 200}, "", "the message cannot be decoded"},
	} {
		var answer pb.Decision
		err := conn.Invoke(deadline(t), tt.method, tt.body, &answer, grpc.ForceCodec(raw{}))
		st := grpcstatus.Convert(err)
		if st.Code() != codes.InvalidArgument || !strings.Contains(st.Message(), tt.says) || violated(st) != tt.field {
			t.Errorf("%s(%q) = %v, want InvalidArgument for field %q, %s", tt.method, tt.body, err, tt.field, tt.says)
		}
	}
	if _, err := pb.NewRateLimiterClient(conn).Peek(deadline(t), &pb.PeekRequest{Key: "k"}); err != nil {
		t.Errorf("a good request after the bad ones: %v", err)
	}
	if n.engine.Stats().Keys != 0 {
		t.Error("a message that cannot be decoded was charged")
	}
}

// raw sends bytes as they are.
type raw struct{}

func (raw) Marshal(v any) ([]byte, error)   { return v.([]byte), nil }
func (raw) Unmarshal(b []byte, v any) error { return proto.Unmarshal(b, v.(proto.Message)) }
func (raw) Name() string                    { return "proto" }

// TestRefusals: what was understood and can't be done.
func TestRefusals(t *testing.T) {
	n := newNode(t)
	client := pb.NewRateLimiterClient(serve(t, n, nil))
	ctx := deadline(t)
	if _, err := client.Check(ctx, &pb.CheckRequest{Key: "k", RequestId: "used"}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		request proto.Message
		code    codes.Code
		reason  string
	}{
		{&pb.SettleRequest{Key: "k", RequestId: "never"}, codes.NotFound, ReasonUnknownReservation},
		{&pb.CancelRequest{Key: "k", RequestId: "never"}, codes.NotFound, ReasonUnknownReservation},
		{&pb.CheckRequest{Key: "k", RequestId: "used", InputTokens: 1}, codes.AlreadyExists, ReasonConflict},
		{&pb.ReserveRequest{Key: "k", RequestId: "used"}, codes.AlreadyExists, ReasonConflict},
	} {
		err := send(ctx, client, tt.request)
		st := grpcstatus.Convert(err)
		reason := ""
		for _, d := range st.Details() {
			if info, ok := d.(*errdetails.ErrorInfo); ok {
				reason = info.Reason
			}
		}
		if st.Code() != tt.code || reason != tt.reason {
			t.Errorf("%T{%v} = %v with reason %q, want %v with %q", tt.request, tt.request, err, reason, tt.code, tt.reason)
		}
	}
}

// FuzzKey: a key that is accepted has the promised form.
func FuzzKey(f *testing.F) {
	for _, key := range []string{"acme", "acme/alice", "a/b/c/d", "a//b", "é/日本", "\xff", "a\u202eb"} {
		f.Add(key)
	}
	f.Fuzz(func(t *testing.T, key string) {
		err := checkKey(key)
		if err != nil {
			if _, ok := err.(*limiter.FieldError); !ok {
				t.Errorf("checkKey(%q) = %T, want a FieldError", key, err)
			}
			return
		}
		segments := strings.Split(key, "/")
		if len(key) > 256 || len(segments) > 4 {
			t.Errorf("checkKey(%q) = nil", key)
		}
		for _, s := range segments {
			if s == "" || strings.ToValidUTF8(s, "") != s {
				t.Errorf("checkKey(%q) = nil with segment %q", key, s)
			}
		}
	})
}
