// SPDX-License-Identifier: Apache-2.0

// Package proxy is a reverse proxy that puts a model server under limits: a
// [middleware.Middleware] around [httputil.ReverseProxy], the ways to tell who
// calls, and a server that ends without losing a charge.
//
// # What passes
//
//   - A POST to an endpoint that is metered (see [middleware]) needs an identity,
//     is reserved, sent upstream with the output that was granted, and settled by
//     what the answer says. The answer is passed on piece by piece.
//   - A request that [Options].Pass names goes upstream as it is, and its answer
//     comes back as it is: nobody is asked who calls, and nothing is charged.
//   - All else is refused with 403. Everything passes unless Pass says less, and
//     model servers have more ways to run a model than are metered here (rerank,
//     score, audio, a generate endpoint of their own).
//
// Whatever passes, a request is refused that another server might read as a
// metered call: by the path or the method in another spelling (403), or a connection
// that is to be switched to anything but a WebSocket, or to that at a metered
// endpoint (400).
//
// # Who is told what
//
// The upstream gets the caller's headers, without those that belong to one
// connection, and X-Forwarded-For, -Host and -Proto, which are ours. It gets the
// caller's credential, or the one of [Options].UpstreamKey in its place.
// For metered calls it is not offered compression, since an answer has to be read.
//
// No prompt, no answer and no credential is logged.
//
// # When the upstream fails
//
// An upstream that never got the whole request costs nothing: 502, and everything
// is given back. If it got the request and did not answer, or not in time (504),
// the estimated input is charged, since it may have run. If it breaks off, so does
// the answer, and what came until then is charged.
package proxy
