// SPDX-License-Identifier: Apache-2.0

// Command wirebench measures the cost of the wire: calls of many kinds to servers in
// separate processes, and a plain gRPC echo of the same sizes, in one run. Only ratios
// within one run are meaningful.
//
// Each round runs all kinds in a shuffled order, so that a slow moment of the machine
// does not affect one kind only. A row is the median of its rounds. It is a closed loop:
// every caller waits for its answer before it sends the next call. Clients and servers
// share the machine.
//
//	go run ./internal/wirebench
//	go run ./internal/wirebench --rounds 3 --for 1s --only 'echo|client'
package main
