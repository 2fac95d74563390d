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
	Name: "redis-lua", Form: "redis-lua://[USER:PASSWORD@]HOST[:PORT][/DB]",
	Measures: "The careful limiter on Redis: a script refills and charges the token buckets of a key in one step, all of them or none, by the clock of the server; one call of go-redis per question, with one to four limits.",
	Leaves:   "There are no request ids, so that a repetition is charged again, and no reservations. It is one server: what replication or a cluster of Redis would cost or lose is not measured, and one that restarts may have forgotten everything.",
}

var luasKind = secure(luaKind)

//go:embed bucket.lua
var bucketSource string

//go:embed used.lua
var usedSource string

// The scripts are sent by their digest, and in full to a server that does not know
// them.
var (
	bucketScript = redis.NewScript(bucketSource)
	usedScript   = redis.NewScript(usedSource)
)

// bucket is one to four token buckets per key.
type bucket struct {
	*store
	limits []Limit
}

// exact is how many whole numbers a number of Lua can tell apart.
const exact = 1 << 53

func openLua(k *kind, rest string, o Options) (opened, error) {
	var errs []error
	seen := map[Dimension]bool{}
	for i, l := range o.Limits {
		name := fmt.Sprintf("limits[%d]", i)
		if seen[l.Dimension] {
			errs = append(errs, fmt.Errorf("%s.dimension: %s has a limit already", name, l.Dimension))
		}
		seen[l.Dimension] = true
		if l.Window%time.Millisecond != 0 {
			errs = append(errs, fmt.Errorf("%s.window: must be whole milliseconds, got %v", name, l.Window))
		} else if l.Amount > exact/l.Window.Milliseconds()/2 { // the sum of two is made
			errs = append(errs, fmt.Errorf("%s.amount: must be at most %d for a window of %v, got %d", name, exact/l.Window.Milliseconds()/2, l.Window, l.Amount))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	s, err := openStore(k, rest, o)
	if err != nil {
		return nil, err
	}
	return &bucket{s, slices.Clone(o.Limits)}, nil
}

func (b *bucket) describe() string {
	texts := make([]string, len(b.limits))
	for i, l := range b.limits {
		texts[i] = l.String()
	}
	if len(texts) == 1 {
		return "Limit: " + texts[0] + "."
	}
	return "Limits: " + strings.Join(texts, ", ") + "."
}

// run runs a script for a call.
func (b *bucket) run(ctx context.Context, script *redis.Script, call *bench.Call) *redis.Cmd {
	args := make([]any, 0, 3*len(b.limits))
	for _, l := range b.limits {
		args = append(args, l.Amount, l.Window.Milliseconds(), l.Dimension.of(call))
	}
	return script.Run(ctx, b.client, []string{b.prefix + ":" + call.Key}, args...)
}

// Check implements [bench.Target].
func (b *bucket) Check(ctx context.Context, call *bench.Call) (bench.Answer, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	said, err := b.run(ctx, bucketScript, call).Int()
	switch {
	case err != nil:
		return bench.Answer{}, late(ctx, "check", err)
	case said == 0:
		return bench.Answer{Outcome: bench.Allowed}, nil
	case said < 0:
		return bench.Answer{Outcome: bench.Denied, Reason: exceedsCapacity}, nil
	}
	return bench.Answer{Outcome: bench.Denied, Reason: limitExceeded}, nil
}

// Used implements [bench.Left].
func (b *bucket) Used(ctx context.Context, key, _, _ string) ([]bench.LimitUsage, error) {
	ctx, cancel := b.bounded(ctx)
	defer cancel()
	used, err := b.run(ctx, usedScript, &bench.Call{Key: key}).Int64Slice()
	if err != nil {
		return nil, late(ctx, "read buckets", err)
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
