// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

// record is the metadata that a member gossips about itself. Each exchange of
// state has the records of all members, so a record must be short.
//
//	0   version   1 byte
//	1   state     1
//	2   boot id   8   big endian, like all numbers
//	10  started   8   Unix nanoseconds
//	18  gRPC      2   port; 0: none
//	20  HTTP      2   port; 0: none
//	22  ring      8   digest of the ring configuration
//	30  policy    8   digest of the policy in force
//	38  length    1   of the name
//	39  name      1 to 57
//	    rules     8   since version 2: digest of Envoy's rules in force
//	    flags     1   since version 3: bit 0: gRPC takes TLS
//
// A later version may only append fields, which older versions skip. A change that
// older nodes must not ignore must change the digest of the ring configuration.
type record struct {
	state        State
	boot         Boot
	grpc, http   uint16
	ring, policy ID
	name         string
	rules        ID   // 0: none, or a member of version 1
	tls          bool // false also of members of earlier versions
}

const (
	metaVersion = 3
	metaFixed   = 39                                          // bytes before the name
	metaRules   = 8                                           // bytes after the name
	metaFlags   = 1                                           // bytes after the rules
	metaMax     = metaFixed + MaxName + metaRules + metaFlags // bytes in total
	flagTLS     = 1
)

// encode returns the record as metadata. The name must have a valid length.
func (r *record) encode() []byte {
	b := make([]byte, 0, metaMax)
	b = append(b, metaVersion, byte(r.state))
	b = binary.BigEndian.AppendUint64(b, uint64(r.boot.ID))
	b = binary.BigEndian.AppendUint64(b, uint64(r.boot.Started.UnixNano()))
	b = binary.BigEndian.AppendUint16(b, r.grpc)
	b = binary.BigEndian.AppendUint16(b, r.http)
	b = binary.BigEndian.AppendUint64(b, uint64(r.ring))
	b = binary.BigEndian.AppendUint64(b, uint64(r.policy))
	b = append(b, byte(len(r.name)))
	b = append(b, r.name...)
	b = binary.BigEndian.AppendUint64(b, uint64(r.rules))
	var flags byte
	if r.tls {
		flags |= flagTLS
	}
	return append(b, flags)
}

// decodeRecord parses metadata of any content. It keeps no reference to b.
func decodeRecord(b []byte) (record, error) {
	if len(b) <= metaFixed {
		return record{}, fmt.Errorf("decode metadata: %d bytes are too short", len(b))
	}
	nameEnd := metaFixed + int(b[38])
	end := nameEnd
	if b[0] > 1 {
		end += metaRules
	}
	if b[0] > 2 {
		end += metaFlags
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
		return record{}, errors.New("decode metadata: name, rules or flags are cut off")
	case len(b) > end && b[0] <= metaVersion:
		return record{}, fmt.Errorf("decode metadata: %d bytes too many", len(b)-end)
	case !r.state.valid():
		return record{}, fmt.Errorf("decode metadata: unknown %s", r.state)
	}
	r.name = string(b[metaFixed:nameEnd])
	if end > nameEnd {
		r.rules = ID(binary.BigEndian.Uint64(b[nameEnd:]))
	}
	if end > nameEnd+metaRules {
		r.tls = b[end-1]&flagTLS != 0
	}
	if err := validateName(r.name); err != nil {
		return record{}, fmt.Errorf("decode metadata: name %w", err)
	}
	return r, nil
}

// instant returns a time that can be compared with ==.
func instant(unixNano int64) time.Time { return time.Unix(0, unixNano).UTC() }
