// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"pgregory.net/rapid"
)

func budget(total, maxBody int64) *bodyBudget {
	return newBodyBudget(Options{BodyMemory: total, MaxBodyBytes: maxBody}, prometheus.NewGauge(prometheus.GaugeOpts{Name: "g"}))
}

// code returns the code of a rejection, or "".
func (why *rejection) codeOrNone() string {
	if why == nil {
		return ""
	}
	return why.code
}

func TestBodyShares(t *testing.T) {
	const mib = 1 << 20
	b := budget(256*mib, 8*mib)
	reserve := func(root string, n int64, want string) {
		t.Helper()
		if got := b.reserve(root, n).codeOrNone(); got != want {
			t.Errorf("reserve(%s, %d) = %q, want %q", root, n, got, want)
		}
	}
	for i := range 6 {
		root := fmt.Sprint("flooder-", i)
		for range 4 {
			reserve(root, 8*mib, "")
		}
		reserve(root, 1, codeBodyShare)
	}
	// Six roots have their whole share. A seventh one gets as much as if they were not
	// there.
	for range 4 {
		reserve("victim", 8*mib, "")
	}
	reserve("victim", 1, codeBodyShare)
	// However many there are, something is left.
	for i := range 1000 {
		root := fmt.Sprint("more-", i)
		for b.reserve(root, mib) == nil {
		}
		reserve(root, mib, codeBodyMemory)
	}
	reserve("small", 64<<10, "")
}

// A share has room for the largest body, also if that is more than an eighth.
func TestBodyShareHasRoomForOneBody(t *testing.T) {
	b := budget(100, 50)
	if why := b.reserve("acme", 50); why != nil {
		t.Errorf("reserve(50 of 100) = %v, want room for the largest body", why)
	}
	if got := b.reserve("acme", 1).codeOrNone(); got != codeBodyShare {
		t.Errorf("reserve(1) = %q, want %q", got, codeBodyShare)
	}
	if got := b.reserve("other", 26).codeOrNone(); got != codeBodyMemory {
		t.Errorf("reserve(26 of 50) = %q, want %q: no more than is left for others", got, codeBodyMemory)
	}
}

// The budget never exceeds its total or a share, and counts exactly.
func TestBodyBudgetCounts(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		b := budget(rapid.Int64Range(20, 1000).Draw(t, "total"), 10)
		held := map[string][]int64{}
		var sum int64
		for range rapid.IntRange(1, 200).Draw(t, "steps") {
			root := fmt.Sprint("root-", rapid.IntRange(0, 12).Draw(t, "root"))
			if h := held[root]; len(h) > 0 && rapid.Bool().Draw(t, "release") {
				b.release(root, h[0])
				sum -= h[0]
				held[root] = h[1:]
			} else if n := rapid.Int64Range(1, 50).Draw(t, "bytes"); b.reserve(root, n) == nil {
				held[root] = append(held[root], n)
				sum += n
			}
			if got := b.used.Load(); got != sum || got > b.total {
				t.Fatalf("%d bytes are reserved, want %d, at most %d", got, sum, b.total)
			}
			var own int64
			for _, n := range held[root] {
				own += n
			}
			if own > b.share {
				t.Fatalf("a root has %d bytes, want %d at most", own, b.share)
			}
		}
		for root, h := range held {
			for _, n := range h {
				b.release(root, n)
			}
		}
		if n := b.roots(); n != 0 || b.used.Load() != 0 {
			t.Errorf("after all is released, %d roots and %d bytes are counted", n, b.used.Load())
		}
	})
}

// roots returns the number of remembered roots.
func (b *bodyBudget) roots() (n int) {
	for i := range b.stripes {
		b.stripes[i].mu.Lock()
		n += len(b.stripes[i].used)
		b.stripes[i].mu.Unlock()
	}
	return n
}

func TestBodyBudgetConcurrently(t *testing.T) {
	b := budget(1000, 100)
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			root := fmt.Sprint("root-", i%10)
			for n := range int64(1000) {
				if b.reserve(root, n%100) == nil {
					if used := b.used.Load(); used > b.total {
						t.Errorf("%d bytes are reserved, want %d at most", used, b.total)
					}
					b.release(root, n%100)
				}
			}
		})
	}
	wg.Wait()
	if n := b.roots(); n != 0 || b.used.Load() != 0 {
		t.Errorf("after all is released, %d roots and %d bytes are counted", n, b.used.Load())
	}
}

func TestReserveDoesNotAllocate(t *testing.T) {
	b := budget(1<<20, 1<<10)
	if n := testing.AllocsPerRun(1000, func() {
		if b.reserve("acme", 100) == nil {
			b.release("acme", 100)
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

// A body is kept until it was read and the response has started, in any order, and can
// be read again until then.
func TestBodyIsReleased(t *testing.T) {
	held := func() (*body, *bodyBudget) {
		b := &body{budget: budget(1000, 100), root: "acme"}
		if why := b.reserve(10); why != nil {
			t.Fatal(why.message)
		}
		b.publish([]byte("0123456789"))
		return b, b.budget
	}
	read := func(r io.Reader, want string) {
		t.Helper()
		if got, err := io.ReadAll(r); err != nil || string(got) != want {
			t.Errorf("read %q, %v, want %q", got, err, want)
		}
	}
	used := func(b *bodyBudget, want int64) {
		t.Helper()
		if got := b.used.Load(); got != want {
			t.Errorf("%d bytes are reserved, want %d", got, want)
		}
	}

	b, budget := held()
	first, _ := b.newReader()
	read(first, "0123456789")
	second, err := b.newReader() // as a transport that tries again
	if err != nil {
		t.Fatal(err)
	}
	read(io.LimitReader(second, 5), "01234")
	b.responseStarted()
	used(budget, 10)
	read(second, "56789")
	used(budget, 0)
	read(second, "")
	if _, err := b.newReader(); !errors.Is(err, errBodyReleased) {
		t.Errorf("newReader() = %v, want an error", err)
	}
	b.release()
	used(budget, 0)

	b, budget = held()
	closed, _ := b.newReader()
	_ = closed.Close()
	used(budget, 10)
	b.responseStarted()
	used(budget, 0)
	if _, err := closed.Read(make([]byte, 1)); !errors.Is(err, http.ErrBodyReadAfterClose) {
		t.Errorf("Read after Close = %v", err)
	}

	b, budget = held()
	late, _ := b.newReader()
	b.release() // the handler has returned
	used(budget, 0)
	if _, err := late.Read(make([]byte, 1)); !errors.Is(err, errBodyReleased) {
		t.Errorf("Read after the handler has returned = %v, want an error", err)
	}
	_ = late.Close()
	b.responseStarted()
	used(budget, 0)
}
