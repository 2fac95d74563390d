// SPDX-License-Identifier: Apache-2.0

package continuity

import "time"

// Message is what one member tells another in one step, for all partitions that
// the two have to do with. Messages may be lost, repeated and reordered.
type Message struct {
	From, To ID
	Epoch    uint64 // of the roster of the sender
	Entries  []Entry
	Acks     []Acknowledgement

	// The heartbeats of the partitions that the two hold together.
	Sent     time.Duration // when Beats were sent
	Beats    []Beat
	Answered time.Duration // the Sent of what Grants answer
	Grants   []Grant
}

// GrantsLeases reports whether the message grants leases.
func (m *Message) GrantsLeases() bool {
	for i := range m.Entries {
		if e := &m.Entries[i]; e.Kind == GrantAll && e.Flag {
			return true
		}
	}
	return len(m.Grants) > 0
}

// Beat asks the heir for a lease.
type Beat struct {
	Partition uint32
	Term      uint64
}

// Grant is the heir's answer to a beat. It says what the heir has.
type Grant struct {
	Partition uint32
	Term      uint64
	Copy      Copy
}

// Acknowledgement tells an owner what its heir or successor has.
type Acknowledgement struct {
	Partition uint32
	Term      uint64
	Transfer  uint64 // 0: as the heir
	Copy      Copy
}

// Kind is the kind of an [Entry].
type Kind uint8

// The kinds of entries. The comment names the fields that are used.
const (
	// Between all members.
	Ping     Kind = iota // Sent, Digest, Flag: the sender is not leaving
	Pong                 // Sent, as in the ping
	Known                // Partition, Value, Flag: this arrangement is chosen; its heir has a complete copy
	AskKnown             // the receiver should send all that it knows

	// Between owner and heir, or owner and successor.
	Offer // Partition, Value, Transfer, Flag: asks to receive a copy; as the next owner
	Ack   // only how an [Acknowledgement] is encoded: Partition, Ballot (the term), Copy, Transfer
	Retry // Partition, Transfer: not now; from the owner: the transfer is over
	Ask   // Partition, Ballot: a beat had this term, which is not known here

	// Of the registers of partitions.
	Prepare  // Partition, Ballot, Value (what the candidate knows)
	Promise  // Partition, Ballot, Accepted, Value, Copy, OwnerDead, HeirDead
	Accept   // Partition, Ballot, Value
	Accepted // Partition, Ballot
	Refused  // Partition, Ballot, Accepted (the higher ballot that was promised)

	// Of rosters and vote tables.
	RosterIs       // Roster
	AskBootstrap   // Roster
	AgreeBootstrap // Roster
	RosterPrepare  // Ballot, Roster, Flag: the member that goes asks for it itself
	RosterPromise  // Ballot, Accepted, Roster, Flag: the sender would vote for the roster
	RosterAccept   // Ballot, Roster, Flag: the member that goes asks for it itself
	RosterAccepted // Ballot
	AskVotes       // Digest: the receiver should send its votes if they are others; Flag: the sender is a voter
	Vote           // Partition, Ballot (promised), Accepted, Value
	VotesEnd       // Flag: the sender is a voter; Transfer: 1 if it is settled; Ballot, Accepted, Roster: of the register of the roster

	NewBoot // Value.Owner: a newer boot of a member. If it is the receiver's own: the one before may still run

	// Between owner and heir. Members of versions without these neither send nor answer them.
	BeatAll  // Transfer: number of the heartbeat, Sent, Flag: Beats has its partitions; otherwise an earlier message had
	GrantAll // Transfer and Sent of the BeatAll, Flag: all leases are granted; otherwise the owner should name the partitions
)

// Entry is a part of a message. Kind says which fields are used.
type Entry struct {
	Kind                      Kind
	Flag, OwnerDead, HeirDead bool
	Partition                 int
	Ballot, Accepted          uint64
	Transfer, Digest          uint64
	Sent                      time.Duration // on the clock of the member that gets it back
	Value                     Arrangement
	Copy                      Copy
	Roster                    Roster
}

// StateTransfer describes changes of a partition on their way from the owner to
// its heir or successor: all records that changed after From until To, or, if
// Full, all records. The host attaches the records, as absolute values with the
// number of their last change, which makes it harmless to apply them twice.
type StateTransfer struct {
	From, To       ID
	Partition      int
	Term, Origin   uint64
	Transfer       uint64 // 0: to the heir
	Full           bool
	After, Through uint64 // numbers of changes
}
