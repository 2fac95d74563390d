// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"testing"

	"github.com/bucketring/bucketring/limiter"
)

func TestLikeBuiltin(t *testing.T) {
	for name, want := range map[limiter.Dimension]limiter.Dimension{
		"tokens": limiter.Tokens, "token": limiter.Tokens, "Tokens": limiter.Tokens, "tokesn": limiter.Tokens,
		"reqests": limiter.Requests, "output-tokens": limiter.OutputTokens, "spent": limiter.Spend, "concurrency": "",
		"images": "", "": "", "gpu_seconds": "", "cached_tokens": "",
	} {
		if got := name.LikeBuiltin(); got != want {
			t.Errorf("%q.LikeBuiltin() = %q, want %q", name, got, want)
		}
	}
}
