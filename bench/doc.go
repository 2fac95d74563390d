// SPDX-License-Identifier: Apache-2.0

// Package bench measures rate limiters: how fast they answer, and whether their
// decisions are right.
//
// A [Workload] plans calls. [Run] sends them to a [Target] on a schedule that is
// fixed in advance, and measures latency from the scheduled times, so that the
// calls that a stalled target delays count in full (no coordinated omission).
// Options.OnEvent receives every request with its answer. From such a log, package
// audit finds what a limiter admitted beyond its limits, denied within them,
// charged twice or lost, without knowing the limiter's code.
package bench
