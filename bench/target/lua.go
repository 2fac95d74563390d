// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/bench"
)

var luaKind = Kind{
	Name: "redis-lua", Syntax: "redis-lua://[USER:PASSWORD@]HOST[:PORT][/DB]",
	Measures:    "A careful limiter on Redis: a script refills and charges the token buckets of a key, all or none, by the clock of the server; one go-redis call per check, with one to four limits.",
	Limitations: "There are no request ids, so a retry is charged again, and no reservations. It is one server: what replication or a Redis cluster would cost or lose is not measured, and a server that restarts may have lost all state.",
}

var luaTLSKind = withTLS(luaKind)

//go:embed bucket.lua
var bucketSource string

//go:embed used.lua
var usedSource string

// go-redis sends the digest of a script, and its source if the server does not have it.
var (
	bucketScript = redis.NewScript(bucketSource)
	usedScript   = redis.NewScript(usedSource)
)

// luaTarget keeps one to four token buckets per key.
type luaTarget struct {
	*redisBase
	limits []Limit
}

// maxExactInt is the largest number up to which Lua represents every integer.
const maxExactInt = 1 << 53

func openLua(k *kind, rest string, o Options) (builtin, error) {
	var errs []error
	seen := map[Dimension]bool{}
	for i, l := range o.Limits {
		name := fmt.Sprintf("limits[%d]", i)
		if seen[l.Dimension] {
			errs = append(errs, fmt.Errorf("%s.dimension: must be unique, got %s twice", name, l.Dimension))
		}
		seen[l.Dimension] = true
		if l.Window%time.Millisecond != 0 {
			errs = append(errs, fmt.Errorf("%s.window: must be whole milliseconds, got %v", name, l.Window))
		} else if l.Amount > maxExactInt/l.Window.Milliseconds()/2 { // the script adds two such numbers
			errs = append(errs, fmt.Errorf("%s.amount: must be at most %d for a window of %v, got %d", name, maxExactInt/l.Window.Milliseconds()/2, l.Window, l.Amount))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s, err := openStore(k, rest, o)
	if err != nil {
		return nil, err
	}
	return &luaTarget{s, slices.Clone(o.Limits)}, nil
}

func (b *luaTarget) describe() string {
	texts := make([]string, len(b.limits))
	for i, l := range b.limits {
		texts[i] = l.String()
	}
	if len(texts) == 1 {
		return "Limit: " + texts[0] + "."
	}
	return "Limits: " + strings.Join(texts, ", ") + "."
}

// run runs a script with the limits, and the costs of call.
func (b *luaTarget) run(ctx context.Context, script *redis.Script, call *bench.Call) *redis.Cmd {
	keys, args := b.arguments(call)
	return script.Run(ctx, b.client, keys, args...)
}

// arguments returns those of a script: the limits, and the costs of call.
func (b *luaTarget) arguments(call *bench.Call) (keys []string, args []any) {
	args = make([]any, 0, 3*len(b.limits))
	for _, l := range b.limits {
		args = append(args, l.Amount, l.Window.Milliseconds(), l.Dimension.costOf(call))
	}
	return []string{b.prefix + ":" + call.Key}, args
}

// Check implements [bench.Target].
func (b *luaTarget) Check(ctx context.Context, call *bench.Call) (bench.Answer, error) {
	ctx, cancel := b.withTimeout(ctx)
	defer cancel()
	answer, err := luaAnswer(b.run(ctx, bucketScript, call))
	if err != nil {
		return bench.Answer{}, connError(ctx, "check", err)
	}
	return answer, nil
}

// luaAnswer reads the result of the script.
func luaAnswer(c *redis.Cmd) (bench.Answer, error) {
	result, err := c.Int()
	switch {
	case err != nil:
		return bench.Answer{}, err
	case result == 0:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case result < 0:
		return bench.Answer{Outcome: bench.Denied, Reason: exceedsCapacity}, nil
	}
	return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
}

// CheckBatch implements [Batcher]. The script must have been run before.
func (b *luaTarget) CheckBatch(ctx context.Context, calls []bench.Call) ([]bench.Answer, error) {
	return b.batch(ctx, calls, func(ctx context.Context, p redis.Pipeliner, call *bench.Call) *redis.Cmd {
		keys, args := b.arguments(call)
		return bucketScript.EvalSha(ctx, p, keys, args...)
	}, luaAnswer)
}

// ReadUsage implements [bench.UsageReader].
func (b *luaTarget) ReadUsage(ctx context.Context, key, _, _ string) ([]bench.LimitUsage, error) {
	ctx, cancel := b.withTimeout(ctx)
	defer cancel()
	used, err := b.run(ctx, usedScript, &bench.Call{Key: key}).Int64Slice()
	if err != nil {
		return nil, connError(ctx, "read buckets", err)
	}
	if len(used) != len(b.limits) {
		return nil, fmt.Errorf("read buckets: got %d of %d", len(used), len(b.limits))
	}
	list := make([]bench.LimitUsage, len(used))
	for i, l := range b.limits {
		list[i] = bench.LimitUsage{Scope: key, Dimension: string(l.Dimension), Name: string(l.Dimension), Used: used[i], Limit: l.Amount}
	}
	return list, nil
}
