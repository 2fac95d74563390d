// SPDX-License-Identifier: Apache-2.0

// Package slices has the slices that this process holds: parts of the limits of keys that
// their owners have charged and lent to it, so that it decides calls from memory. A member
// has one [Table], and so has a client. Package limiter/slice has the rules.
//
// A slice for checks serves those with the same shape as the check it came with: the same key,
// tier, model, service tier and costs. One for reserves serves reserves with the same key,
// tier, model and service tier, and one for counts hits on one counter with one limit. A call
// that no slice serves is sent to the owner:
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
// The table has the reservations that it made, and settles and cancels them while their slice
// is held. Then their owner keeps them, with the return of the slice, and knows them by their
// ids when it has acknowledged that:
//
//	done, returned, err := table.Settle(q, id, &settlement)
//	if done || err != nil {
//		return settlement, err
//	}
//	wait(returned) // unless it is nil
//	return send(q)
//
// A slice ends when it is spent, recalled, replaced or over. Then it is returned to the
// owner in the background, until the owner has acknowledged that. Nobody who asks for a
// decision waits for a return.
package slices
