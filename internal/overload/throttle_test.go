// SPDX-License-Identifier: Apache-2.0

package overload

import (
	"testing"
	"time"
)

const (
	millisecond = int64(time.Millisecond)
	second      = int64(time.Second)
)

// receiver answers capacity calls per millisecond, and refuses the others.
type receiver struct{ answered, refused int64 }

// offer sends calls through a throttle for a time, so many per millisecond.
func offer(t *Throttle, from, until int64, perMillisecond, capacity int) (r receiver, held int64) {
	for now := from; now < until; now += millisecond {
		room := capacity
		for i := range perMillisecond {
			switch admitted, _ := t.Admit(now + int64(i)*millisecond/int64(perMillisecond)); {
			case !admitted:
				held++
			case room > 0:
				room--
				r.answered++
				t.Answered(now, 1)
			default:
				r.refused++
				t.Refused(now, 1)
			}
		}
	}
	return r, held
}

func TestThrottleFollowsTheCapacity(t *testing.T) {
	for _, capacity := range []int{1, 10, 100} {
		for _, times := range []int{2, 4, 10, 40} {
			var throttle Throttle
			offer(&throttle, 0, second, capacity*times, capacity) // settles
			r, held := offer(&throttle, second, 3*second, capacity*times, capacity)
			possible := int64(capacity) * 2000
			if r.answered < possible*95/100 {
				t.Errorf("capacity %d, %d times as much: %d answered, want at least 95%% of %d", capacity, times, r.answered, possible)
			}
			if r.refused > possible*30/100 {
				t.Errorf("capacity %d, %d times as much: %d refused by the receiver, want at most 30%% of %d", capacity, times, r.refused, possible)
			}
			if held == 0 {
				t.Errorf("capacity %d, %d times as much: nothing was held back", capacity, times)
			}
		}
	}
}

func TestThrottleWithoutRefusalsAdmitsEverything(t *testing.T) {
	var throttle Throttle
	if r, held := offer(&throttle, 0, second, 100, 100); held != 0 || r.refused != 0 {
		t.Errorf("%d held back, %d refused, want none", held, r.refused)
	}
	if throttle.Limiting(second) {
		t.Error("a throttle that saw no refusal limits")
	}
}

func TestThrottleEndsWithTheOverload(t *testing.T) {
	var throttle Throttle
	offer(&throttle, 0, second, 100, 10)
	if !throttle.Limiting(second) {
		t.Fatal("ten times too much does not limit")
	}
	// As much as before, but now there is room for it: everything within 2 s, as
	// what is sent doubles in each interval.
	offer(&throttle, second, 3*second, 100, 100)
	if r, held := offer(&throttle, 3*second, 4*second, 100, 100); held != 0 {
		t.Errorf("%d held back and %d answered 2 s after the overload", held, r.answered)
	}
	offer(&throttle, 4*second, 5*second, 100, 10)
	// Less than the capacity: everything after two intervals.
	offer(&throttle, 5*second, 5*second+2*throttleInterval, 5, 10)
	if _, held := offer(&throttle, 5*second+2*throttleInterval, 6*second, 5, 10); held != 0 {
		t.Errorf("%d held back after the load has ended", held)
	}
	offer(&throttle, 6*second, 7*second, 100, 10)
	if throttle.Limiting(7*second + 2*throttleInterval) {
		t.Error("a throttle limits after a pause")
	}
}

func TestThrottleSaysWhenToRetry(t *testing.T) {
	var throttle Throttle
	offer(&throttle, 0, second, 100, 10)
	now := second
	for {
		admitted, retry := throttle.Admit(now)
		if admitted {
			continue
		}
		if retry <= 0 || int64(retry) > throttleInterval {
			t.Fatalf("retry after %s, want more than 0 and at most an interval", retry)
		}
		if admitted, _ := throttle.Admit(now + int64(retry)); !admitted {
			t.Errorf("a call is not admitted after the %s that were named", retry)
		}
		return
	}
}

func TestThrottleProbesWhenNothingIsAnswered(t *testing.T) {
	var throttle Throttle
	offer(&throttle, 0, second, 100, 0)
	r, _ := offer(&throttle, second, 11*second, 100, 0)
	if perSecond := r.refused / 10; perSecond < throttleLeast*5 || perSecond > throttleLeast*40 {
		t.Errorf("%d calls a second are sent to a receiver that answers none, want some", perSecond)
	}
}

func BenchmarkThrottle(b *testing.B) {
	var throttle Throttle
	now := int64(0)
	b.ReportAllocs()
	for b.Loop() {
		now += 1000
		if admitted, _ := throttle.Admit(now); admitted {
			throttle.Refused(now, 1)
		}
	}
}

// A sender that holds calls back by itself until FullUntil, and says so later, is limited as
// one that asks for each call.
func TestFullUntil(t *testing.T) {
	const capacity, times = 10, 10
	var throttle Throttle
	var until, held, heldInAll, answered, refused int64
	for now := int64(0); now < 4*second; now += millisecond {
		room := capacity
		for i := range capacity * times {
			at := now + int64(i)*millisecond/(capacity*times)
			if at < until {
				held++
				continue
			}
			throttle.Held(held)
			heldInAll, held = heldInAll+held, 0
			until = throttle.FullUntil(at)
			if _, full := throttle.Full(at); full != (until != 0) || full && until <= at {
				t.Fatalf("at %d, FullUntil() = %d, and Full() reports %t", at, until, full)
			}
			if until != 0 {
				continue
			}
			if admitted, _ := throttle.Admit(at); !admitted {
				t.Fatalf("at %d, FullUntil() = 0, and the call is not admitted", at)
			}
			if room > 0 {
				room--
				throttle.Answered(at, 1)
				if now >= second {
					answered++
				}
				continue
			}
			throttle.Refused(at, 1)
			if now >= second {
				refused++
			}
		}
	}
	if possible := int64(capacity) * 3000; answered < possible*95/100 || refused > possible*30/100 || heldInAll == 0 {
		t.Errorf("%d of %d answered, %d refused by the receiver, %d held back", answered, possible, refused, heldInAll)
	}
}
