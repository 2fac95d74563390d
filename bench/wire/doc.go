// SPDX-License-Identifier: Apache-2.0

// Package wire measures what one call costs, between processes: checks of many kinds to
// nodes, a gRPC echo of the same sizes, and other limiters, in one run. Only ratios within one
// run are meaningful.
//
// Each round runs all rows in a shuffled order, so that a slow moment of the machine does not
// affect one row only. A row is the median of its rounds. It is a closed loop: every caller
// waits for its answer before it sends the next call. Clients and servers share the machine.
//
// Package suite measures latency under a given rate, and audits answers.
package wire
