// SPDX-License-Identifier: Apache-2.0

// Package clienttest has a fake cluster for tests of programs that use package client.
//
// A [Fake] is one node in the process of the test, with a policy that the test gives as text.
// The node decides with the engine that real nodes have, so its answers, charges and errors
// are theirs. [Fake.Client] is a real client that is connected to it in memory: no network is
// needed, and the program under test needs no interface of its own.
//
//	f := clienttest.New(t, clienttest.Options{Policy: `
//	tiers: { free: { tokens: 10_000/min, concurrent: 2 } }
//	default_tier: free
//	`})
//	server := NewServer(f.Client()) // the program under test
//
// The clock of the node is virtual: windows refill and leases expire only with [Fake.Advance].
// The client has the clock of the machine, also for the renewals of [client.Client.Do], or that
// of the bubble in a test with testing/synctest.
//
// Hooks make what is rare happen: [Fake.DenyNext], [Fake.FailNext] and [Fake.SetUnreachable].
// [Fake.Held] and [Fake.Used] tell what is left of the calls of a test.
//
// What a fake does not do: it has no other members, so no call is forwarded or decided in
// fallback, and it lends no slices. Calls do not wait in line: a limit with a queue denies at
// once.
package clienttest
