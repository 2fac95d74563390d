// SPDX-License-Identifier: Apache-2.0

// Package bench measures rate limiters: how fast they answer and whether they
// are right, in one run.
//
// A [Workload] plans calls. A run sends them to a [Target] at times that were
// fixed before, and measures from those times, so that a target that stalls is
// charged for the calls that it made wait (coordinated omission). Every answer
// goes into a log, and an auditor that knows nothing of the limiter's code finds
// out from the log alone what was admitted beyond the limits, denied within
// them, charged twice or lost.
package bench
