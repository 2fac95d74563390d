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
// # The owner of a key
//
// One member of a cluster decides for a key. A client follows the ring, which
// says who that is, and asks it directly, in a batch with the other calls that
// are on their way there. Nothing waits for the ring, or for a connection: while
// there is none, when the owner fails, and when it must not be asked directly
// (see [Options].TLS), any node of Options.Addrs is asked, which asks the owner or
// decides in its place. An owner that is silent costs a call its share of the
// deadline and no more.
//
// [Client.Status] shows what a client knows; [Options].Plain makes it know
// nothing.
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
//
// # In other languages
//
// A client needs no more than the unary calls of the service RateLimiter: send
// Check, Reserve, Settle and Cancel to any node, with a request id, and to the
// next node with the same id after UNAVAILABLE or a deadline. That is what
// Options.Plain does.
//
// To follow the ring as well, in the words of bucketring.proto:
//
//  1. Keep one Watch stream open, to any node; when it ends, go to another one
//     after a pause. Each Ring replaces the one before. Check it: it comes from
//     the network.
//  2. The partition of a key is the xxHash64 of its first segment modulo the
//     number of partitions in the Ring, and its owner is the member at that place.
//  3. Keep one Exchange stream per member. Send a Batch at once if none is under
//     way; what comes meanwhile goes with the next one. The n-th Answers is for
//     the n-th Batch, and has a Result for each Item.
//  4. Follow a Redirect once. After a second one, a stream that breaks, or a share
//     of the deadline without an answer, send the same request with the same id
//     alone to any node. So does the settlement of a request id that begins with
//     "fallback:".
package client
