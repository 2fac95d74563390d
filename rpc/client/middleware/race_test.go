// SPDX-License-Identifier: Apache-2.0

package middleware_test

import (
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/rpc/client/middleware"
)

// A report of progress in flight during the settlement does not change the charge
// and does not take the slot again.
func TestProgressRacesSettle(t *testing.T) {
	n, c := start(t)
	s := serve(t, middleware.Options{Client: c, Identify: identifyAs("big"), ProgressInterval: time.Millisecond}, func(w http.ResponseWriter, r *http.Request) {
		streaming(event("a"), event("b"))(w, r)
		seen := n.progress.Load()
		for n.progress.Load() == seen && r.Context().Err() == nil { // so that reports overlap with the settlement
			streaming(event("c"))(w, r)
		}
		streaming(usageEvent(40, 9), doneEvent)(w, r)
	})
	const calls, at = 200, 20
	var wg sync.WaitGroup
	for range at {
		wg.Go(func() {
			for range calls / at {
				s.post(t, chat, ask(`,"stream":true`))
			}
		})
	}
	wg.Wait()
	for range calls {
		wantCharge(t, s.result(t), middleware.SourceReported, 40, 9)
	}
	if n.progress.Load() < calls/at {
		t.Errorf("%d reports of progress, want some in each round", n.progress.Load())
	}
	wantUsed(t, c, "big", "tokens", calls*49)
	wantUsed(t, c, "big", "requests", calls)
	wantUsed(t, c, "big", "concurrent", 0)
}
