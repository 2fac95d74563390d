// SPDX-License-Identifier: Apache-2.0

// Package fallback turns what a policy says into what a member may decide when
// the owner of a key cannot be asked. Each limit declares how, by its
// [limiter.Unreachable] mode, and becomes another one for the time being:
//
//   - [limiter.Share]: the member takes its part, amount and burst divided by the
//     members of the roster and rounded down. If all members do, none of them
//     reached by any other, they admit together no more than the limit. A part
//     that rounds to 0 refuses like a closed limit. A cost that is beyond the part
//     but not beyond the limit is refused with [limiter.OwnerUnreachable].
//   - [limiter.Closed]: every cost is refused, with [limiter.OwnerUnreachable] and
//     a retry time of 1 s. A call that costs nothing of the limit passes.
//   - [limiter.Open]: the limit is in shadow. It counts, and denies nobody.
//
// A limit of 0 stays as it is in every mode: it denies always, and nobody needs
// the owner to know that. A limit in shadow denies nobody in any mode.
//
// Nothing here keeps state: an engine of its own, with the catalog given to
// [New], decides by the plans. Usage follows a limit's name, so it stays when
// the policy or the roster changes. The package reads no clock and does no I/O.
package fallback
