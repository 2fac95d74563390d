// SPDX-License-Identifier: Apache-2.0

// Package middleware enforces the limits of a bucketring cluster inside a model
// server: [Middleware] wraps net/http handlers, and [GRPC] has the interceptors of
// gRPC servers.
//
//	m, err := middleware.New(middleware.Options{
//		Client:   c, // a *client.Client
//		Identify: func(r *http.Request) (middleware.Identity, error) { ... },
//	})
//	...
//	http.ListenAndServe(addr, m.Handler(model))
//
// # A metered call
//
// The middleware reads the request body, estimates the largest cost of the call
// and reserves it under a new request id. It answers a denial itself, in the
// format of the caller's SDK, and does not call the handler. Otherwise the handler
// runs. If less output is granted than its request asks for, its max_tokens is lowered. A
// request without a bound gets one only if the decision is degraded or the policy bounds the
// output. [FromContext] returns the [Call]. The response is forwarded unbuffered and metered on the way.
// When the handler has returned, the call is settled once: what was reserved and
// not used is refunded, and its slot is released.
//
// Metered are POST requests to the endpoints of OpenAI- and Anthropic-style
// servers: paths that end in /chat/completions, /completions, /embeddings,
// /responses, /responses/compact and /messages, whatever is before. If the path names
// a model, as /openai/deployments/NAME/chat/completions does, that is the model of the
// call. A body sent to one of them with another method is rejected with 405.
// [Options].Count meters others by count, and [Options].Estimate meters servers with
// other endpoints. All other requests reach the handler unchanged.
//
// # What is charged
//
//   - The usage set with [Call.SetUsage], or else the usage block of the response.
//   - If there is no usage, or it is not plausible, an estimate that errs high: the
//     estimated input, and the larger of the number of streamed pieces and the
//     tokens estimated from the bytes of text. It is never 0. Partial counts that
//     the server has reported replace their estimates. If usage that is not plausible
//     claims more input or output, and that can be true, the claim is charged.
//   - For a call that was interrupted because the caller disconnected, the model
//     server failed or the handler panicked: its input, and the output up to then.
//     [Options].OnDisconnect decides whether the model is stopped when the caller
//     disconnects.
//   - Its requests only, without tokens, money and own costs, for a response with a
//     3xx or 4xx status that came before any output, so that calls which the model
//     server rejects are bounded too. Nothing for a 5xx status, unless
//     [Options].ChargeServerErrors is set. In both cases the usage is charged after
//     [Call.MarkRun]. An error status that was sent after the caller had disconnected
//     is charged like an interrupted call, so that disconnecting early is not free.
//   - Nothing after [Call.MarkNotRun].
//   - The whole reservation for a call metered by Options.Estimate or by [GRPC] if no
//     usage was reported.
//
// # Failing closed
//
// A call that cannot be metered is rejected with an error that names the cause: a body
// that is too large, invalid or in an unknown encoding, an unknown caller, or no reachable
// node. Bodies in zstd, gzip and deflate are decoded, of requests and of responses. A
// settlement that reaches no node waits in the client: see
// [client.Reservation.SettleLater], and flush the client before closing it.
//
// # Estimates
//
// The bytes per token of each root (the first segment of a key) and model, and the
// overhead of a prompt, are learned from the reported usage of finished calls. Until then
// the mean bytes per token of the model's other roots are used, in which no root has more
// than an eighth of the weight, and which are at least 3: what one root sends changes no
// estimate of a root with calls of its own, and never makes those of a new root higher
// than if nobody had used the model. Images, files and encoded data count for a bounded
// size. An estimate above the whole capacity of a limit reserves that capacity.
package middleware
