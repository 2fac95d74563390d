// SPDX-License-Identifier: Apache-2.0

// Package limiter is the decision engine of a bucketring node. Its API serves
// the packages of this module and may change with them: programs outside of
// this module use rpc/client.
//
// The package never dials, sleeps, logs, reads a clock or starts a goroutine.
// Callers pass the time, and a decision depends only on the calls made before it.
//
// An [Engine] keeps the state of every key in [Partitions] partitions, each
// behind its own lock. The hash of a key's root chooses the partition. All
// limits of all levels of a key are decided and charged in one critical section:
// a call is charged to all of its limits or to none.
//
// What each algorithm promises:
//
//   - [TokenBucket] never admits more than burst + rate x elapsed. Its level is
//     kept in units x window nanoseconds, so no fraction of a unit is ever lost.
//   - [SlidingWindow] admits at most the limit in every half-open interval of
//     one window. It releases usage up to window/64 late.
//   - [FixedWindow] admits at most the limit in each calendar window.
//   - [Concurrency] never has more live leases than the limit.
//
// The engine stores what was used and derives what remains. A changed limit
// therefore keeps its usage, and a reservation that settles at its real usage A
// leaves exactly the state that charging A at reserve time would have left.
//
// [Engine.Lend] charges a part of the limits of a key, a slice, from which another process may
// decide calls, and [Engine.Return] charges what was spent of it instead. From a slice for
// reserves it also makes reservations: what they cost says its [Tariff], and the engine makes
// those its own that have not ended when the slice is returned. Nothing more is admitted than
// without slices.
//
// [Engine.Count] serves callers that bring their own limits. It adds hits to a
// counter for a window of the UTC clock and compares the sum with the limit that
// the call names.
//
// All quantities are integers: requests, tokens, millionths of a US dollar,
// nanoseconds. A number that would overflow is rejected with an error.
package limiter
