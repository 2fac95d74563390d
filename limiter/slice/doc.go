// SPDX-License-Identifier: Apache-2.0

// Package slice has the rules of slices: parts of the limits of a key that its owner has
// debited and lent to another member, the holder, which decides from memory. It is pure:
// time is an argument, and what a [Holder] has to send are values.
//
// The owner charges the slice and a margin. The holder spends it until its deadline, and then
// returns it, once: the owner takes the charge back, as if it had never been, and charges
// what was spent, in one critical section. A slice that is not returned by the end of its
// lease counts as spent in full at that time. The engine does this: see Lend and Return in
// package limiter, which uses the terms of this package.
//
// A slice may be for reserves. What a reservation holds is not spent: when it ends, what it
// used is. Those that have not ended when the slice is returned become reservations of the
// owner, in that critical section.
//
// No limit admits more than it would without slices. What is lent is debited, so all that
// matters is when a charge counts:
//
//   - The owner counts the whole slice while a holder may spend it, and what was spent from
//     its return on, which is later than the calls. So usage never refills, or leaves its
//     window, before it would have.
//   - A token bucket refills what is lent, too, although it may not be spent yet. By the end
//     of a lease that is rate x lease at most, which is the [Margin] that the owner debits
//     and the holder may not spend.
//   - A slice of a calendar window must be over when the window is, and one of a sliding
//     window before its charge leaves the window. See [Lease].
//
// The holder counts its deadline from when it asked, which is before the owner lent. The
// owner ends the lease later by [Skew], because clocks of two machines differ in speed, and by
// [ReturnTime], in which the return arrives.
package slice
