// SPDX-License-Identifier: Apache-2.0

package pause

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestHalf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		pause := Half()
		work := func(d time.Duration) (waited time.Duration) {
			time.Sleep(d)
			began := time.Now()
			pause()
			return time.Since(began)
		}
		for _, test := range []struct{ worked, waits time.Duration }{
			{100 * time.Microsecond, 0},
			{100 * time.Microsecond, 0},
			{100 * time.Microsecond, 300 * time.Microsecond}, // with those before
			{2 * time.Millisecond, 2 * time.Millisecond},
			{0, 0},
		} {
			if got := work(test.worked); got != test.waits {
				t.Errorf("after work for %v it waited for %v, want %v", test.worked, got, test.waits)
			}
		}
	})
}
