// SPDX-License-Identifier: Apache-2.0

package local_test

import (
	"context"
	"fmt"
	"time"

	"github.com/bucketring/bucketring/bench/local"
)

// Three nodes, of which one crashes and comes back.
func Example() {
	const length = 30 * time.Second
	kill, err := local.ParseFault(local.Kill, "2@10s")
	if err != nil {
		fmt.Println(err)
		return
	}
	plan, err := local.NewPlan(3, length, kill, local.Fault{Kind: local.Join, Node: 2, At: 20 * time.Second})
	if err != nil {
		fmt.Println(err)
		return
	}

	cluster, err := local.Start(context.Background(), local.Options{Nodes: 3, Binary: "bin/bucketring"})
	if err != nil {
		fmt.Println(err) // with the end of the log of the node that is to blame
		return
	}
	defer cluster.Stop()

	ctx, cancel := context.WithTimeout(context.Background(), length)
	defer cancel()
	// Meanwhile calls go to cluster.GRPC().
	record, err := cluster.Run(ctx, time.Now(), plan)
	if err != nil {
		fmt.Println(err)
	}
	for _, m := range record.Marks {
		fmt.Println(m.At, m.EffectiveAt, m.Text)
	}
}
