// SPDX-License-Identifier: Apache-2.0

// Package audit finds out from the log of a run whether a limiter was right. It
// knows what the limits are, what was asked and what was answered, and nothing
// of how the limiter works.
//
// Four questions are answered for every limit of every key:
//
//   - Was more admitted than the limit allows? Without refill this is exact: the
//     sum of what was admitted, each id once, minus the amount. With refill a
//     charge is known to lie between the sending of a call and its answer, and
//     only what lies surely inside an interval counts against it. [Over] is
//     therefore never a false alarm; [Over.Possible] says what the same log would
//     mean if every doubt went against the limiter. The difference is the margin.
//   - Was a call denied that had room? It had if it would have fitted whatever had
//     been charged until then: every call that was sent before the denial came,
//     answered or not, at its largest cost. See [Under].
//   - Does each request id net to one charge? The usage that the target tells in
//     the end is compared with what the log says must be charged. What is more was
//     charged twice, or a settle was lost; what is less was forgotten. See [Charge].
//   - Did fallback, which decides without the owner, admit what the limit declares
//     for it? Nothing if that is closed, for each member that decided the limit
//     divided by [Options.Members] if it is share, anything if it is open. It is
//     counted apart: Over.Amount is without it, Over.WithFallback with it, and
//     Over.BeyondBound is what it had no right to.
//
// Of a reservation the estimate counts from its answer until the settle was sent
// (or the lease may have run out), and afterwards the usage, as if it had been
// charged at first. Usage beyond the estimate is the caller's doing: it is never
// an over-admission, but it takes room.
//
// All the calls of a run belong in the log, those of its warm-up too, and the
// limits must all be described: a denial by a limit that the auditor does not
// know looks like a wrong one. State from before the run is told with
// [Auditor.Began].
//
// The log takes 64 bytes per event, and its ids, until [Auditor.Report], which
// works through one root key per processor, in memory of its own of some 200
// bytes per call of those roots. A run of 5 million events on 12,000 keys under
// four limits takes 4 s of CPU and peaks at 1.2 GB, garbage included; all on one
// key, the worst case, 5 s and 1.5 GB. BenchmarkFiveMillion repeats it.
package audit
