// SPDX-License-Identifier: Apache-2.0

// Package peer makes one limiter of several nodes: whichever member is asked,
// the one that owns the key decides.
//
// A [Router] answers the RateLimiter service for the front doors. It hashes the
// key to a partition and loads one immutable view of the cluster. If this member
// owns the partition, the local service decides, and nothing else is spent. If
// not, the call goes to the owner with the next batch. The owner decides, or
// redirects, which is followed once; it never forwards.
//
// When the owner can't be reached in time, the fallback service decides, and the
// answer says so in its route. What the fallback admits is told to the owner
// when it can be reached again, with the id of the call: the call is charged
// there once, however often and in whatever way it was tried. An owner that
// decides and cannot say so in time has charged the call although the fallback
// may deny it: a reservation is then taken back, unless its caller has been told
// of it by another way since, and the charge of a check stays. Settles and
// cancels wait in the same outbox, behind the reserve that they belong to. The
// outbox is in memory: what a member has not told the owners when it crashes is
// lost.
//
// [Router.Count] does the same for counters, whose limits come with the call. The
// other members' word is taken for them, so the public API has none.
//
// A partition that moves starts empty at its new owner, for now. The old owner
// keeps what it has, and counts on if the partition comes back.
//
// Members show each other that they have the cluster key before they exchange
// calls. That keeps strangers out; it does not hide or sign what follows, which
// is what TLS is for.
package peer
