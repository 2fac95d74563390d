// SPDX-License-Identifier: Apache-2.0

package continuity

import "time"

// Event is an input of [Machine.Step].
type Event interface{ event() }

// MemberState is the state of a member in a [View].
type MemberState uint8

// The states of a member.
const (
	Joining MemberState = iota // may get votes, not partitions
	Serving
	Leaving // hands over its partitions
)

// Member is a member in a [View].
type Member struct {
	ID
	State MemberState
}

// Targets are the owner and the heir that the ring names for each partition, "" for
// nobody. They only name candidates.
type Targets interface {
	Owner(partition int) string
	Heir(partition int) string
}

type (
	// View is what gossip shows: the members, sorted by name, with the newest boot
	// of each, and the ring of those that serve. It may be late or wrong.
	View struct {
		Members []Member
		Targets Targets
	}

	// Bootstrap says that a new cluster is expected to consist of these members,
	// sorted by name. It has no effect once there is a roster. Terms start above
	// Round: with the time in seconds since 1970, they also increase if all members
	// have lost their memory. Another set replaces the first one: an operator may
	// name it if that one cannot come together, and must do so at all members.
	Bootstrap struct {
		Names []string
		Round uint32
	}

	// Received is a message of an authenticated member.
	Received struct{ Message Message }

	// StateReceived are complete [StateTransfer]s of an authenticated member, with their
	// records. The host applies those that [Effects.Apply] lists.
	StateReceived []StateTransfer

	// Tick is due when [Machine.NextTick] says.
	Tick struct{}

	// Changed says that the owner's state of partitions has changed.
	Changed []Progress

	// Drained answers [Effects.Seal]: the host decides nothing more for the
	// partition, and Seq is the number of the last change.
	Drained struct {
		Partition int
		Seq       uint64
	}

	// Dead says that this process does not exist any more: connections to both of
	// its ports were refused, or a newer boot of the member answers at its address. It
	// says nothing of other boots of the member.
	Dead struct{ ID ID }

	// Restored says that the host has read a copy from disk. It comes before the
	// first view.
	Restored struct {
		Partition int
		Copy      Copy
	}

	// Journaled says that the host has admitted charges in fallback and has to
	// report them to the owner.
	Journaled struct{ Partition int }

	// Repaid says that the owner has all that [Effects.Repay] asked to report, and
	// that nothing was journaled since.
	Repaid struct{ Partition int }

	// Forget is an operator's word that a member will not come back. This member asks
	// for its removal from the roster until a majority has voted for that, which it does
	// once the member is proven dead or was unreachable for [Options.ForgetAfter], or until
	// the member answers. With Force it needs no votes, for clusters that have lost their
	// majority: if the member or the majority does run somewhere, there may be two owners.
	Forget struct {
		Name  string
		Force bool
	}
)

// Progress says that Seq is the number of the last change of a partition. Urgent changes are
// sent at once.
type Progress struct {
	Partition int
	Seq       uint64
	Urgent    bool
}

func (View) event()          {}
func (Bootstrap) event()     {}
func (Received) event()      {}
func (StateReceived) event() {}
func (Tick) event()          {}
func (Changed) event()       {}
func (Drained) event()       {}
func (Dead) event()          {}
func (Restored) event()      {}
func (Journaled) event()     {}
func (Repaid) event()        {}
func (Forget) event()        {}

// Effects are what the host has to do, in the order of the fields: a message is
// sent only after the records have been applied. Apply, Leases, Durable and States are valid
// until the next step.
type Effects struct {
	// Repay lists what has to be reported to owners.
	Repay []Repay
	// Drop lists the copies that are not needed any more.
	Drop []int
	// Apply lists the transfers of the StateReceived whose records are to be applied, in
	// their order; if a transfer is full, they replace all others.
	Apply []Application
	// Changes has an entry for each partition whose role, term, owner or heir has
	// changed.
	Changes []Change
	// Leases has an entry for each partition for which the answer of
	// [Machine.Decides] has changed: it is true until then. It may be earlier than before.
	Leases []Lease
	// Seal lists the partitions for which the host stops deciding, waits for
	// decisions in progress, and answers with [Drained].
	Seal []int
	// Durable says which changes the heir has.
	Durable []Durable
	// Lost lists partitions whose holders are all gone and of which no copy with
	// the latest changes was found.
	Lost []int
	// States are to be filled with records and sent.
	States []StateTransfer
	// Messages are to be sent.
	Messages []Message
	// Left says that this member, which was shown as leaving, is not in the roster, holds
	// nothing and may stop. It comes again if the others have added the member meanwhile.
	Left bool
}

// Application says that the records of a transfer are to be applied.
type Application struct {
	Transfer int  // its index
	Before   Copy // what the host had before
}

// Change is what a router has to know of a partition.
type Change struct {
	Partition int
	Role      Role
	Current   Arrangement
}

// Lease says until when, on the clock of the events, this member decides for a
// partition if no other Lease of it follows. The time is in the past, and may be
// negative, if it does not.
type Lease struct {
	Partition int
	Until     time.Duration
}

// Durable says that the heir has all changes of a partition until Seq.
type Durable struct {
	Partition int
	Seq       uint64
}

// Repay asks the host to report charges to the owner: those of its journal, and
// those of its own copy after change After that were answered. Callers without an
// answer ask again. The owner ignores ids that it knows and adds the others, even
// above the limit. A host that did not answer them itself, or has forgotten them since
// another member had acknowledged them, cannot report them.
type Repay struct {
	Partition int
	Owner     ID
	FromCopy  bool
	After     uint64
	// Uncertain says that this member has missed who took over from it, so that After is
	// only what its heir had acknowledged: the owner may have later changes, too. Only
	// what it recognizes by its id can be reported without charging it twice.
	Uncertain bool
}
