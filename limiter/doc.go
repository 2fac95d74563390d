// SPDX-License-Identifier: Apache-2.0

// Package limiter decides. It never dials, sleeps, logs, reads a clock or
// starts a goroutine: callers pass the time, and an answer depends on nothing
// but the calls that came before it.
//
// An [Engine] keeps the state of every key in 4,096 partitions, chosen by the
// hash of the key's root, each behind its own lock. All limits of all levels of
// a key are decided and charged in one critical section: a call is admitted by
// every limit or charged to none.
//
// What each algorithm promises:
//
//   - [TokenBucket] never admits more than burst + rate x elapsed. Its level is
//     kept in units x window nanoseconds, so no fraction of a unit is ever lost.
//   - [SlidingWindow] admits at most the limit in every half-open interval of
//     one window; it releases up to window/64 late.
//   - [FixedWindow] admits at most the limit in each calendar window.
//   - [Concurrency] never has more live leases than the limit.
//
// State is what was used; what remains is derived. A changed limit therefore
// keeps usage, and a reservation that settles at its real usage A leaves
// exactly the state that charging A at reserve time would have left.
//
// Beside limits there are counters, for whoever has limits of its own: [Engine.Count]
// adds hits up in windows of the UTC clock, whatever the limit that comes with
// the call, and says whether it is exceeded.
//
// Everything is an integer: requests, tokens, millionths of a dollar,
// nanoseconds. A number that would overflow is refused, never wrapped.
package limiter
