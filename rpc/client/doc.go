// SPDX-License-Identifier: Apache-2.0

// Package client asks bucketring nodes for decisions over gRPC.
//
// A call to a model is reserved before it runs and settled by what it really
// used:
//
//	r, err := c.Reserve(ctx, client.Estimate{Key: "acme/alice", InputTokens: 900, MaxOutputTokens: 800})
//	if err != nil {
//		return err // no decision was made
//	}
//	if r.Denied() {
//		return tooMany(r.RetryAfter, r.Binding) // an answer, not an error
//	}
//	// run the model with max_tokens = r.Granted()
//	_, err = r.Settle(ctx, client.Usage{OutputTokens: 312})
//
// [Client.Check] charges a known cost at once instead, and [Client.Peek] looks
// and charges nothing.
//
// # Charged once
//
// Every charge carries a request id, made here unless the caller names one. A
// node that could not be reached, or did not answer in its share of the
// deadline, is followed by another one with the same id, so that no failure of
// the network charges a call twice. Settlements are cumulative: a repeated one
// is harmless. Nothing else is ever retried.
//
// # Errors
//
// A denial is an answer. An error means that the client has no decision:
// [ErrUnreachable] when no node answered in time, [InvalidError] when the
// request cannot be used, [ErrUnknownReservation], [ErrConflict], or the gRPC
// status that the node sent. When the caller's context is cancelled, the error
// is that of the context. After ErrUnreachable a call may have been charged all
// the same: the same request id again finds out.
//
// # Numbers
//
// Amounts are whole: requests, tokens, millionths of a US dollar. In a field
// whose comment says "0: ..." the number 0 means not given, and [Zero] means
// exactly 0.
package client
