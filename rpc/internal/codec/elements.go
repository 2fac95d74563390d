// SPDX-License-Identifier: Apache-2.0

package codec

import "google.golang.org/protobuf/encoding/protowire"

// Elements returns how many strings, messages and elements of lists an encoded message has
// at its top level: of two bytes, an empty one becomes more than a hundred when it is
// decoded. If wrapped, the elements of a pb.Batch in an encoded pb.PeerMessage are counted,
// too. What follows a malformed field is not counted.
//
// It allocates nothing, and does not look into elements. Safe for concurrent use.
func Elements(message []byte, wrapped bool) (n int) {
	for len(message) > 0 {
		number, kind, size := protowire.ConsumeTag(message)
		if size < 0 {
			return n
		}
		message = message[size:]
		if size = protowire.ConsumeFieldValue(number, kind, message); size < 0 {
			return n
		}
		if kind == protowire.BytesType {
			n++
			if wrapped && number == peerBatch {
				batch, _ := protowire.ConsumeBytes(message)
				n += Elements(batch, false)
			}
		}
		message = message[size:]
	}
	return n
}
