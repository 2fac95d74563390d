// SPDX-License-Identifier: Apache-2.0

// Package continuity measures whether counts survive when nodes restart, die, stop for a
// while or lose contact. It runs clusters of real processes under load, causes faults, and
// compares what it finds with what is promised.
//
// A [Campaign] causes one [Kind] of fault some number of times. Each time, an iteration, has
// keys of its own with fresh limits, a steady part before the fault, and an audit of every
// answer afterwards. All promises with their bounds are in promises.go.
//
// A build that forgets counts must fail here: that is the negative control, see
// docs/continuity.md.
package continuity
