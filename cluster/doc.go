// SPDX-License-Identifier: Apache-2.0

// Package cluster knows the members of the cluster. It runs hashicorp/memberlist
// and turns gossip into a [View]: an immutable, numbered set of members that
// follows changes of the cluster within a bounded time.
//
// A member has a name, which is stable and which the ring hashes, and a boot: one
// run of the process with that name. Gossip knows the pair as "name~boot", so a
// restarted member is a new gossip node and never conflicts with its earlier
// boot. The view has the newest live boot of each name. A boot that departed has
// left if its last state was [Leaving], and has crashed otherwise. A restart
// faster than the failure detector appears as a crash and a join.
//
// It promises:
//   - All other members see a crash after about 3 s, and rarely after more than 5 s.
//     A member that is cut off from all others takes up to 12 s to see that, because
//     no other member can confirm its suspicions.
//   - A split of up to 24 hours heals within 20 s after the network does: members
//     that crashed, and seeds, are contacted again, and host names of seeds are
//     resolved each time.
//   - A view is published 300 ms after the last event, and at most 2 s after the
//     first event that is not in a view yet.
//   - Nodes with another cluster label, key or ring configuration never enter a view.
//   - Subscribers, logging and the computation of views never block the failure
//     detector.
//
// It does not promise that members agree at once: they agree eventually, and the
// two sides of a split have different views. A view proposes owners and gives no
// authority to decide. A gossip key is a credential of the whole cluster: anyone
// who has it can add, remove or impersonate members, so peers must authenticate
// each other by name elsewhere (mTLS).
package cluster
