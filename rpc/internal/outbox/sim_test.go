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

// TestFaults puts calls for owners that die, hang, lose answers, refuse and come
// back, and whose keys move, and looks at what the owners were told. A failure
// prints its seed; run that one alone with -run 'TestFaults/seed_N$'.
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

// mood is how an owner is.
type mood int

const (
	well  mood = iota
	dead       // fails at once
	hangs      // answers nothing
	lossy      // does half of what it is told, and half of its answers are lost
	moods = iota
)

// world is the owners and what they were told.
type world struct {
	mu struct {
		sync.Mutex
		rand   *rand.Rand
		moods  [3]mood
		owner  map[string]int // by root
		told   map[address][]*pb.Item
		flying map[address]bool
		most   int // attempts at once
		wrong  error
	}
}

func (w *world) deliver(ctx context.Context, item *pb.Item) error {
	at, _ := addressOf(item)
	w.mu.Lock()
	if w.mu.flying[at] {
		w.mu.wrong = fmt.Errorf("two calls of %v at once", at)
	}
	w.mu.flying[at] = true
	w.mu.most = max(w.mu.most, len(w.mu.flying))
	m := w.mu.moods[w.mu.owner[at.root]]
	heard, answers := m == well || m == lossy && w.mu.rand.IntN(2) == 0, m == well || m == lossy && w.mu.rand.IntN(2) == 0
	took := time.Duration(w.mu.rand.IntN(5)) * time.Millisecond
	refused := item.GetCheck().GetTier() == "refused"
	if heard {
		if told := w.mu.told[at]; len(told) == 0 || told[len(told)-1] != item { // else a repeat, which the owner knows
			w.mu.told[at] = append(told, item)
		}
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		delete(w.mu.flying, at)
		w.mu.Unlock()
	}()
	switch {
	case heard && answers && refused:
		return status.Error(codes.AlreadyExists, "request_id_conflict")
	case heard && answers:
		time.Sleep(took)
		return nil
	case m == dead:
		return errors.New("connection is broken")
	}
	<-ctx.Done()
	return ctx.Err()
}

// ownerOf is what the ring says.
func (w *world) ownerOf(item *pb.Item) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return fmt.Sprint(w.mu.owner[rootOf(item)])
}

func simulate(t *testing.T, seed uint64) {
	r := rand.New(rand.NewPCG(seed, 1))
	w := &world{}
	w.mu.rand = rand.New(rand.NewPCG(seed, 2))
	w.mu.owner, w.mu.told, w.mu.flying = map[string]int{}, map[address][]*pb.Item{}, map[address]bool{}
	roots := []string{"a", "b", "c", "d", "e"}
	for i, root := range roots {
		w.mu.owner[root] = i % len(w.mu.moods)
	}
	var counts struct {
		sync.Mutex
		delivered, refused int
	}
	b := newOutbox(t, Options{
		Owner: w.ownerOf, MaxEntries: 300, MaxAge: time.Hour, Timeout: time.Second, MaxUnderWay: 16,
		Events: Events{
			Delivered: func(*pb.Item) { counts.Lock(); counts.delivered++; counts.Unlock() },
			Dropped: func(_ *pb.Item, why Reason, _ error) {
				counts.Lock()
				defer counts.Unlock()
				if counts.refused++; why != Conflict {
					t.Errorf("dropped for %s", why)
				}
			},
		},
	}, w.deliver)
	stop := running(t, b)

	want := map[address][]*pb.Item{}
	accepted, refusals, n := 0, 0, 0
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
			b.Kick()
		case k < 12 && r.IntN(4) == 0: // the process goes on without its Run for a while
			stop()
			stop = running(t, b)
		default:
			n++
			item := check(roots[r.IntN(len(roots))], fmt.Sprint(r.IntN(20)))
			item.GetCheck().InputTokens = int64(n) // no two are the same
			if r.IntN(10) == 0 {
				item.GetCheck().Tier = "refused"
			}
			at, _ := addressOf(item)
			switch err := b.Put(item); {
			case err == nil:
				accepted++
				want[at] = append(want[at], item)
				if item.GetCheck().GetTier() != "" {
					refusals++
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
	if took := time.Since(begin); took > 5*time.Second {
		t.Errorf("all was delivered %s after healing, want within 5 s", took)
	}
	stop()

	w.mu.Lock()
	defer w.mu.Unlock()
	if w.mu.wrong != nil {
		t.Error(w.mu.wrong)
	}
	if w.mu.most > 16 {
		t.Errorf("%d attempts at once, want at most 16", w.mu.most)
	}
	if counts.delivered != accepted-refusals || counts.refused != refusals {
		t.Errorf("%d delivered and %d refused, want %d and %d", counts.delivered, counts.refused, accepted-refusals, refusals)
	}
	for at, items := range want {
		if !slices.Equal(w.mu.told[at], items) {
			t.Errorf("%v: the owner was told of %d calls, want the %d that were put, each once and in order", at, len(w.mu.told[at]), len(items))
		}
	}
}

// TestGoroutinesAreBounded: what waits has none.
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
		if more := runtime.NumGoroutine() - before; more > DefaultMaxUnderWay+1 {
			t.Errorf("%d more goroutines for 10,000 calls, want at most %d", more, DefaultMaxUnderWay)
		}
	})
}
