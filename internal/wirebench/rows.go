// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/bucketring/bucketring/rpc/client"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	keys      = 10_000
	batchSize = 256
)

func id() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

func checkOf(key string) *pb.CheckRequest {
	return &pb.CheckRequest{Key: key, Tier: "four", InputTokens: 900, OutputTokens: 100, RequestId: id()}
}

func keyName(n int) string { return fmt.Sprintf("user-%06d", n%keys) }

// ownRows adds the rows of echoes and nodes.
func (b *bench) ownRows(ctx context.Context) error {
	single, err := b.dial(b.single[0].grpc)
	if err != nil {
		return err
	}
	api := pb.NewRateLimiterClient(single)
	all := make([]string, keys)
	for i := range all {
		all[i] = keyName(i)
	}
	request := checkOf(all[0])
	answer, err := api.Check(ctx, request, grpc.WaitForReady(true))
	if err != nil {
		return err
	}
	batchRequest := batchOf(all, 0)
	batchAnswer, err := api.Batch(ctx, batchRequest)
	if err != nil {
		return err
	}
	if err := b.echoRows(
		proto.Size(request), proto.Size(answer), proto.Size(batchRequest), proto.Size(batchAnswer),
	); err != nil {
		return err
	}

	b.add("unary check, one node", b.single, unary(api, all), 1, 16, 128)
	b.add("unary check of 1 limit, one node", b.single, func(ctx context.Context, caller, turn int) (int, error) {
		r := checkOf(spread(all, caller, turn))
		r.Tier = "one"
		return 1, admitted(api.Check(ctx, r))
	}, 16, 128)
	b.add("unary reserve, 2 levels of 4 limits, one node", b.single, func(ctx context.Context, caller, turn int) (int, error) {
		n := rand.IntN(keys)
		return 1, admitted(api.Reserve(ctx, &pb.ReserveRequest{
			Key: fmt.Sprintf("org-%03d/%s", n%100, keyName(n)), Tier: "four", InputTokens: 900, MaxOutputTokens: new(int64(100)), RequestId: id(),
		}))
	}, 16, 128)
	b.add("batch of 256, one node", b.single, func(ctx context.Context, caller, turn int) (int, error) {
		answers, err := api.Batch(ctx, batchOf(all, rand.IntN(keys)))
		return len(answers.GetResults()), err
	}, 1, 16)
	if err := b.libraryRows("client library, one node", b.single, all); err != nil {
		return err
	}
	return b.clusterRows(ctx, all)
}

func (b *bench) echoRows(request, answer, batchRequest, batchAnswer int) error {
	conn, err := b.dial(b.echo.grpc)
	if err != nil {
		return err
	}
	b.add("echo of a check", []*child{b.echo}, echo(conn, request, answer, 1), 1, 16, 128, 1024)
	b.add("echo of a batch of 256", []*child{b.echo}, echo(conn, batchRequest, batchAnswer, batchSize), 1, 16)
	return nil
}

func echo(conn *grpc.ClientConn, size, answer, checks int) call {
	return func(ctx context.Context, _, _ int) (int, error) {
		out := new(wrapperspb.BytesValue)
		if err := conn.Invoke(ctx, echoMethod, newRequest(size, answer), out); err != nil {
			return 0, err
		}
		if len(out.GetValue()) != answer {
			return 0, fmt.Errorf("the echo has %d bytes, want %d", len(out.GetValue()), answer)
		}
		return checks, nil
	}
}

// clusterRows adds rows of a cluster of three: calls to the owner, to a node that
// forwards, and through the client library.
func (b *bench) clusterRows(ctx context.Context, all []string) error {
	conn, err := b.dial(b.cluster[0].grpc)
	if err != nil {
		return err
	}
	api := pb.NewRateLimiterClient(conn)
	mine, others, err := owned(ctx, api, all, len(b.cluster))
	if err != nil {
		return err
	}
	b.add("unary check at the owner, 3 nodes", b.cluster, unary(api, mine), 1, 16, 128)
	b.add("unary check through a non-owner, 3 nodes", b.cluster, unary(api, others), 1, 16, 128)
	return b.libraryRows("client library, 3 nodes", b.cluster, all)
}

// owned waits for a ring of n members. It returns the keys that node-1 owns and those of
// other nodes.
func owned(ctx context.Context, api pb.RateLimiterClient, all []string, n int) (mine, others []string, err error) {
	for deadline := time.Now().Add(patience); ; pause(ctx, 50*time.Millisecond) {
		owners := map[string]bool{}
		mine, others = nil, nil
		for chunk := range slices.Chunk(all, 1000) {
			where, err := api.Locate(ctx, &pb.LocateRequest{Keys: chunk}, grpc.WaitForReady(true))
			if err != nil {
				return nil, nil, err
			}
			for _, l := range where.GetLocations() {
				owners[l.GetOwner()] = true
				if l.GetOwner() == "node-1" {
					mine = append(mine, l.GetKey())
				} else {
					others = append(others, l.GetKey())
				}
			}
		}
		if len(owners) == n {
			return mine, others, nil
		}
		if time.Now().After(deadline) {
			return nil, nil, fmt.Errorf("%d of %d nodes own keys after %s: the cluster did not form", len(owners), n, patience)
		}
	}
}

func (b *bench) libraryRows(name string, nodes []*child, all []string) error {
	var addrs []string
	for _, n := range nodes {
		addrs = append(addrs, n.grpc)
	}
	c, err := client.Dial(client.Options{Addrs: addrs})
	if err != nil {
		return err
	}
	b.onClose(func() { _ = c.Close() }) // the process is ending
	b.add(name, nodes, func(ctx context.Context, caller, turn int) (int, error) {
		d, err := c.Check(ctx, client.Call{Key: spread(all, caller, turn), Tier: "four", InputTokens: 900, OutputTokens: 100})
		if err == nil && (!d.Allowed() || d.Route == client.Fallback) {
			err = fmt.Errorf("%s by %s", d.Outcome, d.Route)
		}
		return 1, err
	}, 1, 16, 128, 1024)
	return nil
}

func unary(api pb.RateLimiterClient, of []string) call {
	return func(ctx context.Context, caller, turn int) (int, error) {
		return 1, admitted(api.Check(ctx, checkOf(spread(of, caller, turn))))
	}
}

// spread gives every caller another order of keys.
func spread(keys []string, caller, turn int) string { return keys[(caller*7919+turn)%len(keys)] }

func batchOf(all []string, from int) *pb.BatchRequest {
	b := &pb.BatchRequest{}
	for i := range batchSize {
		b.Items = append(b.Items, &pb.Item{Call: &pb.Item_Check{Check: checkOf(all[(from+i)%len(all)])}})
	}
	return b
}

// admitted returns an error for every outcome but allowed.
func admitted(d *pb.Decision, err error) error {
	if err == nil && (d.GetOutcome() != pb.Outcome_OUTCOME_ALLOWED || d.GetRoute() == pb.Route_ROUTE_FALLBACK) {
		return fmt.Errorf("%s for %s by %s", d.GetOutcome(), d.GetReason(), d.GetRoute())
	}
	return err
}
