// SPDX-License-Identifier: Apache-2.0

// Package ownership says what this member is for each partition, and at which
// term. It is a step function: an event goes in, a new immutable [State] and
// its effects come out. It has no clock, socket, goroutine, lock or random
// number inside, so the same code runs in a node and in a simulation.
//
// # Roles
//
//	None     not mine, and was not in this run: redirects to the owner
//	Active   mine: decides
//	Relay    was mine and moved: redirects to the owner. What the member had
//	         counted is still here, and counts again if the partition comes back
//	Fenced   the ring names my slot, but another boot holds it: decides nothing
//
// For now the ring alone names owners. A partition that moves starts empty at
// its new owner. Handing state over adds roles between these: a backup that
// follows the owner, an owner to be that waits for the state (warming), one that
// asks for votes after a crash (promoting), an owner that is being copied
// (exporting) or has stopped for the last change (sealed), and a former one that
// hands in what it decided when it was cut off (reconciling).
//
// # Terms
//
// A term numbers one member's time as the owner of one partition. The high 32
// bits are a round, the low 32 bits a tag of the boot that took it:
//
//   - A member that becomes active takes the round above the highest that it has
//     heard of, with its own tag.
//   - One that is not active adopts each higher term that it hears of.
//   - One that is active and hears of a higher term takes the round above that:
//     the ring names it, so it is the other one that is out of date.
//
// What holds, in whatever order views and messages arrive, get lost or are
// repeated, through crashes and splits:
//
//   - A term that a member knows never decreases during one boot.
//   - No two boots are ever active in a partition at the same term, unless their
//     tags are equal: one chance in 2^32 for each pair. No agreement is needed
//     for that, because nobody takes a term with another's tag. It takes the tag
//     from the boot, not from an index in the ring: members with different views
//     give the same index to different members.
//   - A term that is taken is above all terms that any message, directly or
//     through others, has brought to the member that takes it.
//   - Two boots are active in a partition at once only as long as they have
//     different tables, or hold the same slot and the older one does not know.
//   - When all have the same table and each has told the owner what it knows, the
//     owner has the highest term of all, and whoever hears from it knows it.
//
// What does not hold: that at any instant one member at most is active, and that
// the term of a new owner is above that of the one before. An owner cut off from
// the rest goes on deciding, and a new owner that nobody told of the old term
// begins below it, until the first message that knows better. Both need
// members that agree, which is what a register of terms kept by a majority, and
// leases, are for.
//
// Rounds do not run out: one change of owner per second uses them up in 136
// years. The last round is not adopted from anybody, so a damaged message can't
// take an owner to where it has no term above.
package ownership
