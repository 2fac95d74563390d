// SPDX-License-Identifier: Apache-2.0

// Package continuity decides which member holds a partition, so that no count is
// lost and no two members decide when members come, go, die, stall or are cut
// off. A [Machine] is the protocol of one boot of one member, as a step function:
// an event and a time go in, effects come out. It has no clock, socket, goroutine
// or random number, so the same code runs in a node and in the simulator.
//
// The machine moves no records and answers no calls. Its host does, as the effects
// say: it decides while [Machine.Decides] holds, sends copies, applies them, and
// seals. See the contract below.
//
// # Arrangements and their register
//
// An [Arrangement] says who holds a partition: the owner, which decides, and the
// heir, which has a copy. It has a term; the higher term wins everywhere. Each
// partition has a register for it, which the members of the [Roster] keep by voting
// (CASPaxos: D. Rystsov, "CASPaxos: Replicated State Machines without logs", 2018).
// A candidate asks a majority to promise a ballot, learns what they accepted last,
// computes the next arrangement from that, and asks a majority to accept it. A
// voter never accepts a ballot below one that it promised, so each arrangement is
// replaced by exactly one other. The ring and gossip only name candidates.
//
// These members may propose:
//
//   - the owner: with another heir, with none, or with its successor as the owner
//   - the heir: with itself as the owner, when its last grant to the owner is over,
//     or as soon as members of each majority find the owner's process dead
//   - the member that the ring names: when there has never been an owner; or when
//     owner and heir cannot decide or grant any more. It then proposes the member
//     with the freshest copy
//
// # Leases
//
// The owner asks its heir for a lease every [Options.Heartbeat]. The heir's answer
// is worth [Options.Lease] to the owner, counted from when it asked. The heir
// promises not to take over for as long times 1.02, counted from its answer: clocks
// may differ by 2 %. An owner without a lease decides nothing exactly.
//
// While nothing of the partitions that two members hold together changes, owner and heir
// name them by the number of an earlier heartbeat, see beatList. That renews the same
// leases.
//
// An owner without an heir needs no lease: nobody can take over from it unless it
// is proven dead. But an owner without an heir, and an heir that grants leases,
// must have had a majority in reach within [Options.Contact]. So a member that is
// removed from the roster, which takes longer, is known to hold nothing.
//
// With two members neither has a majority alone: when one is lost, the other is
// fenced until the lost one returns or an operator forgets it.
//
// While a change that the owner proposed may be completed by others, it does not
// extend its lease: the next heir does not know of the grants of the last one.
//
// # Roles
//
//	None         not a holder              relay calls to the owner
//	Backup       the heir                  relay
//	Warming      receives a copy           relay
//	Promoting    asks for votes            hold for some milliseconds, then fall back
//	Active       the owner                 decide
//	Exporting    the owner, sends a copy   decide
//	Sealed       the owner, waits for the  hold for some milliseconds, then relay
//	             votes for its successor
//	Fenced       the owner without lease   fall back and keep a journal
//	Relay        was the owner             relay
//	Reconciling  has a journal to report   relay
//
// # Moves
//
// A planned move has no instant without a copy: offer (the successor accepts only
// if its own ring names it), all records, then changes until few are missing or
// three rounds are over, seal, drain, the last changes, votes, and the announcement.
// The former owner becomes the heir, because it has all records; the new owner then
// copies to the heir that the ring names and changes the heir. Before votes are
// asked for, a seal ends by itself after [Options.SealTimeout]. Afterwards only
// another vote can end it, since the successor may already be the owner. A member that
// has acknowledged a complete copy keeps it until it learns how the move ended, however
// late that is.
//
// # Rosters
//
// The first roster needs the agreement of all members that are expected
// ([Bootstrap]); each agrees to one set. Later, one member at a time joins or
// leaves, by a vote of the majority. A member is removed when it asks for it, is
// dead, or was unreachable for each voter for longer than its leases can last. A
// member that has started votes only after it has the votes of so many others that
// one voter of every past majority is among them, or of all others.
//
// # What holds
//
//   - I1: at most one member decides for a partition at any instant, strictly. It
//     rests on: clocks whose rates differ by less than 2 %, a clock that counts
//     suspension, boots that increase, [Dead] only for dead processes.
//   - A member that is started again while its last boot still runs: the newer boot
//     wins. I1 holds if the roster has other members and a majority has its memory,
//     without the older boot. Who has met the newer boot does not answer the older
//     one, which stops as soon as it hears of it. What it
//     owns is taken over when its lease is over or it is proven dead; what it owned
//     without an heir, and its place in the roster, when it is proven dead or had no
//     majority in reach for [Options.Contact]. It loses what a crash loses, and what
//     it had to report.
//   - I2: a planned move keeps every charge.
//   - I3: when an owner is lost, what its heir had not acknowledged is lost: no
//     charge that waited for the heir, and small ones of at most 100 ms, usually 20
//     ms, since an owner lets all of them wait as soon as the first one has waited for
//     longer ([Machine.Lags]). If the owner comes back, it reports them.
//   - Owner and heir lost within the time that it takes to notice and to copy
//     (about half a second): the partition starts from the freshest copy that any
//     member has kept, or empty, and callers report their open reservations.
//   - Loss of the memory of a majority at once: members that still run keep their
//     roles. Partitions whose holders are all among the lost start anew. Terms may
//     start anew too if all members restart.
//   - [Forget] with Force is an operator's word: if it is wrong, there are two owners.
//
// # Contract of the host
//
//  1. Call Step from one goroutine at a time, [Tick] when [Machine.NextTick] says.
//  2. Act on the effects in the order of their fields. In particular, acknowledge,
//     that is send messages, only after records are applied.
//  3. Ask Decides before a decision and again before its answer. It reads the state
//     of the last step: a host that keeps copies of roles and leases for its hot path
//     must apply [Effects.Changes] and Leases before it sends messages.
//  4. Number the changes of a partition without gaps, from the number of its
//     [Machine.Copy] on, and report each with [Changed] before the next step.
//  5. If [Machine.Waits], answer large charges, and all while [Machine.Lags], only
//     after [Effects.Durable]. Charge repeated ids once.
//  6. Deliver a message whole or not at all.
package continuity
