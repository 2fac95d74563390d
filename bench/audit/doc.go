// SPDX-License-Identifier: Apache-2.0

// Package audit checks from the log of a run whether a limiter was right. It knows the
// limits, the requests and the answers, and nothing of how the limiter works.
//
// It checks four things for every limit of every key:
//
//   - Was more admitted than the limit allows? Without refill this is exact: the sum of
//     what was admitted, each id once, minus the amount. With refill, a charge was made
//     at an unknown time between the request and its answer, and counts against an
//     interval only if it is certainly inside. An [OverAdmission] is therefore never a
//     false alarm. [OverAdmission.Possible] is the amount if every uncertainty is
//     resolved against the limiter. The difference is the margin.
//   - Was a call denied that had room? It had room if it fits even when every request
//     that was sent before the denial arrived, answered or not, is charged at its
//     largest cost. See [WrongDenial].
//   - Was each request id charged exactly once? The usage that the target reports after
//     the run is compared with the log. A surplus was charged twice, or a settle was
//     lost; a deficit is a lost charge. See [ChargeMismatch].
//   - Did fallback, which decides without the owner, stay within the mode that the limit
//     declares? closed admits nothing, share admits the limit divided by
//     [Options.Members] on each member, open admits everything. Fallback is counted
//     separately: OverAdmission.Amount is without it, WithFallback includes it, and
//     BeyondBound is what exceeds the declared mode.
//
// A call that waited for a limit was charged after it had waited: between its request and
// [bench.Answer].Waited, and its answer. So a long wait does not make the audit less precise.
//
// A request that failed may have been charged or not. One that was refused because of
// overload ([bench.ErrOverloaded]) must not have been charged: if it was, the usage after
// the run is a surplus.
//
// Neither must a call have been charged that was denied in fallback. But if its owner had
// charged a check, it gives back only what a token bucket has not refilled since. So such a
// check may count in a token bucket, and nowhere else.
//
// After [Auditor.AllowLoss] small charges around the failure of a node may be missing.
//
// A reservation counts with its estimate until its settle is sent or its lease may
// have expired, and then with its usage, as if that had been charged from the start.
// Usage beyond the estimate is never an over-admission, but it takes room.
//
// The log must have all calls of a run, including its warm-up, and the options all
// limits: a denial by an unknown limit looks like a wrong one. Usage from before the
// run is added with [Auditor.AddInitialUsage].
//
// The log takes 64 bytes per event, plus the ids. [Auditor.Report] audits one root key
// per processor at a time, and needs about 200 bytes for each call of those roots. A
// run of 5 million events on 12,000 keys with four limits takes 4 s of CPU time and
// peaks at 1.2 GB including garbage; with a single key, the worst case, 5 s and
// 1.5 GB. See BenchmarkFiveMillion.
package audit
