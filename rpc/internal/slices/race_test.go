// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// Many goroutines take, ask, recall and look, while every third return is lost. Once the
// table is closed, each slice was returned once, and the returns have all calls that were
// answered.
func TestConcurrentUse(t *testing.T) {
	const keys, callers, calls = 5, 16, 3000
	var mu sync.Mutex
	returned := map[string]int64{}
	var sends, ids, taken atomic.Int64
	began := time.Now()
	table := slices.New(slices.Options{
		Now: func() int64 { return int64(time.Since(began)) },
		Send: func(_ context.Context, item *pb.Item) error {
			if sends.Add(1)%3 == 0 {
				return errors.New("lost")
			}
			r := item.GetSliceReturn()
			mu.Lock()
			defer mu.Unlock()
			if _, known := returned[r.GetSlice()]; known {
				t.Errorf("%s was returned again after it was acknowledged", r.GetSlice())
			}
			returned[r.GetSlice()] = r.GetCalls()
			return nil
		},
	})
	var wg sync.WaitGroup
	for caller := range callers {
		wg.Go(func() {
			for i := range calls {
				q := &pb.CheckRequest{Key: fmt.Sprint((caller + i) % keys), InputTokens: int64(i / 100 % 3)}
				var a slices.Answer
				if table.Take(q, &a, true) {
					taken.Add(1)
					continue
				}
				if i%500 == 0 {
					table.Recall(q.GetKey())
				}
				asked := table.Now()
				switch {
				case !table.Asks(q):
				case i%7 == 0:
					table.Answered(q)
				default:
					s := sliceOf(fmt.Sprint(ids.Add(1)), 20)
					s.LeaseNanos = int64(5 * time.Millisecond)
					table.Granted(q, asked, s, decision())
				}
				if i%100 == 0 {
					table.Status()
				}
			}
		})
	}
	wg.Wait()
	if err := table.Close(waittest.Context(t, waittest.Limit)); err != nil {
		t.Fatalf("Close() = %v", err)
	}
	sum := int64(0)
	for _, n := range returned {
		sum += n
	}
	if sum != taken.Load() || int64(len(returned)) != ids.Load() {
		t.Errorf("%d of %d slices were returned, with %d calls, want %d", len(returned), ids.Load(), sum, taken.Load())
	}
	if taken.Load() == 0 {
		t.Error("no call was answered from a slice: the test shows nothing")
	}
	if st := table.Status(); int64(st.Taken) != taken.Load() || int64(st.Granted) != ids.Load() || st.Held != 0 {
		t.Errorf("Status() = %+v", st)
	}
}
