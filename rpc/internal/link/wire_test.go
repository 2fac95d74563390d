// SPDX-License-Identifier: Apache-2.0

package link

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/pb"
)

// These tests run over real gRPC and the loopback interface.

// callers runs n goroutines that call until stop is closed. It returns how many calls
// succeeded and the first error.
func callers(t *testing.T, l *Link, n int, stop <-chan struct{}) (answered *atomic.Int64, failed *atomic.Value, wait func()) {
	answered, failed = new(atomic.Int64), new(atomic.Value)
	var wg sync.WaitGroup
	for c := range n {
		wg.Go(func() {
			for i := 0; ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				key := fmt.Sprintf("%d-%d", c, i)
				r, err := l.Do(t.Context(), check(key))
				if err != nil {
					failed.CompareAndSwap(nil, err.Error())
					return
				}
				wantResult(t, key, r, err)
				answered.Add(1)
			}
		})
	}
	return answered, failed, wg.Wait
}

// Servers that stop gracefully, one after the other on one address, fail no call.
func TestGracefulStopLosesNoCall(t *testing.T) {
	m := &member{stop: make(chan struct{}), answer: echo}
	s, addr := listen(t, "", m)
	l := linkTo(t, dial(t, addr), Options{Timeout: 20 * time.Second})
	stop := make(chan struct{})
	answered, failed, wait := callers(t, l, 32, stop)
	rounds := 20
	if testing.Short() || raceEnabled {
		rounds = 8
	}
	for range rounds {
		before := answered.Load()
		waittest.Until(t, "calls", func() bool { return answered.Load() > before+100 || failed.Load() != nil })
		stopped := make(chan struct{})
		go func(old *grpc.Server) {
			defer close(stopped)
			old.GracefulStop() // closes the listener first
		}(s)
		next := &member{stop: make(chan struct{}), answer: echo}
		s = relisten(t, addr, next)
		close(m.stop)
		<-stopped
		m = next
	}
	close(stop)
	wait()
	if err := failed.Load(); err != nil {
		t.Errorf("Do() = %v", err)
	}
}

// relisten serves on addr as soon as it is free.
func relisten(t *testing.T, addr string, m *member) (s *grpc.Server) {
	t.Helper()
	waittest.Until(t, "the address", func() bool {
		var err error
		s, _, err = tryListen(t, addr, m)
		return err == nil
	})
	return s
}

// Connections that the server ends because of their age fail no call.
func TestConnectionAge(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 2 s")
	}
	m := &member{stop: make(chan struct{}), answer: echo}
	_, addr := listen(t, "", m, grpc.KeepaliveParams(aging(300*time.Millisecond, time.Second)))
	l := linkTo(t, dial(t, addr), Options{Rotate: 200 * time.Millisecond, Timeout: 20 * time.Second}) // the machine may be busy
	stop := make(chan struct{})
	answered, failed, wait := callers(t, l, 8, stop)
	time.AfterFunc(2*time.Second, func() { close(stop) })
	wait()
	if err := failed.Load(); err != nil {
		t.Errorf("after %d calls: %v", answered.Load(), err)
	}
}

// A server that stops reading and answering costs callers one timeout, and its
// stream ends when the breaker opens.
func TestFrozenServer(t *testing.T) {
	freeze, ended := make(chan struct{}), make(chan struct{})
	var frozen atomic.Bool
	m := &member{stop: make(chan struct{}), answer: echo}
	m.answer = func(b *pb.Batch) *pb.Answers {
		if frozen.Load() {
			<-freeze
		}
		return echo(b)
	}
	_, addr := listen(t, "", m, grpc.StreamInterceptor(func(srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler) error {
		stop := context.AfterFunc(s.Context(), func() {
			if frozen.Load() {
				close(ended)
			}
		})
		defer stop()
		return next(srv, s)
	}))
	l := linkTo(t, dial(t, addr), Options{Timeout: 300 * time.Millisecond})
	r, err := l.Do(t.Context(), check("k"))
	wantResult(t, "k", r, err)
	frozen.Store(true)
	large := strings.Repeat("k", 1000) // 300 of them are far more than all windows hold
	start := time.Now()
	var pending []*Pending
	for range 3000 {
		pending = append(pending, l.Start(t.Context(), check(large)))
	}
	for _, p := range pending {
		if r, err := p.Wait(t.Context()); r != nil || !errors.Is(err, ErrTimeout) && !errors.Is(err, ErrBroken) && !errors.Is(err, ErrBreakerOpen) {
			t.Fatalf("Wait() = %v, %v", r, err)
		}
	}
	if took := time.Since(start); took > 10*time.Second { // on a busy machine
		t.Errorf("calls ended after %v, want about 300 ms", took)
	}
	waittest.Until(t, "the stream to end", func() bool { // later if this process stalled: see stalledLocked
		select {
		case <-ended:
			return true
		default:
			_, err := l.Do(t.Context(), check("k"))
			return err == nil
		}
	})
	if !l.Status().BreakerOpen {
		t.Errorf("status %+v, want the breaker open", l.Status())
	}
	frozen.Store(false)
	close(freeze)
	waittest.Until(t, "an answer", func() bool {
		_, err := l.Do(t.Context(), check("k"))
		return err == nil
	})
}

// A server that is killed fails its calls at once.
func TestKilledServer(t *testing.T) {
	hang := make(chan struct{})
	m := &member{stop: make(chan struct{}), answer: func(b *pb.Batch) *pb.Answers {
		<-hang
		return echo(b)
	}}
	s, addr := listen(t, "", m)
	l := linkTo(t, dial(t, addr), Options{Timeout: 20 * time.Second})
	var pending []*Pending
	for range 100 {
		pending = append(pending, l.Start(t.Context(), check("k")))
	}
	waittest.Until(t, "a batch", func() bool { return l.Status().InFlight > 0 })
	defer close(hang)
	s.Stop()
	start := time.Now()
	for _, p := range pending {
		if _, err := p.Wait(t.Context()); !errors.Is(err, ErrBroken) {
			t.Fatalf("Wait() = %v, want ErrBroken", err)
		}
	}
	if took := time.Since(start); took > 5*time.Second {
		t.Errorf("calls failed after %v", took)
	}
}

// Batches and answers far larger than the flow control windows do not deadlock.
func TestLargeBatchesBothWays(t *testing.T) {
	const window = 64 << 10 // the smallest that grpc takes
	padding := strings.Repeat("a", 8<<10)
	m := &member{stop: make(chan struct{})}
	m.answer = func(b *pb.Batch) *pb.Answers {
		a := echo(b)
		for _, r := range a.GetResults() {
			r.GetDecision().Owner = padding
		}
		return a
	}
	_, addr := listen(t, "", m,
		grpc.StaticStreamWindowSize(window), grpc.StaticConnWindowSize(window), grpc.MaxSendMsgSize(64<<20))
	client := dial(t, addr,
		grpc.WithStaticStreamWindowSize(window), grpc.WithStaticConnWindowSize(window),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(64<<20)))
	l := linkTo(t, client, Options{Timeout: 30 * time.Second})
	tail := strings.Repeat("k", 500)
	calls := 4000 // at once: no more than maxBurst
	if testing.Short() || raceEnabled {
		calls = 1500
	}
	var wg sync.WaitGroup
	for c := range 4 {
		wg.Go(func() {
			var pending []*Pending
			for i := range calls / 4 {
				pending = append(pending, l.Start(t.Context(), check(fmt.Sprint(c, i, tail))))
			}
			for i, p := range pending {
				r, err := p.Wait(t.Context())
				if wantResult(t, fmt.Sprint(c, i, tail), r, err); err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
}
