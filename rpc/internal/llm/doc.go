// SPDX-License-Identifier: Apache-2.0

// Package llm reads the requests and answers of model servers, in the wire formats of
// OpenAI and Anthropic: the cost that a request may have, and the usage that an
// answer reports, streamed or not.
//
// It does no I/O, reads no clock and starts no goroutine.
//
// [Parse] rejects a request that servers could read in different ways: a repeated
// member, a member in another case, a number that is not whole, a value of the wrong
// type. Unknown members are accepted. [Request.Rewrite] changes the output bound and
// one streaming option, and keeps every other byte.
//
// The size of the input is an estimate that errs high: see [Request].InputBytes.
//
// A [Meter] never makes a call free: it rejects usage that cannot be true, and counts
// an answer that it cannot read by its bytes.
package llm
