// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/bench"
)

var throttleKind = Kind{
	Name: "throttle", Syntax: "throttle://[USER:PASSWORD@]HOST[:PORT]",
	Measures:    "CL.THROTTLE of any server that has it, such as bucketring, Redis with redis-cell, or throttlecrab: one command of go-redis per check. The limit comes with each call.",
	Limitations: "It has one limit per key, no reservations and no request ids, so a retry is charged again.",
}

// throttleTarget sends CL.THROTTLE.
type throttleTarget struct {
	*redisBase
	limit Limit
}

func openThrottle(k *kind, rest string, o Options) (builtin, error) {
	limit := o.Limits[0]
	switch {
	case len(o.Limits) > 1:
		return nil, fmt.Errorf("limits: must be one limit on requests, got %d", len(o.Limits))
	case limit.Dimension != Requests:
		return nil, fmt.Errorf("limits[0].dimension: must be requests, got %s", limit.Dimension)
	case limit.Window%time.Second != 0:
		return nil, fmt.Errorf("limits[0].window: must be whole seconds, got %v", limit.Window)
	}
	o.Token = nil // it is for nodes
	s, err := newStore(k, rest, o)
	if err != nil {
		return nil, err
	}
	return &throttleTarget{s, limit}, nil
}

func (t *throttleTarget) describe() string { return "Limit: " + t.limit.String() + "." }

// args returns a CL.THROTTLE. A key may use one more than the burst at once.
func (t *throttleTarget) args(c *bench.Call) []any {
	return []any{"CL.THROTTLE", c.Key, t.limit.Amount - 1, t.limit.Amount, int64(t.limit.Window / time.Second), requestsOf(c)}
}

// Check implements [bench.Target].
func (t *throttleTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	ctx, cancel := t.withTimeout(ctx)
	defer cancel()
	answer, err := throttleAnswer(t.client.Do(ctx, t.args(c)...))
	if err != nil {
		return bench.Answer{}, respError(ctx, "check", err)
	}
	return answer, nil
}

// CheckBatch implements [Batcher].
func (t *throttleTarget) CheckBatch(ctx context.Context, calls []bench.Call) ([]bench.Answer, error) {
	return t.batch(ctx, calls, func(ctx context.Context, p redis.Pipeliner, c *bench.Call) *redis.Cmd {
		return p.Do(ctx, t.args(c)...)
	}, throttleAnswer)
}

// throttleAnswer reads whether the call is limited, the limit, what remains, and the seconds
// until a retry may succeed, -1 if none will, and until all is free again.
func throttleAnswer(c *redis.Cmd) (bench.Answer, error) {
	list, err := c.Int64Slice()
	switch {
	case err != nil:
		return bench.Answer{}, err
	case len(list) != 5 || list[0] < 0 || list[0] > 1:
		return bench.Answer{}, fmt.Errorf("the answer is %v, want five numbers, the first 0 or 1", list)
	case list[0] == 0:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case list[3] < 0:
		return bench.Answer{Outcome: bench.Denied, Reason: exceedsCapacity}, nil
	}
	return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
}
