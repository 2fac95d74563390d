// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/slices"
	"github.com/bucketring/bucketring/rpc/pb"
)

// An owner that does not answer delays no returns to others, however many wait for it. When
// the keys have another owner, their returns wait for that one.
func TestSilentOwnerDelaysNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		began := time.Now()
		var mu sync.Mutex
		sent, inFlight, most := map[string]time.Duration{}, 0, 0
		moved := false // the keys of the silent owner have another one
		owner := func(key string) string {
			mu.Lock()
			defer mu.Unlock()
			name, _, _ := strings.Cut(key, "/")
			if name == "silent" && moved {
				return "next"
			}
			return name
		}
		send := func(ctx context.Context, item *pb.Item) error {
			key := item.GetSliceReturn().GetKey()
			if owner(key) != "silent" {
				mu.Lock()
				defer mu.Unlock()
				sent[key] = time.Since(began)
				return nil
			}
			mu.Lock()
			inFlight++
			most = max(most, inFlight)
			mu.Unlock()
			<-ctx.Done()
			mu.Lock()
			inFlight--
			mu.Unlock()
			return ctx.Err()
		}
		table := slices.New(slices.Options{Now: func() int64 { return int64(time.Since(began)) }, Send: send, Destination: owner})
		end := func(key string) {
			table.Granted(check(key), table.Now(), sliceOf(key, 10), decision())
			table.Recall(key)
		}
		const silent = 1000
		for i := range silent {
			end(fmt.Sprint("silent/", i))
		}
		synctest.Wait()
		time.Sleep(10 * time.Millisecond)
		for i := range 100 {
			end(fmt.Sprint("answers/", i))
		}
		synctest.Wait()
		for i := range 100 {
			key := fmt.Sprint("answers/", i)
			if at, is := sent[key]; !is || at != 10*time.Millisecond {
				t.Errorf("the return of %s was sent: %v, after %v, want at once, after 10ms", key, is, at)
				break
			}
		}
		if most != 64 {
			t.Errorf("%d returns were in flight to an owner, want 64", most)
		}
		mu.Lock()
		moved = true
		mu.Unlock()
		time.Sleep(3 * time.Second)
		synctest.Wait()
		if st := table.Status(); st.PendingReturns != 0 || st.Returned != silent+100 {
			t.Errorf("Status() = %+v, want all %d returned to the next owner", st, silent+100)
		}
		if err := table.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
