// SPDX-License-Identifier: Apache-2.0

package resp

import (
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// The fields of commands are those of the HTTP API, with the same names. The first ones are
// arguments by their place.

var checkFields = []field[pb.CheckRequest]{
	{name: "key", text: func(q *pb.CheckRequest) *string { return &q.Key }},
	{name: "tier", text: func(q *pb.CheckRequest) *string { return &q.Tier }},
	{name: "model", text: func(q *pb.CheckRequest) *string { return &q.Model }},
	{name: "requests", optional: func(q *pb.CheckRequest) **int64 { return &q.Requests }},
	{name: "input_tokens", number: func(q *pb.CheckRequest) *int64 { return &q.InputTokens }},
	{name: "output_tokens", number: func(q *pb.CheckRequest) *int64 { return &q.OutputTokens }},
	{name: "costs", costs: func(q *pb.CheckRequest) *map[string]int64 { return &q.Costs }},
	{name: "service_tier", text: func(q *pb.CheckRequest) *string { return &q.ServiceTier }},
	{name: "max_wait_seconds", seconds: func(q *pb.CheckRequest) **durationpb.Duration { return &q.MaxWait }},
	{name: "priority", class: func(q *pb.CheckRequest) *pb.Priority { return &q.Priority }},
	{name: "request_id", text: func(q *pb.CheckRequest) *string { return &q.RequestId }},
}

var reserveFields = []field[pb.ReserveRequest]{
	{name: "key", text: func(q *pb.ReserveRequest) *string { return &q.Key }},
	{name: "tier", text: func(q *pb.ReserveRequest) *string { return &q.Tier }},
	{name: "model", text: func(q *pb.ReserveRequest) *string { return &q.Model }},
	{name: "requests", optional: func(q *pb.ReserveRequest) **int64 { return &q.Requests }},
	{name: "input_tokens", number: func(q *pb.ReserveRequest) *int64 { return &q.InputTokens }},
	{name: "max_output_tokens", optional: func(q *pb.ReserveRequest) **int64 { return &q.MaxOutputTokens }},
	{name: "min_output_tokens", optional: func(q *pb.ReserveRequest) **int64 { return &q.MinOutputTokens }},
	{name: "estimated_input", flag: func(q *pb.ReserveRequest) *bool { return &q.EstimatedInput }},
	{name: "known_input_tokens", number: func(q *pb.ReserveRequest) *int64 { return &q.KnownInputTokens }},
	{name: "n", optional: func(q *pb.ReserveRequest) **int64 { return &q.N }},
	{name: "costs", costs: func(q *pb.ReserveRequest) *map[string]int64 { return &q.Costs }},
	{name: "service_tier", text: func(q *pb.ReserveRequest) *string { return &q.ServiceTier }},
	{name: "ttl_seconds", optional: func(q *pb.ReserveRequest) **int64 { return &q.TtlSeconds }},
	{name: "max_wait_seconds", seconds: func(q *pb.ReserveRequest) **durationpb.Duration { return &q.MaxWait }},
	{name: "priority", class: func(q *pb.ReserveRequest) *pb.Priority { return &q.Priority }},
	{name: "request_id", text: func(q *pb.ReserveRequest) *string { return &q.RequestId }},
}

var settleFields = []field[pb.SettleRequest]{
	{name: "key", text: func(q *pb.SettleRequest) *string { return &q.Key }},
	{name: "request_id", text: func(q *pb.SettleRequest) *string { return &q.RequestId }},
	{name: "input_tokens", optional: func(q *pb.SettleRequest) **int64 { return &q.InputTokens }},
	{name: "cached_input_tokens", optional: func(q *pb.SettleRequest) **int64 { return &q.CachedInputTokens }},
	{name: "cache_write_tokens", optional: func(q *pb.SettleRequest) **int64 { return &q.CacheWriteTokens }},
	{name: "cache_write_1h_tokens", optional: func(q *pb.SettleRequest) **int64 { return &q.CacheWrite_1HTokens }},
	{name: "output_tokens", optional: func(q *pb.SettleRequest) **int64 { return &q.OutputTokens }},
	{name: "images", optional: func(q *pb.SettleRequest) **int64 { return &q.Images }},
	{name: "searches", optional: func(q *pb.SettleRequest) **int64 { return &q.Searches }},
	{name: "costs", costs: func(q *pb.SettleRequest) *map[string]int64 { return &q.Costs }},
	{name: "service_tier", text: func(q *pb.SettleRequest) *string { return &q.ServiceTier }},
	{name: "rejected", optionalFlag: func(q *pb.SettleRequest) **bool { return &q.Rejected }},
	{name: "final", optionalFlag: func(q *pb.SettleRequest) **bool { return &q.Final }},
}

var cancelFields = []field[pb.CancelRequest]{
	{name: "key", text: func(q *pb.CancelRequest) *string { return &q.Key }},
	{name: "request_id", text: func(q *pb.CancelRequest) *string { return &q.RequestId }},
}

var limitsFields = []field[pb.PeekRequest]{
	{name: "key", text: func(q *pb.PeekRequest) *string { return &q.Key }},
	{name: "tier", text: func(q *pb.PeekRequest) *string { return &q.Tier }},
	{name: "model", text: func(q *pb.PeekRequest) *string { return &q.Model }},
}

// The bits of the fields that are arguments by their place.
const (
	keyGiven = 1 << iota
	idGiven  // with the key: of a settle and a cancel
)

// requests are the messages of a batch. Their memory is used again by the next one.
type requests struct {
	checks   list[checkRequest]
	reserves list[reserveRequest]
	settles  list[settleRequest]
	cancels  list[pb.CancelRequest]
	peeks    list[pb.PeekRequest]
	counts   list[countRequest]
}

type checkRequest struct {
	pb.CheckRequest
	memory
}

type reserveRequest struct {
	pb.ReserveRequest
	memory
}

type settleRequest struct {
	pb.SettleRequest
	memory
}

type countRequest struct {
	pb.CountRequest
	bucket pb.Throttle
}

// list is memory for messages. It has no more than a batch has had.
type list[M any] struct {
	all  []*M
	used int
}

func (l *list[M]) take() *M {
	if l.used == len(l.all) {
		l.all = append(l.all, new(M))
	}
	l.used++
	return l.all[l.used-1]
}

func (l *list[M]) reset() { l.used = 0 }

// reset makes the memory free for the next batch.
func (r *requests) reset() {
	r.checks.reset()
	r.reserves.reset()
	r.settles.reset()
	r.cancels.reset()
	r.peeks.reset()
	r.counts.reset()
}

// message makes the call of a command, whose name is not in args.
type message func(r *requests, args []string) (call.Call, *problem)

func check(r *requests, args []string) (call.Call, *problem) {
	q := r.checks.take()
	q.Reset()
	q.Key = args[0]
	if p := read(checkFields, &q.CheckRequest, &q.memory, keyGiven, args[1:]); p != nil {
		return call.Call{}, p
	}
	return call.Of(&q.CheckRequest), nil
}

func reserve(r *requests, args []string) (call.Call, *problem) {
	q := r.reserves.take()
	q.Reset()
	q.Key = args[0]
	if p := read(reserveFields, &q.ReserveRequest, &q.memory, keyGiven, args[1:]); p != nil {
		return call.Call{}, p
	}
	return call.Of(&q.ReserveRequest), nil
}

func settle(r *requests, args []string) (call.Call, *problem) {
	q := r.settles.take()
	q.Reset()
	q.Key, q.RequestId = args[0], args[1]
	if p := read(settleFields, &q.SettleRequest, &q.memory, keyGiven|idGiven, args[2:]); p != nil {
		return call.Call{}, p
	}
	return call.Of(&q.SettleRequest), nil
}

func cancel(r *requests, args []string) (call.Call, *problem) {
	q := r.cancels.take()
	q.Reset()
	q.Key, q.RequestId = args[0], args[1]
	if p := read(cancelFields, q, &memory{}, keyGiven|idGiven, args[2:]); p != nil {
		return call.Call{}, p
	}
	return call.Of(q), nil
}

func limits(r *requests, args []string) (call.Call, *problem) {
	q := r.peeks.take()
	q.Reset()
	q.Key = args[0]
	if p := read(limitsFields, q, &memory{}, keyGiven, args[1:]); p != nil {
		return call.Call{}, p
	}
	return call.Of(q), nil
}
