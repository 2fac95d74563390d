// SPDX-License-Identifier: Apache-2.0

// Package slices has the slices that this process holds: parts of the limits of keys that
// their owners have charged and lent to it, so that it decides calls from memory. A member
// has one [Table], and so has a client. Package limiter/slice has the rules.
//
// A slice serves checks with the same shape as the check it came with: the same key, tier,
// model, service tier and costs. Others serve reserves of one kind, or hits on one counter
// with one limit. A call that no slice serves is sent to the owner:
//
//	if table.Take(q, &answer, true) {
//		return answer // no request id of the caller, and the slice covers it
//	}
//	asked := now()
//	item.TakesSlice = table.Asks(q)
//	result := send(item)
//	switch {
//	case !item.TakesSlice:
//	case result.GetSlice() != nil:
//		table.Granted(q, asked, result.GetSlice(), result.GetDecision())
//	default: // also if there is no result
//		table.Answered(q)
//	}
//
// A slice ends when it is spent, recalled, replaced or over. Then it is returned to the
// owner in the background, until the owner has acknowledged that. Nobody who asks for a
// decision waits for a return.
package slices
