// SPDX-License-Identifier: Apache-2.0

// Package llm reads what model servers and their callers say to each other: the
// cost that a request announces, and the usage that an answer reports, whole or
// streamed, in the wire formats of OpenAI and Anthropic.
//
// It does no I/O, reads no clock and starts no goroutine.
//
// A request that could mean two things is refused: a name given twice, or spelled
// so that some servers would know it and others not, a number that is no whole
// number, a string where a number belongs. What is not known passes. [Request.Rewrite]
// changes the output bound and one streaming option, and leaves every other byte
// as it was.
//
// The size of the input is an estimate that errs high: see [Request].InputBytes.
//
// A [Meter] never makes a call free. Usage that cannot be true is not believed,
// and an answer that cannot be read is counted by its bytes.
package llm
