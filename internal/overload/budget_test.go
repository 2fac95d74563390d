// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
)

// In any order of calls and failures, at each time, there are at most as many retries as a
// tenth of the calls so far and the first ones, and the same holds for any stretch of
// calls with what was kept before it.
func TestRetriesAreATenthOfTheCalls(t *testing.T) {
	for seed := range uint64(50) {
		rng := rand.New(rand.NewPCG(seed, 1))
		var b RetryBudget
		calls, retries, denied := 0, 0, 0
		stretchCalls, stretchRetries := 0, 0
		for range 200_000 {
			if rng.IntN(5000) == 0 { // a stretch begins anywhere
				stretchCalls, stretchRetries = 0, 0
			}
			if rng.IntN(100) < int(seed)*2 { // fails
				if b.Withdraw() {
					retries++
					stretchRetries++
				} else {
					denied++
				}
			} else {
				b.Deposit()
				calls++
				stretchCalls++
			}
			if most := firstRetries/retryCost + calls/retryCost; retries > most {
				t.Fatalf("seed %d: %d retries of %d calls, want at most %d", seed, retries, calls, most)
			}
			if most := mostRetries/retryCost + stretchCalls/retryCost + 1; stretchRetries > most {
				t.Fatalf("seed %d: %d retries in a stretch of %d calls, want at most %d", seed, stretchRetries, stretchCalls, most)
			}
		}
		if seed < 4 && denied > 0 {
			t.Errorf("seed %d: %d retries were denied although less than a tenth of the calls fail", seed, denied)
		}
		if seed > 20 && denied == 0 {
			t.Errorf("seed %d: no retry was denied", seed)
		}
	}
}

func TestRetryBudgetOfManyCallers(t *testing.T) {
	var b RetryBudget
	var granted atomic.Int64
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				b.Deposit()
				if b.Withdraw() {
					granted.Add(1)
				}
			}
		})
	}
	wg.Wait()
	if got := granted.Load(); got != 100+800 {
		t.Errorf("%d retries of 8000 calls, want the first 100 and a tenth", got)
	}
}
