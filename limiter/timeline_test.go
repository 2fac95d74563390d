// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"math/big"
	"testing"

	"pgregory.net/rapid"
)

// replay is a model of a bucket that replays the log of its charges.
type replay struct{ log []loggedCharge }

type loggedCharge struct{ at, charge int64 }

func (r *replay) used(now, rate int64) int64 {
	var used, last int64
	for _, c := range r.log {
		used = max(0, used-(c.at-last)*rate) + c.charge
		last = c.at
	}
	return max(0, used-(now-last)*rate)
}

func toBig(w wide) *big.Int {
	b := new(big.Int).Lsh(big.NewInt(w.hi), 64)
	return b.Add(b, new(big.Int).SetUint64(w.lo))
}

// TestTimelineIsReplay adds, changes and removes up to hundreds of marks across many
// blocks, and compares the level with that of the corrected log.
func TestTimelineIsReplay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		const rate = 3
		var (
			line    timeline
			used    wide
			now     int64
			model   replay
			open    []int64           // marks not removed
			entryOf = map[int64]int{} // mark -> entry of the log
		)
		// One mark always stays: a timeline without marks would be freed.
		open = append(open, line.addMark(used))
		entryOf[open[0]] = 0
		if rapid.Bool().Draw(t, "old") { // as many marks as a busy bucket has in days
			line.makeMany()
			line.more.next = 1<<32 - 2*blockSize
		}
		model.log = append(model.log, loggedCharge{})
		for range rapid.IntRange(1, 300).Draw(t, "steps") {
			switch op := rapid.IntRange(0, 9).Draw(t, "op"); {
			case op < 4:
				charge := rapid.Int64Range(0, 50).Draw(t, "charge")
				m := line.addMark(used)
				used = used.add(wide{0, uint64(charge)})
				entryOf[m] = len(model.log)
				open = append(open, m)
				model.log = append(model.log, loggedCharge{now, charge})
			case op < 6:
				d := rapid.Int64Range(0, 20).Draw(t, "time")
				now += d
				used = line.drain(used, mulWide(rate, d))
			case op < 8:
				m := open[rapid.IntRange(0, len(open)-1).Draw(t, "mark")]
				e := &model.log[entryOf[m]]
				charge := rapid.Int64Range(0, 80).Draw(t, "becomes")
				delta := wide{0, uint64(charge)}.sub(wide{0, uint64(e.charge)})
				e.charge = charge
				used = line.shift(m, delta, used)
			case len(open) > 1:
				i := rapid.IntRange(0, len(open)-1).Draw(t, "drop")
				line.removeMark(open[i])
				open = append(open[:i], open[i+1:]...)
			}
			if want := model.used(now, rate); toBig(used).Cmp(big.NewInt(want)) != 0 {
				t.Fatalf("used at %d = %v, want %d", now, toBig(used), want)
			}
			if int(line.live) != len(open) || line.many && len(line.more.blocks) > len(open) {
				t.Fatalf("%d live marks, want %d, in no more blocks: %+v", line.live, len(open), line.more)
			}
		}
	})
}

// TestWideIsBig compares 128-bit arithmetic with math/big.
func TestWideIsBig(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		a := mulWide(rapid.Int64Range(0, 1<<54).Draw(t, "a"), rapid.Int64Range(0, 1<<55).Draw(t, "b"))
		b := mulWide(rapid.Int64Range(0, 1<<54).Draw(t, "c"), rapid.Int64Range(0, 1<<55).Draw(t, "d"))
		d := rapid.Int64Range(1, 1<<62).Draw(t, "divisor")
		ba, bb := toBig(a), toBig(b)
		if got, want := toBig(a.add(b)), new(big.Int).Add(ba, bb); got.Cmp(want) != 0 {
			t.Fatalf("add = %v, want %v", got, want)
		}
		if got, want := toBig(a.sub(b)), new(big.Int).Sub(ba, bb); got.Cmp(want) != 0 {
			t.Fatalf("sub = %v, want %v", got, want)
		}
		if got, want := a.less(b), ba.Cmp(bb) < 0; got != want {
			t.Fatalf("less = %v, want %v", got, want)
		}
		q, r := new(big.Int).QuoRem(ba, big.NewInt(d), new(big.Int))
		gq, gr := a.divFloor(d)
		if !q.IsInt64() {
			if gq != 1<<63-1 {
				t.Fatalf("divFloor = %d, want MaxInt64 for %v", gq, q)
			}
			return
		}
		if gq != q.Int64() || gr != r.Int64() {
			t.Fatalf("divFloor = %d, %d, want %v, %v", gq, gr, q, r)
		}
		if up := a.divCeil(d); up != gq && up != gq+1 || (up == gq) != (gr == 0 || gq == 1<<63-1) {
			t.Fatalf("divCeil = %d, want %d rounded up from a remainder of %d", up, gq, gr)
		}
	})
}
