// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

// TestHealthWait checks that health --wait asks until the answer is yes, gives up in time
// with the last answer, and asks once without --wait.
func TestHealthWait(t *testing.T) {
	for _, tt := range []struct {
		name    string
		within  time.Duration
		after   int // the answer is yes from this question on
		cancel  time.Duration
		asked   int
		healthy bool
		took    time.Duration
	}{
		{name: "at once", within: time.Minute, after: 1, asked: 1, healthy: true},
		{name: "later", within: time.Minute, after: 5, asked: 5, healthy: true, took: 2 * time.Second},
		{name: "never", within: 2 * time.Second, after: 100, asked: 4, took: 1500 * time.Millisecond},
		{name: "without waiting", after: 2, asked: 1},
		{name: "interrupted", within: time.Minute, after: 100, cancel: 700 * time.Millisecond, asked: 2, took: 700 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx := t.Context()
				if tt.cancel > 0 {
					var stop context.CancelFunc
					ctx, stop = context.WithTimeout(ctx, tt.cancel)
					defer stop()
				}
				began, asked := time.Now(), 0
				got := await(ctx, tt.within, func() health {
					asked++
					return health{Healthy: asked >= tt.after}
				})
				if took := time.Since(began); got.Healthy != tt.healthy || asked != tt.asked || took != tt.took {
					t.Errorf("await = %v after %d questions and %s, want %v after %d and %s", got.Healthy, asked, took, tt.healthy, tt.asked, tt.took)
				}
			})
		})
	}
}
