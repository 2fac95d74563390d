// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/rpc/pb"
)

const (
	keys         = 10_000
	batchSize    = 256
	pipelineSize = 16
)

// echoRow is the row that others are compared with.
const echoRow = "echo of a check"

func newID() string { return fmt.Sprintf("%016x%016x", rand.Uint64(), rand.Uint64()) }

// organizations returns the roots of keys with two levels.
func organizations() []string {
	orgs := make([]string, 100)
	for i := range orgs {
		orgs[i] = fmt.Sprintf("org-%03d", i)
	}
	return orgs
}

func keyName(n int) string { return fmt.Sprintf("user-%06d", n%keys) }

// spread gives every caller another order of keys.
func spread(of []string, caller, turn int) string { return of[(caller*7919+turn)%len(of)] }

func checkOf(key, tier string) bench.Call {
	return bench.Call{Key: key, Tier: tier, InputTokens: 900, OutputTokens: 100, ID: newID()}
}

// checks returns the call of checks of some keys.
func checks(t bench.Target, of []string, tier string) call {
	return func(ctx context.Context, caller, turn int) (int, error) {
		c := checkOf(spread(of, caller, turn), tier)
		return 1, admitted(t.Check(ctx, &c))
	}
}

// batches returns the call of several checks at once.
func batches(t bench.Target, of []string, tier string, size int) (call, error) {
	b, ok := t.(target.Batcher)
	if !ok {
		return nil, fmt.Errorf("%s sends no batches", t.Name())
	}
	return func(ctx context.Context, _, _ int) (int, error) {
		from := rand.IntN(len(of))
		calls := make([]bench.Call, size)
		for i := range calls {
			calls[i] = checkOf(of[(from+i)%len(of)], tier)
		}
		answers, err := b.CheckBatch(ctx, calls)
		for i := 0; i < len(answers) && err == nil; i++ {
			err = admitted(answers[i], nil)
		}
		return len(answers), err
	}, nil
}

// admitted returns an error for every answer but that the call is allowed by the owner.
func admitted(a bench.Answer, err error) error {
	if err == nil && (a.Outcome != bench.Allowed || a.Route == "fallback") {
		return fmt.Errorf("%s for %s by %s", a.Outcome, a.Reason, a.Route)
	}
	return err
}

// settled returns an error unless the owner settled a call.
func settled(a bench.Answer, err error) error {
	if err == nil && a.Route == "fallback" {
		return fmt.Errorf("settled in fallback by %s", a.Owner)
	}
	return err
}

// addRows starts all servers, and adds their rows.
func (b *run) addRows(ctx context.Context) error {
	all := make([]string, keys)
	for i := range all {
		all[i] = keyName(i)
	}
	if err := b.echoRows(ctx, all); err != nil {
		return fmt.Errorf("echo: %w", err)
	}
	if err := b.nodeRows(ctx, all); err != nil {
		return fmt.Errorf("one node: %w", err)
	}
	cluster, server, err := b.startNodes(ctx, local.Options{Nodes: 3, RESP: true, Persist: true})
	if err != nil {
		return fmt.Errorf("three nodes: %w", err)
	}
	if err := b.clusterRows(ctx, cluster, server, all); err != nil {
		return fmt.Errorf("three nodes: %w", err)
	}
	for _, spec := range b.o.Versus {
		if err := b.versusRows(ctx, spec, all); err != nil {
			return err
		}
	}
	if err := b.hotRows(ctx, cluster, server); err != nil {
		return fmt.Errorf("hot key: %w", err)
	}
	if b.o.Gubernator == "" {
		return nil
	}
	if err := b.gubernatorRows(ctx, all); err != nil {
		return fmt.Errorf("gubernator: %w", err)
	}
	return nil
}

func (b *run) echoRows(ctx context.Context, all []string) error {
	t, s, err := b.startEcho(ctx)
	if err != nil {
		return err
	}
	batch, err := batches(t, all, "four", batchSize)
	if err != nil {
		return err
	}
	b.add(echoRow, s, checks(t, all, "four"), 1, 16, 128, 1024)
	b.add("echo of a batch of 256", s, batch, 1, 16)
	return nil
}

// nodeRows adds the rows of a node that copies and writes nothing.
func (b *run) nodeRows(ctx context.Context, all []string) error {
	c, s, err := b.startNodes(ctx, local.Options{Nodes: 1, RESP: true})
	if err != nil {
		return err
	}
	if err := b.checkRows(ctx, ", one node", c, s, all, organizations()); err != nil {
		return err
	}
	return b.libraryRows(ctx, "client library, one node", c, s, all)
}

// clusterRows adds rows of a cluster of three: calls to the owner, to a node that
// forwards, and through the client library.
func (b *run) clusterRows(ctx context.Context, c *local.Cluster, s *server, all []string) error {
	first := c.Nodes()[0]
	mine, others, err := owned(ctx, first, all)
	if err != nil {
		return err
	}
	orgs, _, err := owned(ctx, first, organizations())
	if err != nil {
		return err
	}
	if err := b.checkRows(ctx, " at the owner, 3 nodes", c, s, mine, orgs); err != nil {
		return err
	}
	t, err := b.open(ctx, "grpc:"+first.GRPC, target.Options{Timeout: callTimeout})
	if err != nil {
		return err
	}
	b.add("unary check through a non-owner, 3 nodes", s, checks(t, others, "four"), 1, 16, 128)
	return b.libraryRows(ctx, "client library, 3 nodes", c, s, all)
}

// checkRows adds the rows of one call per check or batch to the first node, by gRPC, HTTP and
// the protocol of Redis.
func (b *run) checkRows(ctx context.Context, where string, c *local.Cluster, s *server, of, orgs []string) error {
	node := c.Nodes()[0]
	t, err := b.open(ctx, "grpc:"+node.GRPC, target.Options{Timeout: callTimeout})
	if err != nil {
		return err
	}
	batch, err := batches(t, of, "four", batchSize)
	if err != nil {
		return err
	}
	b.add("unary check"+where, s, checks(t, of, "four"), 1, 16, 128)
	b.add("unary check of 1 limit"+where, s, checks(t, of, "one"), 16, 128)
	b.add("unary reserve and settle, 2 levels of 4 limits"+where, s, func(ctx context.Context, _, _ int) (int, error) {
		n := rand.IntN(keys)
		c := bench.Call{Key: orgs[n%len(orgs)] + "/" + keyName(n), Tier: "four", InputTokens: 900, MaxOutputTokens: 100, ID: newID()}
		if err := admitted(t.Reserve(ctx, &c)); err != nil {
			return 0, err
		}
		return 2, settled(t.Settle(ctx, bench.Usage{ID: c.ID, Key: c.Key, InputTokens: 900, OutputTokens: 60, Final: true}))
	}, 16, 128)
	b.add("batch of 256"+where, s, batch, 1, 16)
	http, err := b.open(ctx, "http://"+node.HTTP, target.Options{Timeout: callTimeout})
	if err != nil {
		return err
	}
	b.add("HTTP/JSON check"+where, s, checks(http, of, "four"), 1, 16, 128)
	return b.respRows(ctx, where, node.RESP, s, of)
}

// respRows adds the rows of the protocol of Redis.
func (b *run) respRows(ctx context.Context, where, at string, s *server, of []string) error {
	t, err := b.open(ctx, "resp://"+at, target.Options{Timeout: callTimeout})
	if err != nil {
		return err
	}
	several, err := batches(t, of, "four", pipelineSize)
	if err != nil {
		return err
	}
	b.add("BR.CHECK of 4 limits"+where, s, checks(t, of, "four"), 1, 16, 128)
	b.add("BR.CHECK of 4 limits, 16 at once"+where, s, several, 1, 16)
	throttle, err := b.open(ctx, "throttle://"+at, target.Options{Timeout: callTimeout, Limits: fourLimits[:1]})
	if err != nil {
		return err
	}
	b.add("CL.THROTTLE"+where, s, decided(throttle, of), 1, 16, 128)
	b.add("CL.THROTTLE, 16 at once"+where, s, decidedTogether(throttle.(target.Batcher), of), 1, 16)
	return nil
}

func (b *run) libraryRows(ctx context.Context, name string, c *local.Cluster, s *server, all []string) error {
	t, err := b.open(ctx, "client:"+strings.Join(c.GRPCAddrs(), ","), target.Options{Timeout: callTimeout})
	if err != nil {
		return err
	}
	b.add(name, s, checks(t, all, "four"), 1, 16, 128, 1024)
	return nil
}

// owned returns the keys that a node owns and those of other nodes.
func owned(ctx context.Context, node local.Node, all []string) (mine, others []string, err error) {
	conn, err := grpc.NewClient(node.GRPC, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, conn.Close()) }()
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	for chunk := range slices.Chunk(all, 1000) {
		where, err := pb.NewRateLimiterClient(conn).Locate(ctx, &pb.LocateRequest{Keys: chunk}, grpc.WaitForReady(true))
		if err != nil {
			return nil, nil, fmt.Errorf("locate keys: %w", err)
		}
		for _, l := range where.GetLocations() {
			if l.GetOwner() == node.Name {
				mine = append(mine, l.GetKey())
			} else {
				others = append(others, l.GetKey())
			}
		}
	}
	if len(mine) == 0 || len(others) == 0 {
		return nil, nil, fmt.Errorf("%s owns %d of %d keys, want a part of them", node.Name, len(mine), len(all))
	}
	return mine, others, nil
}

// versusRows adds the rows of a target that somebody else runs.
func (b *run) versusRows(ctx context.Context, spec string, all []string) error {
	limits := []int{1}
	if severalLimits(spec) {
		limits = []int{1, len(fourLimits)}
	}
	for _, n := range limits {
		t, err := b.open(ctx, spec, b.o.targetOptions(spec, n))
		if err != nil {
			return err
		}
		name := t.Name()
		if len(limits) > 1 {
			name += map[int]string{1: ", 1 limit", 4: ", 4 limits"}[n]
		}
		if n == 1 {
			if version := target.Version(ctx, t); version != "" {
				b.versions = append(b.versions, report.Flag{Name: t.Name(), Value: version})
			}
		}
		b.add(name, nil, decided(t, all), 1, 16, 128)
		if _, ok := t.(target.Batcher); !ok {
			continue
		}
		first := checkOf(all[0], "")
		if _, err := t.Check(ctx, &first); err != nil { // a script is there for pipelines then
			return err
		}
		b.add(name+", 16 at once", nil, decidedTogether(t.(target.Batcher), all), 1, 16)
	}
	return nil
}

// decided returns the call of checks of which some may be denied: another may have given the
// target its limits.
func decided(t bench.Target, of []string) call {
	return func(ctx context.Context, caller, turn int) (int, error) {
		c := checkOf(spread(of, caller, turn), "")
		_, err := t.Check(ctx, &c)
		return 1, err
	}
}

func decidedTogether(b target.Batcher, of []string) call {
	return func(ctx context.Context, _, _ int) (int, error) {
		from := rand.IntN(len(of))
		calls := make([]bench.Call, pipelineSize)
		for i := range calls {
			calls[i] = checkOf(of[(from+i)%len(of)], "")
		}
		answers, err := b.CheckBatch(ctx, calls)
		return len(answers), err
	}
}

func (b *run) gubernatorRows(ctx context.Context, all []string) error {
	for _, daemons := range []int{1, 3} {
		first, t, s, err := b.startGubernator(ctx, daemons)
		if err != nil {
			return err
		}
		name := "Gubernator, one daemon, 1 limit"
		if daemons > 1 {
			name = fmt.Sprintf("Gubernator, %d daemons, 1 limit", daemons)
		}
		b.add(name, s, checks(t, all, ""), 1, 16, 128)
		if daemons > 1 {
			if err := b.hotGubernator(ctx, first, daemons, s); err != nil {
				return err
			}
		}
	}
	return nil
}

// pause waits, or until ctx ends.
func pause(ctx context.Context, d time.Duration) { waitFor(ctx, nil, d) }

// waitFor waits until done is closed, for at most a time.
func waitFor(ctx context.Context, done <-chan struct{}, atMost time.Duration) {
	timer := time.NewTimer(atMost)
	defer timer.Stop()
	select {
	case <-done:
	case <-timer.C:
	case <-ctx.Done():
	}
}
