// SPDX-License-Identifier: Apache-2.0

// Package wire encodes what members say to each other about partitions: a
// [continuity.Message] with the changes that belong to it, and the header of a copy.
//
// The format is made for heartbeats. A beat or grant of the next partition, in the same
// term as the one before, takes one or two bytes. Numbers are varints; terms, which
// are large, have eight bytes and are left out when they repeat. Members are named
// once per message. Decoders accept any bytes: they return an error, and allocate at most
// a multiple of the length.
package wire
