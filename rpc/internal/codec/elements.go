// SPDX-License-Identifier: Apache-2.0

package codec

import "google.golang.org/protobuf/encoding/protowire"

// Elements returns how many strings, messages and elements of lists an encoded message has
// at its top level: of two bytes, an empty one becomes more than a hundred when it is
// decoded. If wrapped, the elements of a pb.Batch in an encoded pb.PeerMessage are counted,
// too, and always those of elements of more than 4 KiB, such as the return of a slice. What
// follows a malformed field is not counted.
//
// It allocates nothing. Safe for concurrent use.
func Elements(message []byte, wrapped bool) (n int) { return elements(message, wrapped, 0) }

// Elements of more than largeElement bytes are looked into, down to deepest levels: those of
// an item, its return and what is kept.
const (
	largeElement = 4 << 10
	deepest      = 3
)

func elements(message []byte, wrapped bool, level int) (n int) {
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
			switch isBatch := wrapped && number == peerBatch; {
			case isBatch:
				batch, _ := protowire.ConsumeBytes(message)
				n += elements(batch, false, level)
			case size > largeElement && level < deepest:
				element, _ := protowire.ConsumeBytes(message)
				n += elements(element, false, level+1)
			}
		}
		message = message[size:]
	}
	return n
}
