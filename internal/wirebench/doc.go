// SPDX-License-Identifier: Apache-2.0

// Command wirebench measures what the wire costs: calls of many kinds against
// servers in processes of their own, next to a bare gRPC echo of the same bytes,
// all in one run. Only the ratios within one run count.
//
// Rounds alternate in a shuffled order, so that a slow moment of the machine
// does not fall on one kind alone; a row is the median of its rounds. Every
// caller waits for its answer before it asks again (a closed loop), and clients
// and servers share the machine.
//
//	go run ./internal/wirebench
//	go run ./internal/wirebench --rounds 3 --for 1s --only 'echo|client'
package main
