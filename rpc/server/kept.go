// SPDX-License-Identifier: Apache-2.0

package server

import (
	"errors"
	"slices"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/rpc/internal/call"
	"github.com/bucketring/bucketring/rpc/pb"
)

// keptOf validates the reservations that a slice of key is returned with. Their strings are
// those of the messages. It uses x.request and x.costs.
func (x *scratch) keptOf(key string, list []*pb.KeptReservation) ([]limiter.Kept, error) {
	if len(list) == 0 {
		return nil, nil
	}
	if n := len(list); n > limiter.MaxKept {
		return nil, wrong("kept", decimal(int64(n)), "must have at most "+decimal(limiter.MaxKept)+" entries")
	}
	kept, requests := make([]limiter.Kept, len(list)), make([]limiter.Request, len(list))
	for i, k := range list {
		if err := x.keptRequest(key, k.GetRequest()); err != nil {
			return nil, err
		}
		requests[i] = x.request
		requests[i].Costs = slices.Clone(x.request.Costs)
		x.request, x.costs = limiter.Request{}, x.costs[:0]
		for _, n := range k.GetCosts() {
			if err := checkAmount("kept.costs", n); err != nil {
				return nil, err
			}
		}
		if err := checkAmount("kept.granted_output_tokens", k.GetGrantedOutputTokens()); err != nil {
			return nil, err
		}
		kept[i] = limiter.Kept{
			Request: &requests[i], Costs: k.GetCosts(), Granted: k.GetGrantedOutputTokens(), Left: time.Duration(k.GetLeftNanos()),
		}
	}
	return kept, nil
}

// keptRequest validates a reserve that was decided from a slice of key, and fills x.request.
func (x *scratch) keptRequest(key string, q *pb.ReserveRequest) error {
	if q.GetKey() != key {
		return wrongText("kept.request.key", q.GetKey(), "must be the key of the slice")
	}
	id := q.GetRequestId()
	if id == "" {
		return wrongText("kept.request.request_id", id, "must not be empty")
	}
	err := call.Of(q).Err // an id that no caller may choose
	if err == nil {
		err = x.reserve(q, id)
	}
	if field, ok := errors.AsType[*limiter.FieldError](err); ok {
		return wrong("kept.request."+field.Field, field.Value, field.Problem)
	}
	return err
}
