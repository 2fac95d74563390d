// SPDX-License-Identifier: Apache-2.0

// Package ownership keeps this member's role and term for each partition. It is
// a step function: an event goes in, a new immutable [State] and its effects
// come out. It has no clock, socket, goroutine, lock or random number, so the
// same code runs in a node and in a simulation.
//
// # Roles
//
//	None     this member does not own the partition and has not owned it in this
//	         run: redirect to the owner
//	Active   this member owns the partition and decides
//	Relay    this member owned the partition before: redirect to the owner. Its
//	         counts are still in memory and apply again if the partition returns
//	Fenced   the ring names this member, but a newer boot has its name: decide
//	         nothing
//
// For now the ring alone names owners, and a partition that moves starts empty
// at its new owner. Handing state over will add roles between these: a backup
// that follows the owner, a new owner that waits for the state (warming), one
// that asks for votes after a crash (promoting), an owner that is being copied
// (exporting) or has stopped for the last change (sealed), and a former owner
// that reports what it decided while it was cut off (reconciling).
//
// # Terms
//
// A term numbers one member's time as the owner of one partition. Its high 32
// bits are a round, its low 32 bits the tag of the boot that took the term:
//
//   - A member that becomes active takes the round above the highest one it
//     knows, with its own tag.
//   - A member that is not active adopts each higher term that it receives.
//   - A member that is active and receives a higher term takes the round above
//     it: the ring names this member, so the other one is out of date.
//
// The following holds in whatever order views and messages arrive, are lost or
// are repeated, and through crashes and splits:
//
//   - The term that a member knows never decreases during one boot.
//   - No two boots are active in a partition at the same term unless their tags
//     are equal, which has probability 2^-32 for each pair. This needs no
//     agreement, because a boot only takes terms with its own tag. The tag comes
//     from the boot and not from the index in the ring, because members with
//     different views give the same index to different members.
//   - A term that a member takes is above all terms that any message, directly
//     or through others, has brought to that member.
//   - Two boots are active in a partition at once only while they have different
//     tables, or while they have the same name and the older one does not know
//     of the newer one.
//   - When all members have the same table and each has told the owner the terms
//     it knows, the owner has the highest term, and every member that receives a
//     message from the owner knows that term.
//
// Two things do not hold: that at most one member is active at any instant, and
// that the term of a new owner is above that of its predecessor. An owner that
// is cut off goes on deciding, and a new owner that has received no message with
// the old term starts below it until the first one arrives. Both need agreement
// between members: a register of terms kept by a majority, and leases.
//
// One change of owner per second would use up all rounds in 136 years. The last
// round is not adopted from messages, so a damaged message cannot leave an owner
// without a higher term.
package ownership
