// SPDX-License-Identifier: Apache-2.0

// Package suite puts a run of the bench together: it opens the targets, starts a
// cluster if one is wanted, lets the targets take turns, breaks nodes at given
// times, audits what was answered, and makes one document of it all.
//
// [Run] is what `bucketring bench run` does. The parts can be used alone: packages
// bench, workload, target, local, audit and report.
//
// Times that users give, such as those of faults, are since the end of the
// warm-up. Every target of a run gets the same calls: the same seed for all of
// them, and another one for every round.
package suite
