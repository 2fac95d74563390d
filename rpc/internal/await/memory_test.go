// SPDX-License-Identifier: Apache-2.0

package await

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// A waiting call takes little memory at either end, and what it has to be sent is not kept.
func TestMemory(t *testing.T) {
	const calls = 10_000
	leave := func() {}
	dones := make([]func(*pb.Result), 0, calls)
	began := make(chan int, calls)
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, calls, func(_ *pb.Item, done func(*pb.Result)) func() {
			dones = append(dones, done)
			began <- len(dones)
			return leave
		})
	}}
	a := New(f.open)
	defer a.Close()
	leaves := make([]func(), 0, calls)
	ended := make(chan error, calls)
	start := func() {
		large := item(strings.Repeat("k", 256))
		leaves = append(leaves, a.Start(large, func(_ *pb.Result, err error) { ended <- err }))
	}
	before := heap()
	for range calls {
		start()
	}
	for range calls {
		<-began
	}
	used := heap() - before
	t.Logf("%d bytes per waiting call, both ends together", used/calls)
	if used/calls > 400 {
		t.Errorf("%d bytes per waiting call, want at most 400", used/calls)
	}
	for _, done := range dones {
		done(&pb.Result{})
	}
	for range calls {
		if err := <-ended; err != nil {
			t.Fatal(err)
		}
	}
	runtime.KeepAlive(leaves)
}

// Callers that block in Ask take a goroutine each, which is theirs.
func TestGoroutines(t *testing.T) {
	const calls = 1000
	began := make(chan struct{}, calls)
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, calls, func(*pb.Item, func(*pb.Result)) func() {
			began <- struct{}{}
			return func() {}
		})
	}}
	a := New(f.open)
	before := runtime.NumGoroutine()
	for i := range calls {
		a.Start(item(fmt.Sprint(i)), func(*pb.Result, error) {})
	}
	for range calls {
		<-began
	}
	if got := runtime.NumGoroutine() - before; got > 8 {
		t.Errorf("%d calls that wait take %d goroutines, want a few for the stream", calls, got)
	}
	a.Close()
	waittest.Until(t, "the goroutines to end", func() bool { return runtime.NumGoroutine() <= before })
}

func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkAsk measures a call that is admitted at once, over a pipe.
func BenchmarkAsk(b *testing.B) {
	f := &fake{handle: func(_ int, p *pipe) error {
		return Serve(p, nil, 100, func(_ *pb.Item, done func(*pb.Result)) func() {
			done(&pb.Result{})
			return func() {}
		})
	}}
	a := New(f.open)
	defer a.Close()
	ctx, i := context.Background(), item("a")
	b.ReportAllocs()
	for b.Loop() {
		if _, err := a.Ask(ctx, i); err != nil {
			b.Fatal(err)
		}
	}
}
