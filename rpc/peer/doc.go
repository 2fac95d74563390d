// SPDX-License-Identifier: Apache-2.0

// Package peer makes one limiter of several nodes: whichever member is asked, the
// owner of the key decides.
//
// A [Router] answers the RateLimiter service. [Router.Do] is its only way in. It
// loads one immutable routing table per request. If this member owns the partition
// of the key, the local service decides, and nothing else is spent. If not, the call
// is forwarded to the owner with the next batch. The owner decides, or redirects
// once; it never forwards.
//
// If the owner does not answer in time, the fallback service decides, and the route
// of the answer says so. The outbox replays to the owner what the fallback admitted,
// with the request id of the call, so the owner charges it once, however often it is
// sent. An owner may have decided a call whose answer did not arrive. If the fallback
// then denies the call, a reservation is withdrawn at the owner, unless another
// attempt was answered; the charge of a check stays. Settles and cancels wait in the
// same outbox, behind the reserve that they belong to. The outbox is in memory: a
// member that crashes loses what it has not delivered.
//
// [Router.Count] does the same for counters, whose limits come with the call. Members
// trust each other's limits, so the public API has no counters.
//
// For now, a partition that moves starts empty at its new owner. The old owner keeps
// its state, and continues with it if the partition comes back.
//
// Members prove to each other that they have the cluster key before they exchange
// calls. That keeps strangers out. It does not encrypt or sign what follows; TLS does.
package peer
