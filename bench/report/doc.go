// SPDX-License-Identifier: Apache-2.0

// Package report keeps what a run of the bench measured, and shows it: as a
// document ([Run], in JSON), as text, as one HTML page that needs nothing
// else, as pictures for a README, and as a comparison of two runs.
//
// The document is a format of its own, with a version, so that runs of today
// can be read by the commands of next year. Its names end in their unit:
// durations are whole nanoseconds (_ns), sizes are bytes (_bytes). Times within
// a run are since the end of its warm-up.
//
// Functions of this package keep no state and may be called from several
// goroutines, as long as nobody changes the run meanwhile.
package report
