// SPDX-License-Identifier: Apache-2.0

package codec

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/bucketring/bucketring/rpc/pb"
)

// MaxItemOverhead is the most bytes that AppendItem adds to an item of less than
// 256 MiB: a tag, a length, a tag and a timeout.
const MaxItemOverhead = 1 + 4 + 1 + 10

// AppendItem appends an encoded pb.Item to the encoded items of a pb.Batch. The
// timeout, in nanoseconds, replaces that of the item.
func AppendItem(batch, item []byte, timeout int64) []byte {
	n := len(item) + protowire.SizeTag(itemTimeout) + protowire.SizeVarint(uint64(timeout))
	batch = protowire.AppendTag(batch, batchItems, protowire.BytesType)
	batch = protowire.AppendVarint(batch, uint64(n))
	batch = append(batch, item...)
	batch = protowire.AppendTag(batch, itemTimeout, protowire.VarintType) // the last value counts
	return protowire.AppendVarint(batch, uint64(timeout))
}

// KeyOf returns the key of a call whose answer has limits, otherwise "".
func KeyOf(item *pb.Item) string {
	switch c := item.GetCall().(type) {
	case *pb.Item_Check:
		return c.Check.GetKey()
	case *pb.Item_Reserve:
		return c.Reserve.GetKey()
	case *pb.Item_Settle:
		return c.Settle.GetKey()
	case *pb.Item_Cancel:
		return c.Cancel.GetKey()
	case *pb.Item_Peek:
		return c.Peek.GetKey()
	}
	return ""
}
