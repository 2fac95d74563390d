// SPDX-License-Identifier: Apache-2.0

// Package replication hosts the ownership protocol of [continuity] in a member: which
// member decides for a partition, and which one has a copy.
//
// A [Host] runs the machine in one goroutine, moves records between the engines of
// members, opens a partition of the engine when this member may decide for it, and
// closes it before anybody else may. The hot path of calls asks the host without locks:
// [Host.Decides], [Host.Place], [Host.Lags]. A call that charged more than a little waits
// until the heir has the charge: [Host.Replicate].
//
// # Streams
//
// Each member opens two streams to each other one. The control stream carries the
// messages of the protocol and the changes of partitions. The copy stream, on a
// connection of its own, carries all records of partitions, at a bounded rate, and is
// open only while there is something to copy. Both begin with the handshake of
// rpc/internal/handshake. What cannot be sent at once is dropped after a bound: the
// protocol repeats it.
//
// # What the owner of a Host must do
//
//   - Call [Host.Run] before the node answers calls, and go on until the node has left
//     or holds nothing; see [Host.Left].
//   - Keep both ports open as long as the process may decide: a member whose two ports
//     refuse connections is taken for dead, and its heir takes over at once. So is a boot
//     at whose IP address and ports a later boot of the member answers.
//   - After a call that changed the engine, call [Host.Changed]. If [Host.Waits], give large
//     changes, and all while [Host.Lags], to [Host.Replicate] instead, and answer only after
//     it. Ask [Host.Decides] before the call and again before the answer.
package replication
