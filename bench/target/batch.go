// SPDX-License-Identifier: Apache-2.0

package target

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"

	"github.com/bucketring/bucketring/bench"
)

// Batcher is implemented by targets that can send several checks together: grpc and echo in
// one call, and those that speak the protocol of Redis in a pipeline.
type Batcher interface {
	// CheckBatch sends checks together, and returns their answers in order. The error is that
	// of the first check without a decision.
	CheckBatch(ctx context.Context, calls []bench.Call) ([]bench.Answer, error)
}

// batch sends one command per call in a pipeline. add appends the command of a call, and
// answer reads its result.
func (s *redisBase) batch(ctx context.Context, calls []bench.Call, add func(context.Context, redis.Pipeliner, *bench.Call) *redis.Cmd, answer func(*redis.Cmd) (bench.Answer, error)) ([]bench.Answer, error) {
	ctx, cancel := s.withTimeout(ctx)
	defer cancel()
	pipe := s.client.Pipeline()
	commands := make([]*redis.Cmd, len(calls))
	for i := range calls {
		commands[i] = add(ctx, pipe, &calls[i])
	}
	_, _ = pipe.Exec(ctx) // the error of the first command, which is read again below
	answers := make([]bench.Answer, len(calls))
	for i, command := range commands {
		var err error
		if answers[i], err = answer(command); err != nil {
			return nil, connError(ctx, fmt.Sprintf("check %d of %d", i+1, len(calls)), err)
		}
	}
	return answers, nil
}
