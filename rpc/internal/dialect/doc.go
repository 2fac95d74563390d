// SPDX-License-Identifier: Apache-2.0

// Package dialect writes a decision as the caller's SDK expects it: with the status,
// headers and error body of OpenAI or Anthropic, and with the RateLimit fields of the
// IETF (draft-ietf-httpapi-ratelimit-headers-11).
//
// SDKs retry a 429 on their own, mostly within a second. So each denial says whether
// to retry (X-Should-Retry) and when (Retry-After, Retry-After-Ms), by the rule of
// package explain: a program should retry if the call fits within a minute. Where the
// time is not that of the caller's own limit (slots, full tables, an owner that cannot
// be reached), up to a second is added at random. Differences of the dialects:
//
//   - If the owner cannot be reached or its table is full, the status is 503 (Anthropic:
//     529), since it is not the caller's quota.
//   - For a spend limit, OpenAI's code is insufficient_quota, and Anthropic's answer has
//     no Retry-After if the wait is longer than a minute.
//
// Text from callers gets into a header only as printable ASCII.
package dialect
