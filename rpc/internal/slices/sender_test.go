// SPDX-License-Identifier: Apache-2.0

package slices_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	held "github.com/bucketring/bucketring/rpc/internal/slices"
)

// A return is sent until the owner has it, after 20 ms, 40 ms, and so on up to 1 s.
func TestFailedReturnIsSentAgain(t *testing.T) {
	run(t, held.Options{}, func(s *scene) {
		q := check("k")
		s.owner(errors.New("unavailable"), false)
		s.grant(q, 10)
		s.take(q, 1)
		s.Recall("k")
		time.Sleep(3 * time.Second)
		ms := time.Millisecond
		if got, want := s.sent(), []time.Duration{0, 20 * ms, 60 * ms, 140 * ms, 300 * ms, 620 * ms, 1260 * ms, 2260 * ms}; !slices.Equal(got, want) {
			s.Errorf("sent at %v, want %v", got, want)
		}
		if st := s.Status(); st.PendingReturns != 1 || st.FailedSends != 8 || st.Returned != 0 {
			s.Errorf("Status() = %+v, want one pending return that has failed 8 times", st)
		}
		s.owner(nil, false)
		time.Sleep(time.Second)
		s.wantReturned(map[string]int64{"s1": 1})
		if st := s.Status(); st.PendingReturns != 0 || st.Returned != 1 {
			s.Errorf("Status() = %+v, want the slice returned", st)
		}
	})
}

// A return is given up when no owner waits for it any more, so that the key may ask again.
func TestOldReturnIsGivenUp(t *testing.T) {
	run(t, held.Options{}, func(s *scene) {
		s.owner(errors.New("unavailable"), false)
		for range 4 {
			s.grant(check("k"), 10)
			s.take(check("k"), 1)
			s.Recall("k")
		}
		time.Sleep(9 * time.Second)
		if st := s.Status(); st.PendingReturns != 4 || st.LostReturns != 0 || s.Asks(check("k")) {
			s.Errorf("Status() after 9 s = %+v, want four pending returns", st)
		}
		time.Sleep(4 * time.Second)
		if st := s.Status(); st.PendingReturns != 0 || st.LostReturns != 4 {
			s.Errorf("Status() after 13 s = %+v, want four lost returns", st)
		}
		if !s.Asks(check("k")) {
			s.Error("Asks() without returns = false, want true")
		}
	})
}

// While four returns of a key are not acknowledged, it asks for nothing. Other keys do.
func TestUnacknowledgedReturns(t *testing.T) {
	run(t, held.Options{}, func(s *scene) {
		s.owner(nil, true)
		for range 4 {
			s.grant(check("k"), 10)
			s.Recall("k")
			time.Sleep(time.Millisecond)
		}
		if s.Asks(check("k")) || !s.Asks(check("l")) {
			s.Error("Asks() with 4 unacknowledged returns = true, or false for another key")
		}
		s.owner(nil, false)
		time.Sleep(3 * time.Second)
		s.wantReturned(map[string]int64{"s1": 0, "s2": 0, "s3": 0, "s4": 0})
		if !s.Asks(check("k")) {
			s.Error("Asks() after the acknowledgements = false, want true")
		}
	})
}

// There are never more attempts at once for an owner than allowed, and those that wait are
// sent when it answers.
func TestManyReturns(t *testing.T) {
	run(t, held.Options{}, func(s *scene) {
		s.owner(nil, true)
		for i := range 1000 {
			s.grant(check(fmt.Sprint(i)), 10)
		}
		time.Sleep(time.Second) // all are over
		synctest.Wait()
		if n := len(s.sent()); n != 64 {
			s.Errorf("%d returns are in flight, want 64", n)
		}
		s.owner(nil, false)
		time.Sleep(5 * time.Second)
		if st := s.Status(); st.Returned != 1000 || st.PendingReturns != 0 {
			s.Errorf("Status() = %+v, want all returned", st)
		}
	})
}

// A return that the owner rejects is not sent again.
func TestRejectedReturn(t *testing.T) {
	run(t, held.Options{}, func(s *scene) {
		s.owner(fmt.Errorf("invalid: %w", held.ErrRejected), false)
		s.grant(check("k"), 10)
		time.Sleep(time.Minute)
		if st := s.Status(); st.LostReturns != 1 || st.FailedSends != 1 || st.PendingReturns != 0 || st.Held != 0 {
			s.Errorf("Status() = %+v, want one lost return", st)
		}
	})
}

// Close returns everything, also what waits to be sent again.
func TestClose(t *testing.T) {
	run(t, held.Options{}, func(s *scene) {
		s.owner(errors.New("unavailable"), false)
		for i := range 100 {
			s.grant(check(fmt.Sprint(i)), 10)
			s.take(check(fmt.Sprint(i)), i%5)
		}
		for i := range 50 {
			s.Recall(fmt.Sprint(i))
		}
		time.Sleep(500 * time.Millisecond)
		s.owner(nil, false)
		if err := s.Close(s.Context()); err != nil {
			s.Errorf("Close() = %v", err)
		}
		want := map[string]int64{}
		for i := range 100 {
			want[fmt.Sprint("s", i+1)] = int64(i % 5)
		}
		s.wantReturned(want)
		if st := s.Status(); st.Held != 0 || st.PendingReturns != 0 || st.LostReturns != 0 || st.Returned != 100 {
			s.Errorf("Status() = %+v, want all returned", st)
		}
		if s.Asks(check("k")) || s.take(check("1"), 1) != 0 {
			s.Error("a closed table asks or answers, want neither")
		}
		s.grantUnasked(check("k"), 10) // its answer was on its way
		if st := s.Status(); st.Held != 0 || st.LostReturns != 1 {
			s.Errorf("Status() after a slice for a closed table = %+v, want it lost", st)
		}
		if err := s.Close(s.Context()); err != nil {
			s.Errorf("Close() again = %v, want nil", err)
		}
	})
}

// Close ends with its context, and says what is lost.
func TestCloseWithoutOwner(t *testing.T) {
	for _, silent := range []bool{false, true} {
		run(t, held.Options{}, func(s *scene) {
			s.owner(errors.New("unavailable"), silent)
			s.grant(check("k"), 10)
			s.grant(check("l"), 10)
			ctx, cancel := context.WithTimeout(s.Context(), 300*time.Millisecond)
			defer cancel()
			err := s.Close(ctx)
			if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "2 are lost") {
				s.Errorf("Close() = %v, want that 2 are lost at the deadline", err)
			}
			if st := s.Status(); st.LostReturns != 2 || st.PendingReturns != 0 {
				s.Errorf("Status() = %+v, want 2 lost", st)
			}
		})
	}
}
