// SPDX-License-Identifier: Apache-2.0

// Package line keeps the calls of one root that wait until a limit admits them, and says
// which of them to try next.
//
// A [Line] is pure: it reads no clock, starts no goroutine, and calls no engine. Its owner
// asks the engine, under a lock of its own, and tells the line the result:
//
//	place, refusal := l.Arrive(now, call, &d) // the engine denied the call: d
//	for {
//		turn := l.Next(now)
//		// None: sleep until turn.At, or until something arrives, leaves or is freed.
//		// Try: ask the engine again, then l.Admitted(now, turn.ID) or l.Denied(now, turn.ID, &d).
//		// Expired: answer the caller; it has left the line.
//	}
//
// # What a line promises
//
// A call waits at one limit: at the one that would let it through last. While it waits there,
// it does not hold up others at other limits. Once its limit has room, the call is tried, and
// if another limit denies it, it waits there.
//
//   - Nobody overtakes: a call that takes from a limit goes behind those of its class or of a
//     more urgent one that wait there, see Order. Who arrives while others wait must ask
//     [Line.Blocks] first, even if the limit has room for it.
//   - No starvation of large calls: the first that waits at a limit and does not fit holds back
//     those behind it, however small they are.
//   - Work is conserved: nobody waits while it fits and none ahead of it needs the same limit.
//     The time of each next try is the one that the engine named. Capacity that comes back
//     earlier must be reported, see [Line.Freed] and [limiter.Engine.NextExpiry].
//   - Bounded: at a limit wait at most [limiter.Queue].MaxDepth calls, and in a line at most
//     [Bounds].Depth, of one key at most [Bounds].KeyDepth. A key that has as many calls there as
//     places are free gets no more (Choudhury and Hahne, Dynamic Queue Length Thresholds, 1998),
//     so that one key takes at most half of the places, and there is one left for another. This
//     does not count for a limit of the key itself.
//   - Honest: a call whose wait cannot end in time is refused when it arrives, with an estimate
//     of that time, see Estimates.
//
// # Order
//
// At each limit, classes go first: interactive, standard, batch. But a class of which somebody
// waits, and has waited for [Bounds].Age, and of which nobody was let through at the limit for
// as long, goes first with one call. So each class gets at least one call through in the time
// [Bounds].Age and what this call needs to fit. A call never holds back a more urgent one that
// leaves less headroom: that capacity is not for it.
//
// Within a class, the keys are served by deficit round robin (Shreedhar and Varghese, Efficient
// Fair Queueing using Deficit Round Robin, 1996), weighted by [Call].Weight, with what calls
// cost of the limit as their length. The quantum is as small as a weight can express, and rounds
// in which nobody is served take no time: what is kept of a call is the number of the round in
// which its key has saved its cost. So a key that waits with one call is not behind another's
// two hundred, and a key that waits with a large one is not behind a large quantum. A key whose
// last call has gone keeps no deficit.
//
// Within a key, calls go in the order in which they arrived, also if they were asked again at
// another owner.
//
// # Estimates
//
// The estimate of a wait is that of the engine with the costs of those ahead: by class and
// round as of now, without those who arrive later and overtake by their class or key. For a
// token bucket or a fixed window in which no other call waits elsewhere it is exact, up to a
// nanosecond per call. For a sliding window it is the least time that those ahead need. For a concurrency
// limit nothing tells when a slot is free: the estimate is 0 and refuses nobody.
//
// # Cost
//
// Operations take O(log n) for n that wait, but a call that arrived before k calls of its key
// takes O(k) to find its place.
package line
