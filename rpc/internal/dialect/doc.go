// SPDX-License-Identifier: Apache-2.0

// Package dialect tells a decision in the words that the caller's SDK knows: the
// status, headers and error body of OpenAI or Anthropic, and the RateLimit fields of
// the IETF (draft-ietf-httpapi-ratelimit-headers-11) beside them.
//
// SDKs retry a 429 on their own, mostly within a second. So each denial says whether
// that makes sense (X-Should-Retry) and when (Retry-After, Retry-After-Ms):
//
//   - a limit that the call fits again within a minute: yes, then;
//   - a slot, which has no clock: yes, after 1 to 2 seconds by chance;
//   - a node that cannot be reached, or a full table: yes, likewise. The status is
//     503 (Anthropic: 529), since it is no quota of the caller's;
//   - longer than a minute, which some SDKs take for no time at all: no;
//   - money: no, and the code is insufficient_quota. Anthropic gets no Retry-After;
//   - never, as for exceeds_capacity and no_price: no, and no Retry-After.
//
// No byte of a caller's text ends up in a header unless it is printable ASCII.
package dialect
