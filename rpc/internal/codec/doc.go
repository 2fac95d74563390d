// SPDX-License-Identifier: Apache-2.0

// Package codec encodes and decodes what the streams of calls and answers carry.
//
// The framing is done here: a batch is encoded items, and answers are encoded
// results, so that each caller encodes its own item and decodes its own result. The
// fields of an answer are encoded and decoded by the generated code of rpc/pb; this
// package reuses its memory.
package codec
