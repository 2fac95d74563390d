// SPDX-License-Identifier: Apache-2.0

package middleware

import (
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/internal/amount"
)

func TestDefaultEstimates(t *testing.T) {
	var e estimator
	for n, want := range map[int64]int64{-1: 0, 0: 0, 1: 1, 3: 1, 4: 2, 300: 100, math.MaxInt64: amount.Max} {
		if got := e.prompt("acme", "m", n); got != want {
			t.Errorf("tokens(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestEstimatesFollowTheModel(t *testing.T) {
	var e estimator
	for range 10 {
		e.learn("acme/alice", "english", 4000, 1000)
		e.learn("acme/alice", "bytes", 4000, 4000)
	}
	for model, want := range map[string]int64{"english": 1125, "bytes": 4000, "unknown": 1334} {
		if got := e.prompt("acme/bob", model, 4000); got < want || got > want+want/50 {
			t.Errorf("tokens(%s, 4000) = %d, want %d or hardly more", model, got, want)
		}
	}
	for range 1000 { // another kind of text
		e.learn("acme", "english", 4000, 2000)
	}
	if got := e.prompt("acme", "english", 4000); got < 2000 || got > 2300 {
		t.Errorf("tokens(english, 4000) = %d, want 2250 or a little less", got)
	}
}

func TestOutliersHaveLittleWeight(t *testing.T) {
	var e estimator
	e.learn("acme", "m", 4000, 1)
	if got := e.prompt("acme", "m", 3000); got != 1000 {
		t.Errorf("tokens(3000) = %d after one call, want 1000 as before", got)
	}
	for range 100 {
		e.learn("acme", "m", 4000, 1000)
	}
	before := e.prompt("acme", "m", 4000)
	e.learn("acme", "m", 4000, math.MaxInt64)
	e.learn("acme", "m", 1<<40, 1)
	e.learn("acme", "m", 1<<40, 1<<40)
	if got := e.prompt("acme", "m", 4000); got < before*90/100 || got > before*120/100 {
		t.Errorf("tokens(4000) = %d after odd calls, want about %d", got, before)
	}
}

// Estimates stay within the bounds. A text of a size between those of the samples, with
// their ratio and overhead, is not estimated too low.
func TestEstimatesErrHigh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e estimator
		thousandths := rapid.Int64Range(minRatio, maxRatio).Draw(t, "ratio")
		overhead := rapid.Int64Range(0, 200).Draw(t, "overhead")
		size := rapid.Int64Range(500, 1<<20)
		calls := rapid.IntRange(0, 200).Draw(t, "calls")
		n, least, most := size.Draw(t, "text"), int64(1<<40), int64(0)
		for range calls {
			n := size.Draw(t, "bytes")
			least, most = min(least, n), max(most, n)
			e.learn("acme", "m", n, overhead+n*1000/thousandths)
		}
		e.learn("acme", "other", rapid.Int64().Draw(t, "odd bytes"), rapid.Int64().Draw(t, "odd tokens"))
		got := e.prompt("acme", "m", n)
		if want := overhead + n*1000/thousandths; calls >= minLearnedCalls && n >= least && n <= most && got < want {
			t.Errorf("prompt(%d) = %d at %d thousandths, want no less than %d", n, got, thousandths, want)
		}
		for _, model := range []string{"m", "other"} {
			if got := e.prompt("acme", model, n); got < n*1000/maxRatio || got > n*1000/minRatio+1+maxOverhead*9/8 {
				t.Errorf("prompt(%s, %d) = %d, want between %d and %d", model, n, got, n*1000/maxRatio, n*1000/minRatio+maxOverhead*9/8)
			}
		}
	})
}

// What the server adds to each prompt is learned as such: short prompts do not change the
// estimates of long ones.
func TestOverheadIsNotRatio(t *testing.T) {
	for _, tt := range []struct {
		name          string
		bytes, spread int64
		ratio         int64 // real thousandths of a byte per token
		overhead      int64
		shortAtMost   int64 // estimate of 40 bytes
		longAtMost    int64 // estimate of 96,000 bytes
	}{
		{"a template of 70 tokens", 40, 20, 4000, 70, 100, 40_000},
		{"a hidden prompt of 500 tokens", 200, 100, 4000, 500, 620, 40_000},
		{"longer chats", 2000, 1500, 4000, 70, 120, 29_000},
		{"no overhead", 2000, 1500, 4000, 0, 45, 29_000},
	} {
		var e estimator
		for i := range int64(140) {
			n := tt.bytes - tt.spread + i*37%(2*tt.spread+1)
			e.learn("acme", "m", n, tt.overhead+n*1000/tt.ratio)
		}
		short, long := e.prompt("acme", "m", 40), e.prompt("acme", "m", 96_000)
		if least := tt.overhead + 40*1000/tt.ratio; short < least || short > tt.shortAtMost {
			t.Errorf("%s: prompt(40) = %d, want %d to %d", tt.name, short, least, tt.shortAtMost)
		}
		if least := tt.overhead + 96_000*1000/tt.ratio; long < least || long > tt.longAtMost {
			t.Errorf("%s: prompt(96000) = %d, want %d to %d", tt.name, long, least, tt.longAtMost)
		}
		if got := e.text("acme", "m", 40); got > 20 {
			t.Errorf("%s: text(40) = %d, want no overhead", tt.name, got)
		}
		if got := e.prompt("other", "m", 40); got > 14 {
			t.Errorf("%s: prompt(40) of another root = %d, want no overhead", tt.name, got)
		}
	}
}

// learned reports whether a root has a ratio of its own.
func (e *estimator) learned(key, model string) bool {
	root, modelHash := hashesOf(key, model)
	ratio, _ := e.sets[root%sampleSets].estimate(root, modelHash)
	return ratio > 0
}

// size returns the number of remembered samples and models.
func (e *estimator) size() (pairs, models int) {
	for i := range e.sets {
		pairs += len(e.sets[i].samples)
	}
	for i := range e.models.sets {
		for j := range e.models.sets[i] {
			if e.models.sets[i][j].model.Load() != 0 {
				models++
			}
		}
	}
	return pairs, models
}

// What a root sends changes no estimate of a root that has used the model, and those
// of a new root by an eighth of the difference at most.
func TestOneRootMovesTheModelByItsShare(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e estimator
		for i := range rapid.IntRange(0, 20).Draw(t, "roots") {
			thousandths := rapid.Int64Range(minRatio, maxRatio).Draw(t, "ratio")
			for range rapid.IntRange(1, 10).Draw(t, "calls") {
				e.learn(fmt.Sprint("root-", i), "m", 4000, 4000*1000/thousandths)
			}
		}
		for range 10 {
			e.learn("victim", "m", 4000, 1000)
		}
		const n = 1 << 20
		victim, fresh := e.prompt("victim/a", "m", n), e.prompt("fresh", "m", n)
		for i := range rapid.IntRange(1, 100).Draw(t, "hostile calls") {
			bytes := rapid.Int64Range(1, 1<<20).Draw(t, "bytes")
			e.learn(fmt.Sprint("hostile/", i), "m", bytes, rapid.Int64Range(1, 1<<22).Draw(t, "tokens"))
		}
		if got := e.prompt("victim/b", "m", n); got != victim {
			t.Errorf("the estimate of another root changed from %d to %d tokens", victim, got)
		}
		const most, least = n * 1000 / minRatio, n * 1000 / maxRatio
		got := e.prompt("fresh", "m", n)
		if standard := int64(n*1000/defaultRatio + 1); got > standard {
			t.Errorf("the estimate of a new root is %d tokens, want no more than the %d of a model that nobody has used", got, standard)
		}
		const rounding = n / 1000
		if got > fresh+(most-fresh)/8+rounding || got < fresh-(fresh-least)/8-rounding {
			t.Errorf("the estimate of a new root changed from %d to %d tokens, want an eighth of the way to %d or %d at most", fresh, got, most, least)
		}
	})
}

// The models of many roots are used for new ones.
func TestModelsAreLearnedFromAllRoots(t *testing.T) {
	var e estimator
	for i := range 100 {
		for range 10 {
			e.learn(fmt.Sprint("root-", i), "english", 4000, 1000)
		}
	}
	if got := e.prompt("new", "english", 4000); got < 1125 || got > 1160 {
		t.Errorf("tokens(4000) = %d for a new root, want a little more than 1125", got)
	}
	if got := e.prompt("new", "other", 3000); got != 1000 {
		t.Errorf("tokens(3000) = %d of another model, want the default of 1000", got)
	}
}

// A root that uses many models forgets its own ones only.
func TestSamplesAreBounded(t *testing.T) {
	var e estimator
	const victims = 500
	for i := range victims {
		e.learn(fmt.Sprint("root-", i), "m", 16<<10, 4<<10)
	}
	for i := range 10_000 {
		e.learn("flooder", fmt.Sprint("model-", i), 16<<10, 4<<10)
	}
	if pairs, models := e.size(); pairs != victims+maxModelsPerRoot || models != 1+maxModelsPerRoot {
		t.Errorf("%d pairs and %d models are remembered, want %d and %d", pairs, models, victims+maxModelsPerRoot, 1+maxModelsPerRoot)
	}
	for i := range victims {
		if key := fmt.Sprint("root-", i); !e.learned(key, "m") {
			t.Errorf("the ratio of %s was forgotten", key)
		}
	}
	for i := range 50_000 {
		e.learn(fmt.Sprint("root-", i), fmt.Sprint("model-", i), 16<<10, 4<<10)
		e.prompt("root-1", "m", 1) // keeps it in use
	}
	if pairs, models := e.size(); pairs > sampleSets*samplesPerSet || models > modelSets*modelsPerSet {
		t.Errorf("%d pairs and %d models are remembered, want %d and %d at most", pairs, models, sampleSets*samplesPerSet, modelSets*modelsPerSet)
	}
	if !e.learned("root-1", "m") {
		t.Error("a ratio in use was forgotten")
	}
}

// Whatever is evicted, the sum of a model is the sum of the shares of its roots.
func TestModelSumsAreExact(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e estimator
		for range rapid.IntRange(1, 300).Draw(t, "calls") {
			key, model := rapid.IntRange(0, 3).Draw(t, "key"), rapid.IntRange(0, 2*maxModelsPerRoot).Draw(t, "model")
			e.learn(fmt.Sprint(key), fmt.Sprint(model), rapid.Int64Range(1, 1<<20).Draw(t, "bytes"), rapid.Int64Range(1, 1<<20).Draw(t, "tokens"))
		}
		want := map[uint64]uint64{}
		for i := range e.sets {
			for _, m := range e.sets[i].samples {
				want[m.model] += m.share
			}
		}
		for i := range e.models.sets {
			for j := range e.models.sets[i] {
				m := &e.models.sets[i][j]
				if got := m.shares.Load(); got != want[m.model.Load()] {
					t.Errorf("the sum of a model is %#x, want %#x", got, want[m.model.Load()])
				}
				delete(want, m.model.Load())
			}
		}
		if len(want) > 0 {
			t.Errorf("%d models have no sum", len(want))
		}
	})
}

func TestEstimatesDoNotAllocate(t *testing.T) {
	var e estimator
	e.learn("acme/alice", "m", 4000, 1000)
	if n := testing.AllocsPerRun(1000, func() {
		e.prompt("acme/alice", "m", 4000)
		e.prompt("new", "m", 4000)
		e.learn("acme/alice", "m", 4000, 1000)
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestEstimatorConcurrently(t *testing.T) {
	var e estimator
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				e.learn(fmt.Sprint("root-", i%2), strings.Repeat("m", i%3), 4000, 1000)
				e.prompt("root-1", "m", 4000)
			}
		})
	}
	wg.Wait()
	if got := e.prompt("root-1", "m", 4000); got < 1125 || got > 1130 {
		t.Errorf("tokens(4000) = %d, want 1125 or hardly more", got)
	}
}
