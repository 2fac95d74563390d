// SPDX-License-Identifier: Apache-2.0

package node

import (
	"bytes"
	"context"
	"log/slog"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/bucketring/bucketring/internal/overload"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/server"
)

func newTestQueue(log *slog.Logger) *processorQueue {
	return newProcessorQueue(prometheus.NewRegistry(), server.NewAdmission(nil), log)
}

// TestProcessorQueueSeesWaits: goroutines that take turns wait for a processor, and use
// all of them that the process gets.
func TestProcessorQueueSeesWaits(t *testing.T) {
	q := newTestQueue(slog.New(slog.DiscardHandler))
	q.sample(time.Now())
	var stop atomic.Bool
	defer stop.Store(true)
	for range 64 * runtime.GOMAXPROCS(0) {
		go func() {
			for !stop.Load() {
				for began := time.Now(); time.Since(began) < 100*time.Microsecond; {
				}
				runtime.Gosched()
			}
		}()
	}
	waittest.Until(t, "goroutines wait for a processor", func() bool {
		m := q.sample(time.Now())
		return m.Runs > 0 && m.CPU > 0 && m.Waits/time.Duration(m.Runs) > overload.LongWait
	})
}

// TestProcessorQueueRefuses: a node whose goroutines wait long refuses calls, says so in
// the log once, and stops refusing.
func TestProcessorQueueRefuses(t *testing.T) {
	var text bytes.Buffer
	q := newTestQueue(slog.New(slog.NewTextHandler(&text, nil)))
	now := time.Now()
	step := func(wait time.Duration) {
		now = now.Add(queueInterval)
		q.update(now, overload.Sample{
			Elapsed: queueInterval, Waits: 100 * wait, Runs: 100, Processors: 2, CPU: 2 * queueInterval, Calls: queueInterval,
		})
		for range 100 {
			if q.admission.Begin(t.Context(), server.FromGRPC) == nil {
				q.admission.End()
			}
		}
	}
	for range 50 {
		step(0)
	}
	if n := q.admission.Refused(); n != 0 || text.Len() != 0 {
		t.Errorf("without overload %d calls are refused; log: %s", n, text.String())
	}
	for range 50 {
		step(30 * time.Millisecond)
	}
	refused := q.admission.Refused()
	if refused == 0 || strings.Count(text.String(), "new calls are refused") != 1 {
		t.Errorf("%d calls are refused; log: %s", refused, text.String())
	}
	for range 3000 { // a minute
		step(30 * time.Millisecond)
	}
	if n := strings.Count(text.String(), "new calls are refused"); n != 2 {
		t.Errorf("%d lines in the log after a minute, want 2:\n%s", n, text.String())
	}
	for range 50 {
		step(0)
	}
	if share, bound := q.admission.Share(), q.admission.Bound(); share != 0 || bound != overload.MaxCalls {
		t.Errorf("a second after the overload: share %d, bound %d; want 0 and %d", share, bound, overload.MaxCalls)
	}
}

// TestProcessorQueueRests: without calls there is a sample in a second, and with calls, also
// the first one after a rest, one every 20 ms.
func TestProcessorQueueRests(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newTestQueue(slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = q.watch(ctx) // returns nil
		}()
		samples := func(d time.Duration, each func()) int64 {
			synctest.Wait()
			before := q.samples.Load()
			for end := time.Now().Add(d); time.Now().Before(end); {
				each()
				time.Sleep(time.Millisecond)
			}
			synctest.Wait()
			return q.samples.Load() - before
		}
		call := func() {
			if q.admission.Begin(t.Context(), server.FromGRPC) == nil {
				q.admission.End()
			}
		}
		time.Sleep(2 * time.Second)
		for range 3 {
			if n := samples(10*time.Second, func() {}); n > 12 {
				t.Errorf("%d samples in 10 s without calls, want about 10", n)
			}
			if n := samples(10*time.Second, call); n < 490 {
				t.Errorf("%d samples in 10 s with calls, want about 500", n)
			}
			time.Sleep(time.Second)
		}
		cancel()
		<-ended
	})
}

// BenchmarkProcessorQueue is what a sample takes.
func BenchmarkProcessorQueue(b *testing.B) {
	q := newTestQueue(slog.New(slog.DiscardHandler))
	b.ReportAllocs()
	for b.Loop() {
		now := time.Now()
		q.update(now, q.sample(now))
	}
}
