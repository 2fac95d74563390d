// SPDX-License-Identifier: Apache-2.0

// Package fallback transforms a policy for decisions without the owner of a key. The
// [limiter.Unreachable] mode of each limit says how:
//
//   - [limiter.Share]: a member admits its share, which is amount and burst divided by
//     the size of the roster and rounded down. All members together, even if none
//     reaches another, admit no more than the limit. A share of 0 is closed. A cost
//     above the share but within the limit is denied with [limiter.OwnerUnreachable].
//   - [limiter.Closed]: every cost above 0 is denied with [limiter.OwnerUnreachable]
//     and a retry time of 1 s.
//   - [limiter.Open]: the limit is in shadow mode. It counts, but never denies.
//
// A limit of 0 always denies and a limit in shadow mode never does, so both stay as
// they are.
//
// The package has no counters of its own. A separate engine with the catalog given to
// [New] decides by the transformed plans. Its usage is kept by dimension and name of a
// limit, so it survives changes of the policy and the roster. The package reads no
// clock and does no I/O.
package fallback
