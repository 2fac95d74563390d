// SPDX-License-Identifier: Apache-2.0

// Package cluster knows who is in the cluster. It runs hashicorp/memberlist and
// turns what gossip says into a [View]: an immutable, numbered set of members
// that changes a bounded time after the cluster did.
//
// A member is a slot, the stable name that the ring hashes, and a boot, one run
// of the process behind that name. Gossip knows the pair as "slot~boot", so a
// restart is a new node to it and never a conflict. Per slot the view names the
// newest live boot. A boot that is gone has left if it said so first, by the
// state [Leaving], and has crashed otherwise; a restart faster than the failure
// detector is a crash and a join.
//
// What it promises:
//   - A crash is in the view of all others after about 3 s, and rarely more than 5 s.
//     A member that is cut off from all others takes up to 12 s to see that: it has
//     nobody to confirm what it suspects.
//   - A split of any length up to a day heals by itself, within 20 s after the
//     network does: members that are gone without having left are asked again,
//     and so are the seeds, whose names are looked up anew each time.
//   - A view is published 300 ms after the last event, and never more than 2 s
//     after the first that is not in it.
//   - Nodes with another cluster label, key or ring configuration never enter a view.
//   - Nothing that this package does with a view, a log line or a subscriber
//     blocks the failure detector.
//
// What it does not: members agree on a view eventually, not at once, and two
// sides of a split each have their own. A view proposes who owns what; it
// confers no authority. Gossip keys admit whole members: whoever has one can
// add, kill or impersonate any member, so peers prove their slot elsewhere (mTLS).
package cluster
