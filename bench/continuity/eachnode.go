// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"context"
	"errors"
	"hash/fnv"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/target"
)

// eachNode sends each call to one of the nodes, by its id, so that the nodes on both sides of a
// split are asked and forward to the other side.
type eachNode struct{ nodes []bench.Target }

// openEachNode connects to nodes at gRPC addresses.
func openEachNode(addresses []string) (*eachNode, error) {
	e := &eachNode{}
	for _, a := range addresses {
		t, err := target.Open("grpc:"+a, target.Options{Insecure: true})
		if err != nil {
			return nil, errors.Join(err, e.Close())
		}
		e.nodes = append(e.nodes, t)
	}
	return e, nil
}

// ingress returns the number of the node that a call is sent to, from 1.
func (e *eachNode) ingress(id string) int {
	h := fnv.New32a()
	_, _ = h.Write([]byte(id))
	return int(h.Sum32()%uint32(len(e.nodes))) + 1
}

func (e *eachNode) node(id string) bench.Target { return e.nodes[e.ingress(id)-1] }

// Name implements [bench.Target].
func (e *eachNode) Name() string { return "each node" }

// Check implements [bench.Target].
func (e *eachNode) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return e.node(c.ID).Check(ctx, c)
}

// Reserve implements [bench.Target].
func (e *eachNode) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	return e.node(c.ID).Reserve(ctx, c)
}

// Settle implements [bench.Target].
func (e *eachNode) Settle(ctx context.Context, u bench.Usage) (bench.Answer, error) {
	return e.node(u.ID).Settle(ctx, u)
}

// ReadUsage implements [bench.UsageReader].
func (e *eachNode) ReadUsage(ctx context.Context, key, tier, model string) ([]bench.LimitUsage, error) {
	return e.nodes[0].(bench.UsageReader).ReadUsage(ctx, key, tier, model) // grpc: targets implement it
}

// Close implements [bench.Target].
func (e *eachNode) Close() error {
	var problems []error
	for _, n := range e.nodes {
		problems = append(problems, n.Close())
	}
	return errors.Join(problems...)
}

// ready waits until all nodes answer.
func (e *eachNode) ready(ctx context.Context) error {
	for _, n := range e.nodes {
		if err := target.Ready(ctx, n); err != nil {
			return err
		}
	}
	return nil
}
