// SPDX-License-Identifier: Apache-2.0

package peer

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/slice"
)

// testLender is a lender whose clock the test moves.
type testLender struct {
	*lender
	at      time.Duration
	expired int
}

func newTestLender() *testLender {
	l := &testLender{at: time.Hour}
	l.lender = newLender(func() time.Duration { return l.at }, func(n int) { l.expired += n })
	return l
}

var (
	hits    = limiter.LimitState{Name: "hits", Scope: "a", Exceeded: true}
	byModel = limiter.LimitState{Name: "tpm", Scope: "a", Exceeded: true, PerModel: true}
)

// lend lends a slice of key "a" in partition 7.
func (l *testLender) lend(t *testing.T, id string, asker uint32, lease time.Duration) *lentSlice {
	t.Helper()
	if _, ok := l.begin(7, "a", asker, 5000, 500); !ok {
		t.Fatalf("begin() for %s = false", id)
	}
	s := &lentSlice{
		id: id, key: "a", asker: asker, calls: 1000, holder: askerName{fmt.Sprint("node", asker), true}, model: "m",
		limits: []lentLimit{{"hits", "a", false}, {"tpm", "a", true}},
	}
	l.add(7, s, lease)
	return s
}

func (l *testLender) recalled(model string, limits ...limiter.LimitState) (waited, fresh int) {
	w, f := l.recall(nil, nil, 7, model, limits, func(n askerName) bool { return n.text != "node9" })
	return len(w), len(f)
}

func TestLenderBegin(t *testing.T) {
	l := newTestLender()
	begin := func(key string, asker uint32, rate, share int64, want terms, wantOK bool) {
		t.Helper()
		if got, ok := l.begin(7, key, asker, rate, share); got != want || ok != wantOK {
			t.Errorf("begin(%s, %d, %d) = %+v, %v, want %+v, %v", key, asker, rate, got, ok, want, wantOK)
		}
	}
	begin("a", 1, 999, 500, terms{}, false) // not hot
	begin("a", 1, 1000, 500, terms{500, 500, 1}, true)
	begin("a", 1, 1000, 500, terms{}, false) // too soon
	begin("a", 2, 1000, 300, terms{300, 300, 1}, true)
	l.at += lendInterval
	l.lend(t, "x", 1, time.Second)
	begin("a", 2, 1000, 300, terms{300, 300, 2}, true)
	l.lend(t, "y", 3, time.Second)
	l.at += lendInterval
	begin("a", 1, 1000, 500, terms{500, 500, 2}, true)
	// What a holder has decided from memory keeps the key hot.
	l.at = l.at.Truncate(ratePeriod) + 4*ratePeriod // and its slices are over
	begin("a", 1, 0, 0, terms{}, false)
	l.lend(t, "z", 3, time.Second)
	l.returned(7, "a", "z", 900)
	begin("a", 1, 0, 0, terms{}, false)
	l.at += lendInterval
	l.lend(t, "w", 1, time.Second)
	l.returned(7, "a", "w", 1<<60) // it had room for 1,000
	l.at += ratePeriod - l.at%ratePeriod
	begin("a", 3, 0, 0, terms{900 * 1000 / 1900, 900, 1}, true)
	begin("a", 1, 100, 1000, terms{550, 1100, 1}, true)
	l.at += 2 * ratePeriod
	begin("a", 3, 0, 0, terms{}, false)
}

// TestLenderRates: a key is listed with what was decided from its slices, by the same counts as
// those of begin, and with those who hold slices of it now.
func TestLenderRates(t *testing.T) {
	l := newTestLender()
	if got := l.rates(); len(got) != 0 {
		t.Errorf("rates() without slices = %v, want none", got)
	}
	l.lend(t, "x", 1, time.Second)
	l.at += lendInterval
	l.lend(t, "y", 1, time.Second)
	l.lend(t, "z", 2, time.Second)
	l.lend(t, "gone", 3, time.Second)
	l.returned(7, "a", "gone", 400)
	l.at = l.at.Truncate(ratePeriod) + ratePeriod // a whole period has passed
	r := l.rates()["a"]
	if r == nil || r.rate != 400 || r.slices != 3 || len(l.rates()) != 1 {
		t.Fatalf("rates() = %+v, want 3 slices of a, and 400 calls per second from slices", r)
	}
	want := []holderRate{{askerName{"node1", true}, 2, 0}, {askerName{"node2", true}, 1, 0}}
	if !slices.Equal(r.holders, want) || r.decided[3] != 400 {
		t.Errorf("rates() = %+v, want the holders %+v, and 400 calls per second by asker 3", r, want)
	}
	l.returned(7, "a", "x", 200)
	l.returned(7, "a", "z", 300)
	r = l.rates()["a"]
	want = []holderRate{{askerName{"node1", true}, 1, 200}}
	if r.rate != 900 || !slices.Equal(r.holders, want) {
		t.Errorf("rates() after two returns = %+v, want 900 calls per second, and the holder %+v", r, want)
	}
	if got, ok := l.begin(7, "a", 4, 100, 0); !ok || got != (terms{0, 0, 2}) {
		t.Errorf("begin() = %+v, %v, want it to count the same 900 calls per second, and two holders", got, ok)
	}
	l.at += slice.Kept(time.Second) // the slice is over, and its key not swept yet
	if got := l.rates(); len(got) != 0 || len(l.partitions[7].keys["a"].holders) != 0 {
		t.Errorf("rates() = %v later, want none, and no holders", got["a"])
	}
}

// TestHoldersOfOneName: a holder that has connected again is one, with all of its slices.
func TestHoldersOfOneName(t *testing.T) {
	l := newTestLender()
	for i := range 3 {
		s := l.lend(t, fmt.Sprint(i), uint32(1+i%2), time.Second)
		s.holder = askerName{"10.0.0.7", false}
		l.at += lendInterval
	}
	if got := l.rates()["a"].holders; !slices.Equal(got, []holderRate{{askerName{"10.0.0.7", false}, 3, 0}}) {
		t.Errorf("holders = %+v, want 10.0.0.7 with 3 slices", got)
	}
}

func TestLenderRecall(t *testing.T) {
	l := newTestLender()
	other := hits
	other.Name = "others"
	fits, shadow := hits, hits
	fits.Exceeded, shadow.Shadow = false, true
	l.lend(t, "x", 1, time.Second)
	for _, tt := range []struct {
		what   string
		model  string
		limit  limiter.LimitState
		waited int
		fresh  int
	}{
		{"another limit", "m", other, 0, 0},
		{"a limit that is not exceeded", "m", fits, 0, 0},
		{"a shadow limit", "m", shadow, 0, 0},
		{"the limit of another model", "n", byModel, 0, 0},
		{"the limit of the model", "m", byModel, 1, 1},
		{"the same limits again", "n", hits, 1, 0},
	} {
		if waited, fresh := l.recalled(tt.model, tt.limit); waited != tt.waited || fresh != tt.fresh {
			t.Errorf("recall() for %s waits for %d slices, %d of them new, want %d and %d", tt.what, waited, fresh, tt.waited, tt.fresh)
		}
	}
	l.at += recallWait
	if waited, _ := l.recalled("m", hits); waited != 0 {
		t.Errorf("recall() waits for %d slices of a holder that did not answer, want none", waited)
	}
	l.lend(t, "y", 9, time.Second)
	if waited, _ := l.recalled("m", hits); waited != 0 {
		t.Errorf("recall() waits for %d slices of a holder that cannot be reached, want none", waited)
	}
}

func TestLenderEnds(t *testing.T) {
	for _, end := range []string{"returned", "expired", "forgotten"} {
		t.Run(end, func(t *testing.T) {
			l := newTestLender()
			s := l.lend(t, "x", 1, time.Second)
			l.recalled("m", hits)
			select {
			case <-s.ended:
				t.Fatal("the slice has ended already")
			default:
			}
			switch end {
			case "returned":
				if l.returned(7, "a", "y", 0) || l.returned(7, "b", "x", 0) {
					t.Error("returned() of another slice = true")
				}
				if !l.returned(7, "a", "x", 0) {
					t.Error("returned() = false")
				}
			case "expired":
				l.at += time.Second
				if l.sweep(); l.outstanding.Load() != 1 {
					t.Error("the slice ends before the holder's clock may have it end")
				}
				l.at += slice.Kept(time.Second) - time.Second
				l.sweep()
			case "forgotten":
				l.forget(func(partition int) bool { return partition == 7 })
				if l.outstanding.Load() != 1 {
					t.Error("a slice of a partition that stays is forgotten")
				}
				l.forget(func(int) bool { return false })
			}
			select {
			case <-s.ended:
			default:
				t.Fatal("the slice has not ended")
			}
			if want := map[string]int{"expired": 1}[end]; l.outstanding.Load() != 0 || l.expired != want || l.returned(7, "a", "x", 0) {
				t.Errorf("%d slices outstanding, %d expired, want 0 and %d", l.outstanding.Load(), l.expired, want)
			}
			l.at += 2 * maxIdle
			if l.sweep(); l.keys.Load() != 0 || l.partitions[7].keys != nil {
				t.Errorf("%d keys remembered, want 0", l.keys.Load())
			}
		})
	}
}

// TestLenderBounds: beyond its bounds a lender lends nothing, and remembers nothing more.
func TestLenderBounds(t *testing.T) {
	l := newTestLender()
	for i := range maxLentKeys {
		l.begin(i%4096, fmt.Sprint("k", i), 1, 5000, 500)
	}
	if _, ok := l.begin(0, "more", 1, 5000, 500); ok || l.keys.Load() != maxLentKeys {
		t.Errorf("begin() for one key too many = %v, with %d keys", ok, l.keys.Load())
	}
	l = newTestLender()
	for i := range maxKeyAskers {
		l.begin(7, "a", uint32(i+1), 5000, 500)
	}
	if _, ok := l.begin(7, "a", maxKeyAskers+1, 5000, 500); ok {
		t.Error("begin() for one asker too many = true")
	}
}
