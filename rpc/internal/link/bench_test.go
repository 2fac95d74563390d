// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/pb"
)

// BenchmarkCalls compares calls through a link with unary calls, from a number
// of callers that each wait for their answer, over the loopback interface, to a
// server that does nothing in the same process. Only ratios within one run
// count. ns/op is the time per call of all callers together.
func BenchmarkCalls(b *testing.B) {
	m := &member{stop: make(chan struct{}), answer: echo}
	_, addr := listen(b, "", m)
	client := dial(b, addr)
	var batches, items atomic.Int64
	l := linkTo(b, client, Options{Events: Events{Batch: func(n int) {
		batches.Add(1)
		items.Add(int64(n))
	}}})
	for _, callers := range []int{1, 16, 128, 1024} {
		b.Run(fmt.Sprintf("callers=%d/by=unary", callers), func(b *testing.B) {
			run(b, callers, func(ctx context.Context, r *pb.CheckRequest) error {
				_, err := client.Check(ctx, r)
				return err
			})
		})
		b.Run(fmt.Sprintf("callers=%d/by=link", callers), func(b *testing.B) {
			batches.Store(0)
			items.Store(0)
			run(b, callers, func(ctx context.Context, r *pb.CheckRequest) error {
				_, err := l.Do(ctx, &pb.Item{Call: &pb.Item_Check{Check: r}})
				return err
			})
			b.ReportMetric(float64(items.Load())/float64(batches.Load()), "items/batch")
		})
	}
}

// run shares b.N calls among callers.
func run(b *testing.B, callers int, call func(context.Context, *pb.CheckRequest) error) {
	ctx, cancel := context.WithCancel(b.Context())
	defer cancel()
	b.ReportAllocs()
	var left atomic.Int64
	left.Store(int64(b.N))
	took := make([][]time.Duration, callers)
	var wg sync.WaitGroup
	b.ResetTimer()
	for i := range callers {
		wg.Go(func() {
			r := &pb.CheckRequest{Key: fmt.Sprintf("tenant-%d/user-%d", i%10, i), Model: "llama-3-70b", InputTokens: 900, OutputTokens: 100, RequestId: "0123456789abcdef0123456789abcdef"}
			for n := 0; left.Add(-1) >= 0; n++ {
				start := time.Now()
				if err := call(ctx, r); err != nil {
					b.Error(err)
					return
				}
				if n%8 == 0 {
					took[i] = append(took[i], time.Since(start))
				}
			}
		})
	}
	wg.Wait()
	b.StopTimer()
	all := slices.Concat(took...)
	slices.Sort(all)
	b.ReportMetric(float64(b.N)/b.Elapsed().Seconds(), "calls/s")
	b.ReportMetric(float64(all[len(all)/2].Microseconds()), "p50-us")
	b.ReportMetric(float64(all[len(all)*99/100].Microseconds()), "p99-us")
}
