// SPDX-License-Identifier: Apache-2.0

// Package codec encodes and decodes what the streams of calls and answers carry.
//
// The framing is done here: a batch is encoded items, and answers are encoded
// results, so that each caller encodes its own item and decodes its own result. The
// fields of an answer are encoded and decoded by the generated code of rpc/pb; this
// package reuses its memory.
//
// # Limits by definitions
//
// A receiver that takes definitions (pb.Batch.takes_definitions) gets what does not change of
// a limit once on a stream, as a pb.LimitDefinition. Results refer to it by its number, in
// pb.LimitValues, and their answers have no limits of their own. Of a pb.LimitState:
//
//	name, dimension, algorithm    definition
//	limit, capacity               definition
//	window, max_wait              definition, in nanoseconds
//	shadow, hidden                definition
//	scope                         values: how much of the key of the call, which both ends know
//	remaining, debt, cost         values
//	reset_at                      values, in Unix nanoseconds
//	exceeded                      values
//	per_model                     values: a settle does not report it, of the same limit
//	headroom                      values: it depends on the class of the call
//	credit                        values: of a peek
//	window of a calendar          values, if it is not as long as the one of the definition
//
// Numbers count from 1 in the order of the definitions, and mean the same until the stream
// ends. A limit that a policy changes is another one, with another number. There are at most
// [MaxDefinitions] on a stream; an answer with a limit that is not among them has all of its
// limits in full, as those for receivers that take none. Both ends forget the definitions
// with the stream.
//
// A stream whose definitions are out of order or too many is broken. A result that refers to
// a definition that did not come is no answer to its call.
package codec
