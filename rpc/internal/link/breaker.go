// SPDX-License-Identifier: Apache-2.0

package link

// breaker is the circuit breaker of one member. It reads no clock: times are
// arguments, in nanoseconds.
//
// It opens when batches are outstanding and no answer has come for a whole
// timeout, or for a quarter of it if several calls timed out meanwhile. Calls with
// short deadlines alone therefore do not open it. If round trips are long, as they are
// between processes that wait for the CPU, the quarter becomes 8 of them, up to the
// timeout: a slow member is not gone. Any answer closes the breaker.
type breaker struct {
	timeout   int64
	roundTrip int64 // the usual one, of batches

	open bool
	// outstandingSince is when the member was first asked after its last answer;
	// never if nothing is outstanding.
	outstandingSince int64
	timeouts         int // calls that timed out after outstandingSince

	probing bool  // a probe is in flight
	probeAt int64 // when the next probe may start
}

const (
	probeInterval = 250_000_000 // ns
	maxTimeouts   = 3           // that open the breaker before the timeout
)

func newBreaker(timeout int64) breaker { return breaker{timeout: timeout, outstandingSince: never} }

// markOutstanding records that the member was asked something.
func (b *breaker) markOutstanding(now int64) {
	if b.outstandingSince == never {
		b.outstandingSince = now
	}
}

// clearOutstanding records that nothing is in flight.
func (b *breaker) clearOutstanding() { b.outstandingSince, b.timeouts = never, 0 }

// answered records an answer, and whether others are outstanding. It reports
// whether that closed the breaker.
func (b *breaker) answered(now int64, outstanding bool) (closed bool) {
	b.clearOutstanding()
	if outstanding {
		b.outstandingSince = now
	}
	closed = b.open
	b.open = false
	return closed
}

// restart measures the silence of the member from now on.
func (b *breaker) restart(now int64) {
	b.timeouts = 0
	if b.outstandingSince != never {
		b.outstandingSince = now
	}
}

// timedOut records calls that timed out. It reports whether to call trip.
func (b *breaker) timedOut(now int64, calls int) bool {
	if b.outstandingSince == never {
		return false
	}
	b.timeouts += calls
	early := !b.open && b.timeouts >= maxTimeouts && now-b.outstandingSince >= b.patience()
	return early || b.unresponsive(now)
}

// patience returns the least silence that can mean that the member is gone.
func (b *breaker) patience() int64 { return max(b.timeout/4, b.patienceOf(0)) }

// patienceOf returns for how long a call waits that would wait for d.
func (b *breaker) patienceOf(d int64) int64 { return max(d, min(8*b.roundTrip, b.timeout)) }

// unresponsive reports whether an answer has been outstanding for the whole
// timeout.
func (b *breaker) unresponsive(now int64) bool {
	return b.outstandingSince != never && now-b.outstandingSince >= b.timeout
}

// trip opens the breaker. It reports whether it was closed.
func (b *breaker) trip(now int64) bool {
	b.restart(now)
	if b.open {
		return false
	}
	b.open, b.probeAt = true, now+probeInterval
	return true
}

// admit reports whether a call may be sent, and whether it is a probe. The caller
// resets probing when a probe ends.
func (b *breaker) admit(now int64) (admitted, probe bool) {
	if !b.open {
		return true, false
	}
	if b.probing || now < b.probeAt {
		return false, false
	}
	b.probing, b.probeAt = true, now+probeInterval
	return true, true
}
