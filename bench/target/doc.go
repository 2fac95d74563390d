// SPDX-License-Identifier: Apache-2.0

// Package target has the limiters that package bench can measure: bucketring through
// each of its protocols, alternatives to it, and a target that does nothing. [Kinds]
// lists them, with what a run against each measures and its limitations.
//
// A target sends one request per call and keeps the deadline of its context. A denial
// is an answer. An error means that no decision is known, and wraps
// [context.DeadlineExceeded] after a timeout; the call may have been charged. Only the
// client library retries; a retry does not charge twice because it has the same
// request id.
//
// A call of 0 requests counts as one.
package target
