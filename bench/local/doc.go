// SPDX-License-Identifier: Apache-2.0

// Package local runs a cluster of child processes on loopback, for a bench or a
// test, and breaks it at given times.
//
//	cluster, err := local.Start(ctx, local.Options{Nodes: 3})
//	...
//	defer cluster.Stop()
//	record, err := cluster.Run(run, time.Now(), plan) // until run is done
//
// The children are what a user runs, one `bucketring serve` each. This package
// knows them by their flags and their HTTP doors only.
//
// No child outlives the cluster: [Cluster.Stop] ends all of them, and so does the
// end of the context given to [Start]. On Linux the kernel kills them if this
// process dies in any way; elsewhere they live on then, and the processor time and
// memory that they use are not known.
package local
