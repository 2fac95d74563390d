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
		if got := e.tokens("m", n); got != want {
			t.Errorf("tokens(%d) = %d, want %d", n, got, want)
		}
	}
}

func TestEstimatesFollowTheModel(t *testing.T) {
	var e estimator
	for range 10 {
		e.learn("english", 4000, 1000)
		e.learn("bytes", 1000, 1000)
	}
	for model, want := range map[string]int64{"english": 1125, "bytes": 4000, "unknown": 1334} {
		if got := e.tokens(model, 4000); got < want || got > want+want/100 {
			t.Errorf("tokens(%s, 4000) = %d, want %d or hardly more", model, got, want)
		}
	}
	for range 1000 { // another kind of text
		e.learn("english", 4000, 2000)
	}
	if got := e.tokens("english", 4000); got < 2000 || got > 2300 {
		t.Errorf("tokens(english, 4000) = %d, want 2250 or a little less", got)
	}
}

func TestOutliersHaveLittleWeight(t *testing.T) {
	var e estimator
	e.learn("m", 4000, 1)
	if got := e.tokens("m", 3000); got != 1000 {
		t.Errorf("tokens(3000) = %d after one call, want 1000 as before", got)
	}
	for range 100 {
		e.learn("m", 4000, 1000)
	}
	before := e.tokens("m", 4000)
	e.learn("m", 4000, math.MaxInt64)
	e.learn("m", 1<<40, 1)
	e.learn("m", 1<<40, 1<<40)
	if got := e.tokens("m", 4000); got < before*90/100 || got > before*120/100 {
		t.Errorf("tokens(4000) = %d after odd calls, want about %d", got, before)
	}
}

// Estimates stay within the bounds of the ratio. A text with the ratio of the
// samples is not estimated too low.
func TestEstimatesErrHigh(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var e estimator
		thousandths := rapid.Int64Range(minRatio, maxRatio).Draw(t, "ratio")
		for range rapid.IntRange(0, 50).Draw(t, "calls") {
			n := rapid.Int64Range(1000, 1<<20).Draw(t, "bytes")
			e.learn("m", n, n*1000/thousandths)
		}
		e.learn("other", rapid.Int64().Draw(t, "odd bytes"), rapid.Int64().Draw(t, "odd tokens"))
		n := rapid.Int64Range(1000, 1<<40).Draw(t, "text")
		got := e.tokens("m", n)
		if thousandths >= defaultRatio || e.mu.models["m"] != nil && e.mu.models["m"].bytes >= minLearnedBytes {
			if got < n*1000/thousandths {
				t.Errorf("tokens(%d) = %d at %d thousandths, want no less than %d", n, got, thousandths, n*1000/thousandths)
			}
		}
		for _, model := range []string{"m", "other"} {
			if got := e.tokens(model, n); got < n*1000/maxRatio || got > n*1000/minRatio+1 {
				t.Errorf("tokens(%s, %d) = %d, want between %d and %d", model, n, got, n*1000/maxRatio, n*1000/minRatio)
			}
		}
	})
}

func TestModelsAreEvicted(t *testing.T) {
	var e estimator
	e.learn("first", 16<<10, 4<<10)
	for i := range 10 * maxModels {
		e.learn(fmt.Sprint("model-", i), 16<<10, 4<<10)
		e.tokens("first", 1) // keeps it in use
	}
	if got := len(e.mu.models); got != maxModels {
		t.Errorf("%d models are remembered, want %d", got, maxModels)
	}
	if e.mu.models["first"] == nil {
		t.Error("a model in use was forgotten")
	}
}

func TestEstimatorConcurrently(t *testing.T) {
	var e estimator
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for range 200 {
				e.learn(strings.Repeat("m", i%3), 4000, 1000)
				e.tokens("m", 4000)
			}
		})
	}
	wg.Wait()
	if got := e.tokens("m", 4000); got != 1125 && got != 1126 {
		t.Errorf("tokens(4000) = %d, want 1125", got)
	}
}
