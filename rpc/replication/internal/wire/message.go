// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// Frame is one message on a control stream: a message of the protocol, and changes of
// partitions, whose records are in one block.
type Frame struct {
	Message continuity.Message
	// States describe the changes. From and To are those of the message, and Full is
	// false.
	States  []continuity.StateTransfer
	Records []byte
}

// Encoder encodes frames. It keeps memory between frames, and is not safe for
// concurrent use.
type Encoder struct {
	ids  map[continuity.ID]uint64
	list []continuity.ID
	body []byte
}

// AppendFrame appends the encoding of a frame to dst.
func (e *Encoder) AppendFrame(dst []byte, f *Frame) []byte {
	if e.ids == nil {
		e.ids = map[continuity.ID]uint64{}
	}
	clear(e.ids)
	e.list = e.list[:0]
	b := e.body[:0]
	b = e.appendMessage(b, &f.Message)
	b = binary.AppendUvarint(b, uint64(len(f.States)))
	for i := range f.States {
		b = appendState(b, &f.States[i])
	}
	e.body = b
	dst = binary.AppendUvarint(dst, uint64(len(e.list)))
	for _, id := range e.list {
		dst = appendID(dst, id)
	}
	dst = append(dst, b...)
	return append(dst, f.Records...) // the rest
}

// ref returns the number of a member in the list of the frame; 0 is nobody.
func (e *Encoder) ref(id continuity.ID) uint64 {
	if id == (continuity.ID{}) {
		return 0
	}
	n, ok := e.ids[id]
	if !ok {
		e.list = append(e.list, id)
		n = uint64(len(e.list))
		e.ids[id] = n
	}
	return n
}

func (e *Encoder) appendMessage(b []byte, m *continuity.Message) []byte {
	b = binary.AppendUvarint(b, e.ref(m.From))
	b = binary.AppendUvarint(b, e.ref(m.To))
	b = binary.AppendUvarint(b, m.Epoch)
	b = appendDuration(b, m.Sent)
	b = appendDuration(b, m.Answered)
	b = binary.AppendUvarint(b, uint64(len(m.Beats)))
	b = appendBeats(b, m.Beats)
	b = binary.AppendUvarint(b, uint64(len(m.Grants)))
	b = appendGrants(b, m.Grants)
	b = binary.AppendUvarint(b, uint64(len(m.Entries)+len(m.Acks)))
	for i := range m.Entries {
		b = e.appendEntry(b, &m.Entries[i])
	}
	for i := range m.Acks {
		b = appendAck(b, &m.Acks[i])
	}
	return b
}

// appendAck appends an acknowledgement as the entry that it is on the wire.
func appendAck(b []byte, x *continuity.Acknowledgement) []byte {
	fields := uint64(hasPartition | hasBallot | hasCopy)
	if x.Transfer != 0 {
		fields |= hasTransfer
	}
	b = append(b, byte(continuity.Ack))
	b = binary.AppendUvarint(b, fields)
	b = binary.AppendVarint(b, int64(x.Partition))
	b = binary.BigEndian.AppendUint64(b, x.Term)
	if x.Transfer != 0 {
		b = binary.AppendUvarint(b, x.Transfer)
	}
	return appendCopy(b, x.Copy)
}

// A beat is the distance to the partition before, with a bit that says whether the
// term is another one, and then the term.
func appendBeats(b []byte, beats []continuity.Beat) []byte {
	partition, term := uint32(0), uint64(0)
	for _, x := range beats {
		head := zigzag(int64(x.Partition)-int64(partition)) << 1
		if x.Term == term {
			b = binary.AppendUvarint(b, head)
		} else {
			b = binary.AppendUvarint(b, head|1)
			b = binary.BigEndian.AppendUint64(b, x.Term)
		}
		partition, term = x.Partition, x.Term
	}
	return b
}

// The bits of a grant that follow the distance.
const (
	grantTerm     = 1 << iota // the term is another one than before
	grantOrigin               // the origin is another one than before
	grantSeq                  // there is a number of a change
	grantComplete             // the copy is complete
	grantBits     = iota
)

func appendGrants(b []byte, grants []continuity.Grant) []byte {
	partition, term, origin := uint32(0), uint64(0), uint64(0)
	for i := range grants {
		x := &grants[i]
		head := zigzag(int64(x.Partition)-int64(partition)) << grantBits
		if x.Term != term {
			head |= grantTerm
		}
		if x.Copy.Origin != origin {
			head |= grantOrigin
		}
		if x.Copy.Seq != 0 {
			head |= grantSeq
		}
		if x.Copy.Complete {
			head |= grantComplete
		}
		b = binary.AppendUvarint(b, head)
		if head&grantTerm != 0 {
			b = binary.BigEndian.AppendUint64(b, x.Term)
		}
		if head&grantOrigin != 0 {
			b = binary.BigEndian.AppendUint64(b, x.Copy.Origin)
		}
		if head&grantSeq != 0 {
			b = binary.AppendUvarint(b, x.Copy.Seq)
		}
		partition, term, origin = x.Partition, x.Term, x.Copy.Origin
	}
	return b
}

// The fields of an entry that are there. Flags have no bytes of their own.
const (
	hasFlag = 1 << iota
	hasOwnerDead
	hasHeirDead
	hasPartition
	hasBallot
	hasAccepted
	hasTransfer
	hasDigest
	hasSent
	hasValue
	hasCopy
	hasRoster
	allFields = 1<<iota - 1
)

func (e *Encoder) appendEntry(b []byte, x *continuity.Entry) []byte {
	fields := uint64(0)
	set := func(bit uint64, is bool) {
		if is {
			fields |= bit
		}
	}
	set(hasFlag, x.Flag)
	set(hasOwnerDead, x.OwnerDead)
	set(hasHeirDead, x.HeirDead)
	set(hasPartition, x.Partition != 0)
	set(hasBallot, x.Ballot != 0)
	set(hasAccepted, x.Accepted != 0)
	set(hasTransfer, x.Transfer != 0)
	set(hasDigest, x.Digest != 0)
	set(hasSent, x.Sent != 0)
	set(hasValue, x.Value != (continuity.Arrangement{}))
	set(hasCopy, x.Copy != (continuity.Copy{}))
	set(hasRoster, x.Roster.Epoch != 0 || len(x.Roster.Names) > 0)
	b = append(b, byte(x.Kind))
	b = binary.AppendUvarint(b, fields)
	if fields&hasPartition != 0 {
		b = binary.AppendVarint(b, int64(x.Partition))
	}
	if fields&hasBallot != 0 {
		b = binary.BigEndian.AppendUint64(b, x.Ballot)
	}
	if fields&hasAccepted != 0 {
		b = binary.BigEndian.AppendUint64(b, x.Accepted)
	}
	if fields&hasTransfer != 0 {
		b = binary.AppendUvarint(b, x.Transfer)
	}
	if fields&hasDigest != 0 {
		b = binary.BigEndian.AppendUint64(b, x.Digest)
	}
	if fields&hasSent != 0 {
		b = appendDuration(b, x.Sent)
	}
	if fields&hasValue != 0 {
		b = e.appendArrangement(b, &x.Value)
	}
	if fields&hasCopy != 0 {
		b = appendCopy(b, x.Copy)
	}
	if fields&hasRoster != 0 {
		b = appendRoster(b, x.Roster)
	}
	return b
}

func (e *Encoder) appendArrangement(b []byte, a *continuity.Arrangement) []byte {
	b = binary.BigEndian.AppendUint64(b, a.Term)
	b = binary.BigEndian.AppendUint64(b, a.Prev)
	b = binary.BigEndian.AppendUint64(b, a.Origin)
	b = binary.AppendUvarint(b, e.ref(a.Owner))
	b = binary.AppendUvarint(b, e.ref(a.Heir))
	return appendCopy(b, a.Base)
}

func appendCopy(b []byte, c continuity.Copy) []byte {
	complete := uint64(0)
	if c.Complete {
		complete = 1
	}
	b = binary.AppendUvarint(b, complete)
	b = binary.BigEndian.AppendUint64(b, c.Origin)
	return binary.AppendUvarint(b, c.Seq)
}

func appendRoster(b []byte, r continuity.Roster) []byte {
	b = binary.AppendUvarint(b, r.Epoch)
	b = binary.AppendUvarint(b, uint64(len(r.Names)))
	for _, name := range r.Names {
		b = appendString(b, name)
	}
	return b
}

func appendID(b []byte, id continuity.ID) []byte {
	return binary.BigEndian.AppendUint64(appendString(b, id.Name), id.Boot)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func appendDuration(b []byte, d time.Duration) []byte { return binary.AppendVarint(b, int64(d)) }

// zigzag maps small numbers of either sign to small ones.
func zigzag(n int64) uint64 { return uint64(n<<1) ^ uint64(n>>63) }

func unzigzag(n uint64) int64 { return int64(n>>1) ^ -int64(n&1) }
