// SPDX-License-Identifier: Apache-2.0

// Package suite performs complete benchmark runs: it starts a local cluster if needed,
// opens the targets, measures them in turns, injects faults, audits the answers, and
// combines everything in one document.
//
// [Run] implements `bucketring bench run`. The parts can be used alone: packages bench,
// workload, target, local, audit and report.
//
// Times in options, such as those of faults, are since the end of the warm-up. All
// targets of a run get the same calls in a round. Each round has another seed.
package suite
