// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// record is what a member says about itself in gossip. Every byte of it travels
// with every exchange of state, once per member, so it stays short.
//
//	0   version   1 byte
//	1   state     1
//	2   boot id   8   big endian, like all numbers
//	10  started   8   Unix nanoseconds
//	18  gRPC      2   port, 0: none
//	20  HTTP      2   port, 0: none
//	22  ring      8   digest of the ring configuration
//	30  policy    8   digest of the policy in force
//	38  length    1   of the slot
//	39  slot      1 to 57
//
// A later version may append, and nothing else: this one reads what it knows
// and skips the rest. A change that old nodes must not overlook is a change of
// the ring configuration.
type record struct {
	state        State
	boot         Boot
	grpc, http   uint16
	ring, policy ID
	slot         string
}

const (
	metaVersion = 1
	metaFixed   = 39 // bytes before the slot
	metaMax     = 96 // bytes in all
)

// encode wants a slot of valid length.
func (r *record) encode() []byte {
	b := make([]byte, 0, metaMax)
	b = append(b, metaVersion, byte(r.state))
	b = binary.BigEndian.AppendUint64(b, uint64(r.boot.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(r.boot.Started.UnixNano()))
	b = binary.BigEndian.AppendUint16(b, r.grpc)
	b = binary.BigEndian.AppendUint16(b, r.http)
	b = binary.BigEndian.AppendUint64(b, uint64(r.ring))
	b = binary.BigEndian.AppendUint64(b, uint64(r.policy))
	b = append(b, byte(len(r.slot)))
	return append(b, r.slot...)
}

// decodeRecord never panics, and keeps no reference to b.
func decodeRecord(b []byte) (record, error) {
	if len(b) <= metaFixed {
		return record{}, fmt.Errorf("decode metadata: %d bytes are too short", len(b))
	}
	end := metaFixed + int(b[38])
	r := record{
		state:  State(b[1]),
		boot:   Boot{ID: ID(binary.BigEndian.Uint64(b[2:])), Started: instant(int64(binary.BigEndian.Uint64(b[10:])))},
		grpc:   binary.BigEndian.Uint16(b[18:]),
		http:   binary.BigEndian.Uint16(b[20:]),
		ring:   ID(binary.BigEndian.Uint64(b[22:])),
		policy: ID(binary.BigEndian.Uint64(b[30:])),
	}
	switch {
	case b[0] < metaVersion:
		return record{}, fmt.Errorf("decode metadata: unknown version %d", b[0])
	case len(b) < end:
		return record{}, errors.New("decode metadata: slot is cut off")
	case len(b) > end && b[0] == metaVersion:
		return record{}, fmt.Errorf("decode metadata: %d bytes after the slot", len(b)-end)
	case !r.state.valid():
		return record{}, fmt.Errorf("decode metadata: unknown %s", r.state)
	}
	r.slot = string(b[metaFixed:end])
	if err := checkSlot(r.slot); err != nil {
		return record{}, fmt.Errorf("decode metadata: slot %w", err)
	}
	return r, nil
}

// instant is a point in time in the one representation that == compares.
func instant(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }
