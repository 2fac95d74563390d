// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"encoding/binary"

	"github.com/bucketring/bucketring/cluster/continuity"
)

// appendState appends a transfer without its members.
func appendState(b []byte, t *continuity.StateTransfer) []byte {
	full := uint64(0)
	if t.Full {
		full = 1
	}
	b = binary.AppendVarint(b, int64(t.Partition))
	b = binary.BigEndian.AppendUint64(b, t.Term)
	b = binary.BigEndian.AppendUint64(b, t.Origin)
	b = binary.AppendUvarint(b, t.Transfer)
	b = binary.AppendUvarint(b, full)
	b = binary.AppendUvarint(b, t.After)
	return binary.AppendUvarint(b, t.Through)
}

func (d *decoder) state(t *continuity.StateTransfer) {
	t.Partition = d.partition()
	t.Term, t.Origin, t.Transfer = d.fixed(), d.fixed(), d.uvarint()
	t.Full = d.bit("full")
	t.After, t.Through = d.uvarint(), d.uvarint()
}

// AppendCopyHeader appends the header of a copy, from one member to another.
func AppendCopyHeader(dst []byte, t continuity.StateTransfer) []byte {
	return appendState(appendID(appendID(dst, t.From), t.To), &t)
}

// DecodeCopyHeader decodes what [AppendCopyHeader] appends.
func DecodeCopyHeader(b []byte) (continuity.StateTransfer, error) {
	d := decoder{b: b}
	t := continuity.StateTransfer{From: d.id(), To: d.id()}
	d.state(&t)
	if d.err == nil && len(d.b) > 0 {
		d.fail("copy header", "%d bytes are left", len(d.b))
	}
	return t, d.err
}
