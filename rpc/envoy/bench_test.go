// SPDX-License-Identifier: Apache-2.0

package envoy

import (
	"context"
	"testing"

	"github.com/bucketring/bucketring/rpc/server"
)

// fixedCounter answers without counting.
type fixedCounter struct{}

func (fixedCounter) Count(_ context.Context, hits []server.Count) ([]server.Counted, error) {
	return make([]server.Counted, len(hits)), nil
}

// BenchmarkShouldRateLimit measures the service without counting: two descriptors.
func BenchmarkShouldRateLimit(b *testing.B) {
	s, err := New(Options{Counter: fixedCounter{}, Policy: server.New(server.Options{})})
	if err != nil {
		b.Fatal(err)
	}
	s.SetRules(mustParse(b, testRules))
	r := request("shop user=alice; file=docs/a")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := s.ShouldRateLimit(b.Context(), r); err != nil {
			b.Fatal(err)
		}
	}
}
