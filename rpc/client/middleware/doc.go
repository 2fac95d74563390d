// SPDX-License-Identifier: Apache-2.0

// Package middleware puts a server's calls to a model under the limits of a
// bucketring cluster: net/http handlers with [Middleware], gRPC services with
// [GRPC].
//
//	m, err := middleware.New(middleware.Options{
//		Client:   c, // a *client.Client
//		Identify: func(r *http.Request) (middleware.Identity, error) { ... },
//	})
//	...
//	http.ListenAndServe(addr, m.Handler(model))
//
// # The life of a metered call
//
// Its body is read, and says what it may cost at most. That is reserved under a
// request id of our own; a denial is answered at once, as the caller's SDK
// expects it, and the model hears nothing of it. Otherwise the handler runs, with
// a body whose output bound is what was granted, and [FromContext] has the
// [Call]. The answer passes through as it comes, unbuffered, and is metered on
// the way. At the end the call is settled, once: what was reserved and not used
// is given back, and its slot is free.
//
// POST requests to the endpoints of OpenAI- and Anthropic-style servers are
// metered (paths that end in /v1/chat/completions, /v1/completions,
// /v1/embeddings, /v1/responses and /v1/messages), and all others pass untouched.
// [Options].Cost meters servers of another kind.
//
// # What is charged
//
//   - What [Call.SetUsage] says, else the usage block of the answer.
//   - Without either, and where one is not to be believed, an estimate that errs
//     high: the estimated input, and the larger of the pieces that were streamed
//     and what the bytes of text amount to. It is never free.
//   - A call that broke off, because its caller left, the model's server failed or
//     the handler panicked, is charged its input and what came until then. [Gone]
//     says whether the model is stopped when the caller leaves.
//   - An answer with an error status, before anything was generated, costs
//     nothing, unless [Call.Ran] was called; nor does a call that [Call.NotRun] was
//     called for. If the caller had left before that status, it does not count:
//     leaving early is not free.
//   - Of a call metered by Options.Cost or by gRPC that nobody reported on, all
//     that was reserved.
//
// # Failing closed
//
// A call that cannot be metered is refused with an error that says why: a body
// that is encoded, too large, or not what the endpoint takes; a caller that is not
// known; and any call while no node answers. If no node can take a settlement,
// it waits in the client: see [client.Reservation.SettleLater], and flush the
// client before it is closed.
//
// # Estimates
//
// How many bytes of text make a token is learned for each model, from the
// usage of calls that have ended. Until then it is taken to be 3.
package middleware
