// SPDX-License-Identifier: Apache-2.0

// Package proxy is a reverse proxy that enforces limits in front of a model
// server. It combines a [middleware.Middleware] with [httputil.ReverseProxy], and
// has identity providers for callers and a [Server] whose shutdown settles every
// call.
//
// # Which requests are forwarded
//
//   - A POST to a metered endpoint (see [middleware]) needs an identity. It is
//     reserved, forwarded with the granted output as its bound, and settled with the
//     usage of the response. The response is forwarded unbuffered.
//   - A request that [Options].Meter matches needs an identity, too. It takes a request
//     and a slot, is forwarded unchanged, and is settled with the usage of the response.
//   - A request that [Options].Pass allows is forwarded unchanged, without an
//     identity and without a charge. By default, these run no model: see [Safe].
//   - All other requests are rejected with 403. Model servers have more endpoints that
//     run a model than are known here (rerank, score, audio, their own generate
//     endpoints).
//
// A request that the upstream might treat as a metered call although the proxy does
// not is always rejected: one with another spelling of a metered path or method
// or a header that replaces its path (403), and one that upgrades its connection to anything but a WebSocket, or to a
// WebSocket at a metered endpoint (400). Callers may speak HTTP/2 without TLS from the
// first byte, and its requests are treated like all others.
//
// # Headers and logs
//
// The upstream gets the end-to-end headers of the caller, and X-Forwarded-For,
// -Host and -Proto set by the proxy. It gets the credential of the caller, or
// [Options].UpstreamKey in its place. It gets the bodies of metered calls without
// Content-Encoding, and is asked for responses without, because they are read.
//
// Prompts, responses and credentials are never logged.
//
// # Upstream failures
//
// If the upstream did not receive the whole request, the caller gets a 502 and the
// reservation is refunded. If it received the request but sent no response (502), or
// none in time (504), the estimated input is charged, because the model may have
// run. If the response is interrupted, so is the response to the caller, and the
// output up to then is charged.
package proxy
