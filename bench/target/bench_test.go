// SPDX-License-Identifier: Apache-2.0

package target

import (
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
)

// BenchmarkCheck measures sequential checks, in this process and in its server.
func BenchmarkCheck(b *testing.B) {
	one := []Limit{{Requests, 1 << 30, time.Hour}}
	four := []Limit{one[0], {Tokens, 1 << 30, time.Hour}, {InputTokens, 1 << 30, time.Hour}, {OutputTokens, 1 << 30, time.Hour}}
	for _, c := range []struct {
		name, spec string
		limits     []Limit
	}{{"null", "null:", nil}, {"redis", "redis://", one}, {"lua1", "redis-lua://", one}, {"lua4", "redis-lua://", four}} {
		b.Run(c.name, func(b *testing.B) {
			if strings.HasPrefix(c.spec, "redis") {
				c.spec += startRedis(b, "").addr
			}
			measure(b, open(b, c.spec, Options{Limits: c.limits}))
		})
	}
	specs := doors(startNodes(b, 1))
	for _, name := range []string{"client", "grpc", "http"} {
		b.Run(name, func(b *testing.B) { measure(b, open(b, specs[name], Options{})) })
	}
	b.Run("rls", func(b *testing.B) {
		spec, _ := startEnvoy(b)
		measure(b, open(b, spec, Options{}))
	})
}

func measure(b *testing.B, target bench.Target) {
	b.Helper()
	ctx, call := b.Context(), bench.Call{Key: "acme/alice", InputTokens: 7}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := target.Check(ctx, &call); err != nil {
			b.Fatal(err)
		}
	}
}
