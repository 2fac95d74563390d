// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// row is a row of the table: a kind of call with a number of callers.
type row struct {
	name    string
	callers int
	ask     call
	servers []*child
	samples []sample
}

type bench struct {
	options
	dir      string
	echo     *child
	single   []*child
	cluster  []*child
	rows     []*row
	edges    []*edge
	cleanups []func()
}

// start starts all servers and creates the rows.
func (b *bench) start(ctx context.Context) (err error) {
	if b.dir, err = os.MkdirTemp("", "wirebench"); err != nil {
		return err
	}
	b.onClose(func() { _ = os.RemoveAll(b.dir) }) // temporary files
	policy, err := writePolicy(b.dir)
	if err != nil {
		return err
	}
	if b.echo, err = spawn(ctx, "echo"); err != nil {
		return err
	}
	b.onClose(b.echo.stop)
	for _, group := range []struct {
		nodes *[]*child
		size  int
	}{{&b.single, 1}, {&b.cluster, 3}} {
		if *group.nodes, err = startNodes(ctx, group.size, policy, b.profiles); err != nil {
			return err
		}
		for _, c := range *group.nodes {
			b.onClose(c.stop)
		}
	}
	if err := b.ownRows(ctx); err != nil {
		return err
	}
	if err := b.peerRows(ctx); err != nil {
		return err
	}
	if err := b.hotRows(ctx); err != nil {
		return fmt.Errorf("hot key: %w", err)
	}
	b.rows = slices.DeleteFunc(b.rows, func(r *row) bool { return !b.only.MatchString(r.name) })
	b.edges = slices.DeleteFunc(b.edges, func(e *edge) bool { return !b.only.MatchString("hot key, " + e.name) })
	if len(b.rows) == 0 {
		return errors.New("--only matches no row")
	}
	return nil
}

func (b *bench) onClose(f func()) { b.cleanups = append(b.cleanups, f) }

func (b *bench) close() {
	for _, f := range slices.Backward(b.cleanups) {
		f()
	}
}

// add adds a row for each number of callers.
func (b *bench) add(name string, servers []*child, ask call, callers ...int) {
	for _, n := range callers {
		b.rows = append(b.rows, &row{name: name, callers: n, ask: ask, servers: servers})
	}
}

// measure runs every row once per round, in shuffled order.
func (b *bench) measure(ctx context.Context) error {
	total := b.rounds * len(b.rows)
	for round := range b.rounds {
		for i, at := range rand.Perm(len(b.rows)) {
			r := b.rows[at]
			fmt.Fprintf(os.Stderr, "\r%d/%d %-60s", round*len(b.rows)+i+1, total, fmt.Sprintf("%s, %d callers", r.name, r.callers))
			s, err := loop(ctx, r.ask, r.callers, b.length, r.servers)
			if err != nil {
				return fmt.Errorf("%s, %d callers: %w", r.name, r.callers, err)
			}
			r.samples = append(r.samples, s)
		}
	}
	fmt.Fprintf(os.Stderr, "\r%80s\r", "")
	return nil
}

// dial returns a plain gRPC connection.
func (b *bench) dial(addr string) (*grpc.ClientConn, error) {
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	b.onClose(func() { _ = conn.Close() }) // the process is ending
	return conn, nil
}
