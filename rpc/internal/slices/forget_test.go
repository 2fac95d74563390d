// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/bucketring/bucketring/rpc/internal/slices"
)

// However long a key is hot, the table waits for few events, and forgets what has ended.
func TestEventsOfAHotKey(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		q := reserve("k", 2, 3)
		var a slices.Settlement
		for i := range 600 {
			s.grantReserves(q, 100)
			id := fmt.Sprint("r", i)
			s.reserved(q, id)
			if done, _, err := s.Settle(settle("k", 1), id, &a); !done || err != nil {
				s.Fatalf("Settle() = %v, %v, want it done", done, err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if events, known := s.Events(), s.Known(); events > 3 || known > 61 {
				s.Fatalf("%d events and %d reservations after %d s, want at most 3 and 61", events, known, i+1)
			}
		}
	})
}

// A shard forgets the reservations of all its keys that have ended.
func TestForgetsTheReservationsOfAllKeys(t *testing.T) {
	run(t, slices.Options{}, func(s *scene) {
		var a slices.Settlement
		for i := range 500 {
			key := fmt.Sprint("k", i)
			q := reserve(key, 2, 3)
			s.grantReserves(q, 100)
			s.reserved(q, key)
			if done, _, err := s.Settle(settle(key, 1), key, &a); !done || err != nil {
				s.Fatalf("Settle() = %v, %v, want it done", done, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		if events, known := s.Events(), s.Known(); events != 0 || known != 0 {
			s.Errorf("%d events and %d reservations a minute after the last one has ended, want none", events, known)
		}
	})
}
