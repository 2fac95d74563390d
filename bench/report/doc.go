// SPDX-License-Identifier: Apache-2.0

// Package report stores the measurements of a benchmark run as a JSON document ([Run]),
// and shows them as text, as a self-contained HTML page, as pictures for a README, and as
// a comparison of two runs.
//
// The document format has a version, so that later programs can reject or read it. Names
// end in their unit: durations are integer nanoseconds (_ns), sizes are bytes (_bytes).
// Times within a run are since the end of its warm-up.
//
// The functions of this package are safe for concurrent use if the run is not modified.
package report
