// SPDX-License-Identifier: Apache-2.0

package gcpace

import (
	"context"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
)

func TestPercent(t *testing.T) {
	for _, tt := range []struct {
		live uint64
		want int
	}{
		{0, 100},
		{10 << 20, 100},
		{128 << 20, 100},
		{192 << 20, 50},
		{256 << 20, 25},
		{384 << 20, 12},
		{512 << 20, 10},
		{4 << 30, 10},
	} {
		if got := Percent(tt.live); got != tt.want {
			t.Errorf("Percent(%d MiB) = %d, want %d", tt.live>>20, got, tt.want)
		}
	}
}

// percent returns the GOGC of the process.
func percent() int {
	s := []metrics.Sample{{Name: "/gc/gogc:percent"}}
	metrics.Read(s)
	return int(s[0].Value.Uint64())
}

// TestRunFollowsTheHeap lets the heap grow and shrink.
func TestRunFollowsTheHeap(t *testing.T) {
	defer debug.SetGCPercent(debug.SetGCPercent(150))
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan struct{})
	go func() { Run(ctx); close(ended) }()
	defer func() {
		cancel()
		<-ended
		if got := percent(); got != 150 {
			t.Errorf("after Run GOGC is %d, want 150 as before", got)
		}
	}()
	waittest.Until(t, "the percentage of a small heap", func() bool { return percent() == 100 })
	data := make([]byte, 256<<20)
	runtime.GC()
	waittest.Until(t, "a lower percentage for 256 MiB", func() bool { return percent() <= Percent(256<<20) })
	runtime.KeepAlive(data)
	runtime.GC()
	waittest.Until(t, "the percentage of a small heap again", func() bool { return percent() == 100 })
}
