// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/bench"
)

var respKind = Kind{
	Name: "resp", Syntax: "resp://[USER:PASSWORD@]HOST[:PORT]",
	Measures:    "bucketring through the protocol of Redis, as from any language that has a client for it: one BR.CHECK, BR.RESERVE or BR.SETTLE of go-redis per request to one node, in RESP2. The node forwards to the owner of the key if that is another node.",
	Limitations: "Nothing is retried, and a call waits for a free connection of the pool. It does not measure the ring or several nodes.",
}

// respTarget sends the commands of bucketring with a client for Redis.
type respTarget struct {
	*redisBase
}

func openRESP(k *kind, rest string, o Options) (builtin, error) {
	s, err := newStore(k, rest, o)
	if err != nil {
		return nil, err
	}
	return &respTarget{s}, nil
}

func (r *respTarget) describe() string { return "" }

// version is that of the node, which INFO reports as that of Redis for old clients.
func (r *respTarget) version(context.Context) string { return "" }

// checkArgs returns a BR.CHECK.
func (r *respTarget) checkArgs(c *bench.Call) []any {
	args := append(make([]any, 0, 16), "BR.CHECK", c.Key)
	args = appendText(args, "TIER", c.Tier)
	args = appendText(args, "MODEL", c.Model)
	args = appendText(args, "REQUEST_ID", r.checkID(c))
	args = appendNumber(args, "REQUESTS", requestsOf(c), 1)
	args = appendNumber(args, "INPUT_TOKENS", c.InputTokens, 0)
	return appendNumber(args, "OUTPUT_TOKENS", c.OutputTokens, 0)
}

// appendText appends a field, unless it is empty.
func appendText(args []any, name, value string) []any {
	if value == "" {
		return args
	}
	return append(args, name, value)
}

// appendNumber appends a field, unless it has its default.
func appendNumber(args []any, name string, value, byDefault int64) []any {
	if value == byDefault {
		return args
	}
	return append(args, name, value)
}

// Check implements [bench.Target].
func (r *respTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return r.ask(ctx, "check", r.checkArgs(c))
}

// Reserve implements [bench.Target].
func (r *respTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	args := append(make([]any, 0, 16), "BR.RESERVE", c.Key)
	args = appendText(args, "TIER", c.Tier)
	args = appendText(args, "MODEL", c.Model)
	args = appendText(args, "REQUEST_ID", c.ID)
	args = appendNumber(args, "REQUESTS", requestsOf(c), 1)
	args = appendNumber(args, "INPUT_TOKENS", c.InputTokens, 0)
	args = append(args, "MAX_OUTPUT_TOKENS", c.MaxOutputTokens)
	args = appendNumber(args, "TTL_SECONDS", leaseSeconds(c), 0)
	return r.ask(ctx, "reserve", args)
}

// Settle implements [bench.Target].
func (r *respTarget) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	return r.ask(ctx, "settle", []any{"BR.SETTLE", u.Key, u.ID, "INPUT_TOKENS", u.InputTokens, "OUTPUT_TOKENS", u.OutputTokens, "FINAL", u.Final})
}

func (r *respTarget) ask(ctx context.Context, what string, args []any) (bench.Answer, error) {
	ctx, cancel := r.withTimeout(ctx)
	defer cancel()
	answer, err := respAnswer(r.client.Do(ctx, args...))
	if err != nil {
		return bench.Answer{}, respError(ctx, what, err)
	}
	return answer, nil
}

// CheckBatch implements [Batcher].
func (r *respTarget) CheckBatch(ctx context.Context, calls []bench.Call) ([]bench.Answer, error) {
	return r.batch(ctx, calls, func(ctx context.Context, p redis.Pipeliner, c *bench.Call) *redis.Cmd {
		return p.Do(ctx, r.checkArgs(c)...)
	}, respAnswer)
}

// respError returns the refusal that an error is, or wraps it.
func respError(ctx context.Context, what string, err error) error {
	if strings.HasPrefix(err.Error(), "TRYAGAIN overloaded") {
		return refusedFor(0)
	}
	return connError(ctx, what, err)
}

// respAnswer reads an answer in the form of RESP2: names and values in turns, of which the
// first is the outcome, or the status of a settlement.
func respAnswer(c *redis.Cmd) (bench.Answer, error) {
	list, err := c.Slice()
	if err != nil {
		return bench.Answer{}, err
	}
	var a bench.Answer
	if len(list) < 2 || len(list)%2 != 0 {
		return a, fmt.Errorf("the answer has %d elements, want names and values", len(list))
	}
	for i := 0; i < len(list); i += 2 {
		name, ok := list[i].(string)
		if !ok {
			return a, fmt.Errorf("element %d of the answer is %T, want a name", i, list[i])
		}
		text, _ := list[i+1].(string)
		number, _ := list[i+1].(int64)
		switch name {
		case "outcome":
			if a.Outcome, err = parseOutcome(text); err != nil {
				return a, err
			}
		case "reason":
			a.Reason = text
		case "request_id":
			a.ID = text
		case "granted_output_tokens":
			a.GrantedOutputTokens = number
		case "route":
			a.Route = text
		case "owner":
			a.Owner = text
		}
	}
	switch list[0] {
	case "outcome", "status":
		return a, nil
	}
	return a, errors.New("the answer does not begin with an outcome or a status")
}
