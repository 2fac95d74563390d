// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"math/rand/v2"
	"testing"
	"time"
)

// At any time, all of the last 60 s is counted, and nothing that is older than 70 s.
func TestRecent(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	for range 200 {
		var r Recent
		type event struct{ at, n int64 }
		var all []event
		now := random.Int64N(int64(time.Hour))
		for range 300 {
			now += random.Int64N(int64(1) << random.IntN(38)) // up to 4 minutes
			if random.IntN(2) == 0 {
				all = append(all, event{now, random.Int64N(100)})
				r.Add(now, all[len(all)-1].n)
			}
			var least, most int64
			for _, e := range all {
				if e.at > now-int64(time.Minute) {
					least += e.n
				}
				if e.at > now-int64(70*time.Second) {
					most += e.n
				}
			}
			if got := r.Sum(now); got < least || got > most {
				t.Fatalf("at %v: %d, want %d to %d", time.Duration(now), got, least, most)
			}
		}
	}
}
