// SPDX-License-Identifier: Apache-2.0

// Package target has the limiters that a bench can ask: bucketring by each of its
// doors, what people use instead, and nothing at all. [Kinds] lists them with
// what a run against each measures, and what it does not.
//
// Every target asks one question per call and keeps the deadline of its context.
// A denial is an answer; an error means that no decision is known, and it wraps
// [context.DeadlineExceeded] if time ran out. Whether the call was charged is
// open then: only a target with request ids can be asked again without charging
// twice. Of the targets here only the client library asks again by itself.
//
// A call of 0 requests counts as one. All other numbers are taken as they are.
package target
