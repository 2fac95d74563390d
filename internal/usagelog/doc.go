// SPDX-License-Identifier: Apache-2.0

// Package usagelog writes what calls are charged to a file, one JSON object a line, so that
// usage can be billed. docs/usage-log.md says what the lines mean.
//
// A [Log] is the [limiter.Ledger] of an engine. What it is told is copied into a bounded
// queue, and one goroutine writes it. A disk that is slow, full or gone never delays a
// decision: what does not fit into the queue is lost, and counted.
package usagelog
