// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"time"

	"github.com/bucketring/bucketring/bench/report"
)

// callTimeout is how long a call may take, which is more than any does.
const callTimeout = 30 * time.Second

// row is a row of the table: a kind of call with a number of callers.
type row struct {
	name    string
	callers int
	ask     call
	server  *server // nil: its CPU time is not known
	samples []sample
}

// run is a run in progress.
type run struct {
	o        *Options
	dir      string // for logs of processes
	rows     []*row
	edges    []*edge
	versions []report.Flag
	cleanups []func() error
}

// Run starts nodes and other servers, and measures all rows. It ends them before it returns.
func Run(ctx context.Context, o Options) (result *Result, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	b := &run{o: &o}
	defer func() { err = errors.Join(err, b.close()) }()
	if b.dir, err = os.MkdirTemp("", "bucketring-wire-"); err != nil {
		return nil, err
	}
	b.onClose(func() error { return os.RemoveAll(b.dir) })
	if err := b.addRows(ctx); err != nil {
		return nil, err
	}
	if o.Only != nil {
		b.rows = slices.DeleteFunc(b.rows, func(r *row) bool { return !o.Only.MatchString(r.name) })
		b.edges = slices.DeleteFunc(b.edges, func(e *edge) bool { return !o.Only.MatchString("hot key, " + e.name) })
	}
	if len(b.rows) == 0 {
		return nil, errors.New("only: matches no row")
	}
	stop, err := b.profileSelf()
	if err != nil {
		return nil, err
	}
	err = b.measure(ctx)
	if err = errors.Join(err, stop()); err != nil {
		return nil, err
	}
	if err := b.measureEdges(ctx); err != nil {
		return nil, err
	}
	return b.result(), nil
}

func (b *run) onClose(f func() error) { b.cleanups = append(b.cleanups, f) }

func (b *run) close() error {
	var problems []error
	for _, f := range slices.Backward(b.cleanups) {
		problems = append(problems, f())
	}
	return errors.Join(problems...)
}

// add adds a row for each number of callers.
func (b *run) add(name string, s *server, ask call, callers ...int) {
	for _, n := range callers {
		b.rows = append(b.rows, &row{name: name, callers: n, ask: ask, server: s})
	}
}

// measure runs every row once per round, in shuffled order.
func (b *run) measure(ctx context.Context) error {
	total := b.o.Rounds * len(b.rows)
	for round := range b.o.Rounds {
		for i, at := range rand.Perm(len(b.rows)) {
			r := b.rows[at]
			name := fmt.Sprintf("%s, %d callers", r.name, r.callers)
			if b.o.Progress != nil {
				b.o.Progress(round*len(b.rows)+i, total, name)
			}
			wait := func() error { return nil }
			if round == 0 {
				wait = b.profileNodes(ctx, r)
			}
			s, err := loop(ctx, r.ask, r.callers, b.o.Length, r.server)
			if err = errors.Join(err, wait()); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			r.samples = append(r.samples, s)
		}
	}
	return nil
}
