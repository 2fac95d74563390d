// SPDX-License-Identifier: Apache-2.0

// Package client asks bucketring nodes for decisions over gRPC.
//
// A call to a model is reserved before it runs, and settled with its actual usage
// afterwards. [Client.Do] does both:
//
//	e := client.Estimate{Key: "acme/alice", InputTokens: 900, MaxOutputTokens: new(int64(800))}
//	err := c.Do(ctx, e, func(ctx context.Context, g *client.Grant) (client.Usage, error) {
//		// run the model with max_tokens = g.OutputTokens
//		return client.Usage{OutputTokens: new(int64(312))}, nil
//	})
//
// [Client.Reserve], [Reservation.Settle] and [Reservation.Cancel] are its steps, for calls
// that do not fit in one function. Package clienttest has a fake cluster for tests.
//
// [Client.Check] charges a known cost at once instead, and [Client.Peek] returns the
// state of the limits and charges nothing.
//
// # The owner of a key
//
// One member of the cluster, the owner of the key, decides. The client watches the
// ring, which says who owns which key, and sends calls directly to the owner, in
// batches over one stream. A call never waits for the ring or for a connection. When
// the owner is unknown, not connected, failing, or not to be connected to (see
// [Options].TLS), the client asks a node of Options.Addrs, which asks the owner or
// decides in fallback. An owner that answers nothing costs a call only its share of
// the deadline. One that answers other calls is slow, and is waited for.
//
// [Client.Status] returns what a client knows. [Options].DisableOwnerRouting turns
// all of this off.
//
// # Idempotency
//
// Every charge has a request id, which the client generates unless the caller sets
// one. When a node cannot be reached or answers nothing in its share of the deadline,
// another node is asked with the same id, so that no network failure charges a call
// twice. At most a tenth of the calls are retried, apart from the first hundred retries
// and what was not used. Settlements are cumulative, so they can be repeated. Nothing else
// is retried.
//
// # Answers from memory
//
// The owner of a key that is asked for very often can lend a part of its limits, a slice, to
// a client, if the policy allows that for all limits of the key. It has charged the slice
// before. [Client.Check] and [Client.Reserve] then answer from memory, if they have no request
// id of the caller: checks that cost the same, and reserves of any amounts. Reservations are
// settled and cancelled in memory while their slice lasts, and by the owner after that. A slice
// that is over is returned in the background, and by [Client.Close].
//
// # Waiting
//
// If the policy lets calls wait at a limit, a call that the limit denies waits in line at the
// owner of its key until it is admitted, its time is over, or its context ends: see
// [Call].MaxWait and [Decision].Waited. [Call].Priority is its class.
//
// # Overload
//
// A call that would not be answered in time is refused at once with [ErrOverloaded], by
// the client or by a node. Nothing was charged, and the call is not retried: the
// [OverloadedError] says when to try again. Settles, cancels and progress are never
// refused because of overload, and are sent before other calls.
//
// # Errors
//
// A denial is an answer; [Decision.Err] makes it an error, and Do returns that. Any other
// error means that the client has no decision: [ErrUnreachable] if no node answered in time,
// [ErrOverloaded] if the call was refused, [InvalidError] for an invalid request,
// [ErrUnknownReservation], [ErrConflict], [ErrClosed] after Close, or the gRPC status of the
// node. If the caller's context is cancelled, the error is that of the context; Settle and
// Cancel go on then, because they are owed. After ErrUnreachable the call may have been
// charged: repeat it with the same request id.
//
// # Numbers
//
// Amounts are integers: requests, tokens, millionths of a US dollar. In an optional
// field, a *int64, nil means not given, and new(int64(0)) means exactly 0.
//
// # Other languages
//
// A client needs only the unary methods of the RateLimiter service. It sends Check,
// Reserve, Settle and Cancel to any node, with a request id, and after UNAVAILABLE or
// a timeout to the next node with the same id, for at most a tenth of the calls. After
// RESOURCE_EXHAUSTED with a RetryInfo it waits, and sends less. Options.DisableOwnerRouting
// does the same.
//
// To send calls to the owner of the key (names as in bucketring.proto):
//
//  1. Keep one Watch stream open, to any node; after it ends and a backoff, open one
//     to another node. Each Ring replaces the last one. Validate it, because it comes
//     from the network.
//  2. The partition of a key is the xxHash64 of its first segment modulo the number
//     of partitions in the Ring. The entry of Ring.owners for it is the owner.
//  3. Keep one Exchange stream per member. Send a Batch at once if none is in flight;
//     calls that arrive meanwhile go into the next one, and those beyond what is answered
//     in time are refused. The n-th Answers is for the n-th Batch, and has one Result per
//     Item.
//  4. Follow one Redirect. After a second one, a broken stream, or no answer within a
//     share of the deadline, send the same request with the same id to any node by a
//     unary call. Do the same with a Settle whose request id begins with "fallback:".
//  5. A unary call waits in line at the node, for no longer than its deadline. In answers by
//     an Exchange stream, Decision.may_wait says that a call may wait: send it again, with the
//     same request id, by a Wait stream to the same member. When that ends, begin anew.
package client
