// SPDX-License-Identifier: Apache-2.0

package outbox

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/bucketring/bucketring/rpc/pb"
)

// TestFaults puts calls for owners that die, hang, lose answers, reject calls and
// recover, and whose keys move, and checks what they received. To repeat a failure:
// -run 'TestFaults/seed_N$'.
func TestFaults(t *testing.T) {
	seeds := 60
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		t.Run(fmt.Sprintf("seed_%d", seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { simulate(t, uint64(seed)) })
		})
	}
}

// mood is how an owner behaves.
type mood int

const (
	well  mood = iota
	dead       // fails at once
	hangs      // never answers
	lossy      // loses half of the calls, and half of the answers
	moods = iota
)

// world has the owners and what they received.
type world struct {
	mu struct {
		sync.Mutex
		rand        *rand.Rand
		moods       [3]mood
		owner       map[string]int // by root
		received    map[callID][]*pb.Item
		inFlight    map[callID]bool
		maxInFlight int // attempts at once
		err         error
	}
}

func (w *world) deliver(ctx context.Context, item *pb.Item) error {
	id, _ := callIDOf(item)
	w.mu.Lock()
	if w.mu.inFlight[id] {
		w.mu.err = fmt.Errorf("two calls of %v at once", id)
	}
	w.mu.inFlight[id] = true
	w.mu.maxInFlight = max(w.mu.maxInFlight, len(w.mu.inFlight))
	m := w.mu.moods[w.mu.owner[id.root]]
	arrived, answers := m == well || m == lossy && w.mu.rand.IntN(2) == 0, m == well || m == lossy && w.mu.rand.IntN(2) == 0
	latency := time.Duration(w.mu.rand.IntN(5)) * time.Millisecond
	rejected := item.GetCheck().GetTier() == "rejected"
	if arrived {
		if received := w.mu.received[id]; len(received) == 0 || received[len(received)-1] != item { // else a duplicate, which the owner recognizes
			w.mu.received[id] = append(received, item)
		}
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.mu.inFlight, id)
		w.mu.Unlock()
	}()
	switch {
	case arrived && answers && rejected:
		return status.Error(codes.AlreadyExists, "request_id_conflict")
	case arrived && answers:
		time.Sleep(latency)
		return nil
	case m == dead:
		return errors.New("connection is broken")
	}
	<-ctx.Done()
	return ctx.Err()
}

// ownerOf is Options.Owner.
func (w *world) ownerOf(item *pb.Item) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.mu.owner[rootOf(item)])
}

func simulate(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{}
	w.mu.rand = rand.New(rand.NewPCG(seed, 2))
	w.mu.owner, w.mu.received, w.mu.inFlight = map[string]int{}, map[callID][]*pb.Item{}, map[callID]bool{}
	roots := []string{"a", "b", "c", "d", "e"}
	for i, root := range roots {
		w.mu.owner[root] = i % len(w.mu.moods)
	}
	var counts struct {
		sync.Mutex
		delivered, rejected int
	}
	b := newOutbox(t, Options{
		Owner: w.ownerOf, MaxEntries: 300, MaxAge: time.Hour, Timeout: time.Second, MaxInFlight: 16,
		Events: Events{
			Delivered: func(*pb.Item) { counts.Lock(); counts.delivered++; counts.Unlock() },
			Dropped: func(_ *pb.Item, reason Reason, _ error) {
				counts.Lock()
				defer counts.Unlock()
				if counts.rejected++; reason != Conflict {
					t.Errorf("dropped for %s", reason)
				}
			},
		},
	}, w.deliver)
	stop := running(t, b)

	want := map[callID][]*pb.Item{}
	accepted, rejections, n := 0, 0, 0
	for range 600 {
		switch k := r.IntN(100); {
		case k < 6:
			w.mu.Lock()
			w.mu.moods[r.IntN(len(w.mu.moods))] = mood(r.IntN(moods))
			w.mu.Unlock()
		case k < 9:
			w.mu.Lock()
			w.mu.owner[roots[r.IntN(len(roots))]] = r.IntN(len(w.mu.moods))
			w.mu.Unlock()
			b.RetryNow()
		case k < 12 && r.IntN(4) == 0: // the process goes on without its Run for a while
			stop()
			stop = running(t, b)
		default:
			n++
			item := check(roots[r.IntN(len(roots))], fmt.Sprint(r.IntN(20)))
			item.GetCheck().InputTokens = int64(n) // no two are the same
			if r.IntN(10) == 0 {
				item.GetCheck().Tier = "rejected"
			}
			id, _ := callIDOf(item)
			switch err := b.Put(item); {
			case err == nil:
				accepted++
				want[id] = append(want[id], item)
				if item.GetCheck().GetTier() != "" {
					rejections++
				}
			case !errors.Is(err, ErrFull):
				t.Fatalf("Put = %v", err)
			}
		}
		if b.Len() > 300 {
			t.Fatalf("%d entries, want at most 300", b.Len())
		}
		time.Sleep(time.Duration(r.IntN(300)) * time.Millisecond)
	}
	w.mu.Lock()
	w.mu.moods = [3]mood{}
	w.mu.Unlock()
	begin := time.Now()
	if err := b.Flush(t.Context()); err != nil {
		t.Errorf("Flush = %v", err)
	}
	if latency := time.Since(begin); latency > 5*time.Second {
		t.Errorf("all was delivered %s after healing, want within 5 s", latency)
	}
	stop()

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.err != nil {
		t.Error(w.mu.err)
	}
	if w.mu.maxInFlight > 16 {
		t.Errorf("%d attempts at once, want at most 16", w.mu.maxInFlight)
	}
	if counts.delivered != accepted-rejections || counts.rejected != rejections {
		t.Errorf("%d delivered and %d rejected, want %d and %d", counts.delivered, counts.rejected, accepted-rejections, rejections)
	}
	for id, items := range want {
		if !slices.Equal(w.mu.received[id], items) {
			t.Errorf("%v: the owner received %d calls, want the %d that were put, each once and in order", id, len(w.mu.received[id]), len(items))
		}
	}
}

// TestGoroutinesAreBounded: a waiting call has no goroutine.
func TestGoroutinesAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newOutbox(t, Options{}, func(ctx context.Context, _ *pb.Item) error {
			<-ctx.Done()
			return ctx.Err()
		})
		running(t, b)
		before := runtime.NumGoroutine()
		for i := range 10_000 {
			put(t, b, check(fmt.Sprint(i%100), fmt.Sprint(i)))
		}
		synctest.Wait()
		if more := runtime.NumGoroutine() - before; more > DefaultMaxInFlight+1 {
			t.Errorf("%d more goroutines for 10,000 calls, want at most %d", more, DefaultMaxInFlight)
		}
	})
}
