// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// MaxEntries bounds the entries of a frame: some for each partition. An entry has up to a
// hundred times as many bytes in memory.
const MaxEntries = 1 << 17

const (
	maxName      = 255
	maxPartition = math.MaxInt32
)

// decoder reads fields. After the first error it returns zeros.
type decoder struct {
	b   []byte
	ids []continuity.ID
	err error
}

// DecodeFrame decodes a frame into f, whose slices it reuses. It keeps Records as a
// part of b, and everything else is copied.
func DecodeFrame(b []byte, f *Frame) error {
	d := decoder{b: b}
	d.ids = make([]continuity.ID, d.count("members", 9))
	for i := range d.ids {
		d.ids[i] = d.id()
	}
	d.message(&f.Message)
	n := d.count("states", 21)
	f.States = slices.Grow(f.States[:0], n)[:n]
	for i := range f.States {
		t := &f.States[i]
		*t = continuity.StateTransfer{From: f.Message.From, To: f.Message.To}
		d.state(t)
		if t.Full {
			d.fail("state", "a frame has no complete copies")
		}
	}
	f.Records = d.b
	if d.err != nil {
		*f = Frame{}
	}
	return d.err
}

func (d *decoder) fail(field, format string, args ...any) {
	if d.err == nil {
		d.err = fmt.Errorf("decode %s: "+format, append([]any{field}, args...)...)
		d.b = nil
	}
}

func (d *decoder) message(m *continuity.Message) {
	m.From, m.To = d.ref(), d.ref()
	m.Epoch = d.uvarint()
	m.Sent, m.Answered = d.duration(), d.duration()
	n := d.count("beats", 1)
	m.Beats = slices.Grow(m.Beats[:0], n)[:n]
	d.beats(m.Beats)
	n = d.count("grants", 1)
	m.Grants = slices.Grow(m.Grants[:0], n)[:n]
	d.grants(m.Grants)
	n = d.count("entries", 2)
	if n > MaxEntries {
		d.fail("entries", "must be at most %d, got %d", MaxEntries, n)
		n = 0
	}
	m.Entries, m.Acks = m.Entries[:0], m.Acks[:0]
	for range n {
		if len(d.b) > 0 && d.b[0] == byte(continuity.Ack) {
			d.ack(m)
		} else {
			m.Entries = append(m.Entries, continuity.Entry{})
			d.entry(&m.Entries[len(m.Entries)-1])
		}
		if d.err != nil {
			return
		}
	}
}

// ack decodes an entry that is an acknowledgement.
func (d *decoder) ack(m *continuity.Message) {
	var x continuity.Entry
	d.entry(&x)
	m.Acks = append(m.Acks, continuity.Acknowledgement{Partition: uint32(x.Partition), Term: x.Ballot, Transfer: x.Transfer, Copy: x.Copy})
}

func (d *decoder) beats(beats []continuity.Beat) {
	partition, term := uint32(0), uint64(0)
	for i := range beats {
		head := d.uvarint()
		partition = d.next(partition, unzigzag(head>>1))
		if head&1 != 0 {
			term = d.fixed()
		}
		beats[i] = continuity.Beat{Partition: partition, Term: term}
		if d.err != nil {
			return
		}
	}
}

func (d *decoder) grants(grants []continuity.Grant) {
	partition, term, origin := uint32(0), uint64(0), uint64(0)
	for i := range grants {
		head := d.uvarint()
		partition = d.next(partition, unzigzag(head>>grantBits))
		if head&grantTerm != 0 {
			term = d.fixed()
		}
		if head&grantOrigin != 0 {
			origin = d.fixed()
		}
		seq := uint64(0)
		if head&grantSeq != 0 {
			seq = d.uvarint()
		}
		grants[i] = continuity.Grant{
			Partition: partition, Term: term, Copy: continuity.Copy{Origin: origin, Seq: seq, Complete: head&grantComplete != 0},
		}
		if d.err != nil {
			return
		}
	}
}

// next returns the partition at a distance.
func (d *decoder) next(partition uint32, distance int64) uint32 {
	n := int64(partition) + distance
	if n < 0 || n > maxPartition {
		d.fail("partition", "must be 0 to %d, got %d", maxPartition, n)
		return 0
	}
	return uint32(n)
}

func (d *decoder) entry(x *continuity.Entry) {
	*x = continuity.Entry{Kind: continuity.Kind(d.byte())}
	fields := d.uvarint()
	if fields > allFields {
		d.fail("entry", "fields are %#x, want at most %#x", fields, allFields)
		return
	}
	has := func(bit uint64) bool { return fields&bit != 0 }
	x.Flag, x.OwnerDead, x.HeirDead = has(hasFlag), has(hasOwnerDead), has(hasHeirDead)
	if has(hasPartition) {
		x.Partition = d.partition()
	}
	if has(hasBallot) {
		x.Ballot = d.fixed()
	}
	if has(hasAccepted) {
		x.Accepted = d.fixed()
	}
	if has(hasTransfer) {
		x.Transfer = d.uvarint()
	}
	if has(hasDigest) {
		x.Digest = d.fixed()
	}
	if has(hasSent) {
		x.Sent = d.duration()
	}
	if has(hasValue) {
		x.Value = continuity.Arrangement{
			Term: d.fixed(), Prev: d.fixed(), Origin: d.fixed(), Owner: d.ref(), Heir: d.ref(), Base: d.copy(),
		}
	}
	if has(hasCopy) {
		x.Copy = d.copy()
	}
	if has(hasRoster) {
		x.Roster = d.roster()
	}
}

func (d *decoder) copy() continuity.Copy {
	return continuity.Copy{Complete: d.bit("copy"), Origin: d.fixed(), Seq: d.uvarint()}
}

func (d *decoder) roster() continuity.Roster {
	r := continuity.Roster{Epoch: d.uvarint()}
	n := d.count("names", 1)
	for range n {
		name := d.string()
		if k := len(r.Names); k > 0 && r.Names[k-1] >= name {
			d.fail("roster", "names must be sorted")
		}
		if d.err != nil {
			return continuity.Roster{}
		}
		r.Names = append(r.Names, name)
	}
	return r
}

func (d *decoder) id() continuity.ID { return continuity.ID{Name: d.string(), Boot: d.fixed()} }

func (d *decoder) ref() continuity.ID {
	n := d.uvarint()
	switch {
	case n == 0:
		return continuity.ID{}
	case n > uint64(len(d.ids)):
		d.fail("member", "number %d of %d", n, len(d.ids))
		return continuity.ID{}
	}
	return d.ids[n-1]
}

// count reads how many things follow, each of which has at least size bytes.
func (d *decoder) count(field string, size int) int {
	n := d.uvarint()
	if n > uint64(len(d.b)/size) {
		d.fail(field, "%d of them cannot be in %d bytes", n, len(d.b))
		return 0
	}
	return int(n)
}

func (d *decoder) partition() int {
	n, size := binary.Varint(d.b)
	if size <= 0 || n < 0 || n > maxPartition {
		d.fail("partition", "must be a number from 0 to %d", maxPartition)
		return 0
	}
	d.b = d.b[size:]
	return int(n)
}

func (d *decoder) uvarint() uint64 {
	if len(d.b) > 0 && d.b[0] < 0x80 {
		n := d.b[0]
		d.b = d.b[1:]
		return uint64(n)
	}
	n, size := binary.Uvarint(d.b)
	if size <= 0 {
		d.fail("number", "ends early or is too large")
		return 0
	}
	d.b = d.b[size:]
	return n
}

func (d *decoder) duration() time.Duration {
	n, size := binary.Varint(d.b)
	if size <= 0 {
		d.fail("duration", "ends early or is too large")
		return 0
	}
	d.b = d.b[size:]
	return time.Duration(n)
}

func (d *decoder) fixed() uint64 {
	if len(d.b) < 8 {
		d.fail("number", "ends early")
		return 0
	}
	n := binary.BigEndian.Uint64(d.b)
	d.b = d.b[8:]
	return n
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("byte", "is missing")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

// bit reads a number that is 0 or 1.
func (d *decoder) bit(field string) bool {
	c := d.byte()
	if c > 1 {
		d.fail(field, "must be 0 or 1, got %d", c)
	}
	return c == 1
}

func (d *decoder) string() string {
	n := d.count("string", 1)
	if n > maxName {
		d.fail("string", "must have at most %d bytes, got %d", maxName, n)
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}
