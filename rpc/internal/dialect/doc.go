// SPDX-License-Identifier: Apache-2.0

// Package dialect writes a decision as the caller's SDK expects it: with the status,
// headers and error body of OpenAI or Anthropic, and with the RateLimit fields of the
// IETF (draft-ietf-httpapi-ratelimit-headers-11).
//
// SDKs retry a 429 on their own, mostly within a second. So each denial says whether
// to retry (X-Should-Retry) and when (Retry-After, Retry-After-Ms):
//
//   - The call fits again within a minute: retry then.
//   - A concurrency limit, which has no reset time: retry after 1 to 2 seconds, at
//     random.
//   - An owner that cannot be reached, or a full table: likewise. The status is 503
//     (Anthropic: 529), since it is not the caller's quota.
//   - The call fits again in more than a minute: do not retry. Some SDKs ignore so
//     long a Retry-After and retry at once.
//   - A spend limit: do not retry. OpenAI's code is insufficient_quota; Anthropic
//     gets no Retry-After.
//   - exceeds_capacity and no_price: do not retry, and there is no Retry-After.
//
// Text from callers gets into a header only as printable ASCII.
package dialect
