// SPDX-License-Identifier: Apache-2.0

// Package local runs a cluster of child processes on the loopback interface, for
// benchmarks and tests, and injects faults at given times.
//
//	cluster, err := local.Start(ctx, local.Options{Nodes: 3})
//	...
//	defer cluster.Stop()
//	record, err := cluster.Run(ctx, time.Now(), plan)
//
// Each child runs `bucketring serve`, as users do. This package only uses its flags
// and its HTTP API.
//
// No child outlives the cluster: [Cluster.Stop] and the end of the context given to
// [Start] end all of them. On Linux the kernel kills them if this process dies.
// Elsewhere they would continue to run, and their CPU time and memory are not measured.
package local
