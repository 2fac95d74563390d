// SPDX-License-Identifier: Apache-2.0

package replication

import (
	"context"
	"strconv"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/cluster/continuity"
	"github.com/bucketring/bucketring/limiter"
)

// allAt are the targets of a ring with one member.
type allAt string

func (a allAt) Owner(int) string { return string(a) }
func (allAt) Heir(int) string    { return "" }

// TestCalmHostWakesRarely: a host that is alone looks once a second while nothing changes,
// and every 20 ms while something does, also for the first change after a pause.
func TestCalmHostWakesRarely(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		engine := newFakeEngine(partitions)
		h, err := New(Options{
			Name: "a", Boot: 1, Engine: engine, Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
			Now:   func() limiter.Time { return limiter.Time{Mono: time.Now().UnixNano(), Wall: time.Now().UnixNano()} },
			Clock: func() time.Duration { return time.Since(began) + time.Hour },
		})
		if err != nil {
			t.Fatal(err)
		}
		ids := 0
		charge := func(partition int) {
			ids++
			if _, err := engine.charge(partition, strconv.Itoa(ids), 1); err != nil {
				t.Fatal(err)
			}
			h.Changed(partition, false)
		}
		ctx, cancel := context.WithCancel(t.Context())
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_ = h.Run(ctx) // returns nil the first time
		}()
		ticks := func(d time.Duration, each func()) int64 {
			before := h.ticks.Load()
			for end := time.Now().Add(d); time.Now().Before(end); {
				time.Sleep(10 * time.Millisecond)
				each()
			}
			return h.ticks.Load() - before
		}
		h.SetView(continuity.View{Members: []continuity.Member{{ID: h.self, State: continuity.Serving}}, Targets: allAt("a")}, nil)
		h.Bootstrap([]string{"a"})
		time.Sleep(5 * time.Second)
		calm := ticks(10*time.Second, func() {})
		if calm < 5 || calm > 15 {
			t.Errorf("%d ticks in 10 s without a change, want about 10", calm)
		}
		charge(3)
		time.Sleep(continuity.TickInterval)
		synctest.Wait()
		if h.dirty[0].Load() != 0 {
			t.Error("the first change after a pause was not seen within 20 ms")
		}
		if busy := ticks(10*time.Second, func() { charge(3) }); busy < 400 {
			t.Errorf("%d ticks in 10 s with changes, want about 500", busy)
		}
		time.Sleep(time.Minute)
		s, err := h.Status(ctx)
		if err != nil || s.WithoutHeir == 0 || s.Lag != 0 {
			t.Errorf("heirs lag by %s, %v, want no lag of heirs that do not exist", s.Lag, err)
		}
		registry := prometheus.NewRegistry()
		registry.MustRegister(newCollector(h))
		families, err := registry.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range families {
			if lag := f.GetMetric()[0].GetGauge().GetValue(); f.GetName() == "bucketring_replication_lag_seconds" && lag != 0 {
				t.Errorf("%s is %v, want 0 without an heir", f.GetName(), lag)
			}
		}
		cancel()
		<-ended
	})
}
