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
//	    rules     8   after the slot, since version 2: digest of Envoy's rules in force
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
	rules        ID // 0: none, or a member of version 1
}

const (
	metaVersion = 2
	metaFixed   = 39                              // bytes before the slot
	metaRules   = 8                               // bytes after it
	metaMax     = metaFixed + MaxSlot + metaRules // bytes in all
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
	b = append(b, r.slot...)
	return binary.BigEndian.AppendUint64(b, uint64(r.rules))
}

// decodeRecord never panics, and keeps no reference to b.
func decodeRecord(b []byte) (record, error) {
	if len(b) <= metaFixed {
		return record{}, fmt.Errorf("decode metadata: %d bytes are too short", len(b))
	}
	slot := metaFixed + int(b[38])
	end := slot
	if b[0] > 1 {
		end += metaRules
	}
	r := record{
		state:  State(b[1]),
		boot:   Boot{ID: ID(binary.BigEndian.Uint64(b[2:])), Started: instant(int64(binary.BigEndian.Uint64(b[10:])))},
		grpc:   binary.BigEndian.Uint16(b[18:]),
		http:   binary.BigEndian.Uint16(b[20:]),
		ring:   ID(binary.BigEndian.Uint64(b[22:])),
		policy: ID(binary.BigEndian.Uint64(b[30:])),
	}
	switch {
	case b[0] < 1:
		return record{}, fmt.Errorf("decode metadata: unknown version %d", b[0])
	case len(b) < end:
		return record{}, errors.New("decode metadata: slot or rules are cut off")
	case len(b) > end && b[0] <= metaVersion:
		return record{}, fmt.Errorf("decode metadata: %d bytes too many", len(b)-end)
	case !r.state.valid():
		return record{}, fmt.Errorf("decode metadata: unknown %s", r.state)
	}
	r.slot = string(b[metaFixed:slot])
	if end > slot {
		r.rules = ID(binary.BigEndian.Uint64(b[slot:]))
	}
	if err := checkSlot(r.slot); err != nil {
		return record{}, fmt.Errorf("decode metadata: slot %w", err)
	}
	return r, nil
}

// instant is a point in time in the one representation that == compares.
func instant(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }
