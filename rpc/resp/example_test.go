// SPDX-License-Identifier: Apache-2.0

package resp_test

import (
	"context"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// A check by go-redis, at a node with --resp 127.0.0.1:6479.
func Example() {
	fmt.Println(checkAlice(context.Background()))
}

func checkAlice(ctx context.Context) error {
	limiter := redis.NewClient(&redis.Options{Addr: "127.0.0.1:6479"})
	defer limiter.Close()
	answer, err := limiter.Do(ctx, "BR.CHECK", "acme/alice", "TIER", "free", "INPUT_TOKENS", 900).Result()
	if err != nil {
		return err // no decision was made
	}
	if check := answer.(map[any]any); check["outcome"] == "denied" {
		fmt.Println(check["message"], "Try again in", check["retry_after_ms"], "ms.")
	}
	return nil
}
