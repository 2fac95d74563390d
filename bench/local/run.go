// SPDX-License-Identifier: Apache-2.0

package local

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"
)

// Mark is a fault that happened, or a crash. Times are since the start of the run.
type Mark struct {
	At time.Duration `json:"at_ns"` // when it began
	// Until is when it had taken effect: when all nodes that run had a ring without
	// a node that is gone, or with one that is there again and ready. 0: not before
	// the end of the run, or never.
	Until time.Duration `json:"until_ns,omitempty"`
	Kind  Kind          `json:"kind"`
	Node  string        `json:"node"`
	Text  string        `json:"text"`
	// Problem is why it was not done, or not well.
	Problem string `json:"problem,omitempty"`
}

// Record is what became of a cluster during a run.
type Record struct {
	Marks []Mark    `json:"marks"` // by At
	Nodes []NodeUse `json:"nodes,omitempty"`
	Note  string    `json:"note,omitempty"` // why there are no Nodes
}

// CPU is the processor time of all nodes.
func (r *Record) CPU() (sum time.Duration) {
	for _, n := range r.Nodes {
		sum += n.CPU
	}
	return sum
}

// Run does what a plan says, at its times since start, and measures what the
// nodes use from start on, until ctx is done. There is one run at a time, and the
// plan must be for as many nodes as there are, which must run.
//
// The record is there even if there is an error, unless nothing was begun. The
// error names faults that could not be done and nodes that ended by themselves;
// the end of ctx is none.
func (c *Cluster) Run(ctx context.Context, start time.Time, p *Plan) (*Record, error) {
	if p == nil {
		p = &Plan{}
	}
	r := &run{cluster: c, start: start}
	if err := r.enter(p); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.life, cancel)()

	var work sync.WaitGroup
	last := make(map[int]chan struct{}) // by node: closed when the fault before was done
	for _, s := range p.steps {
		before, done := last[s.node], make(chan struct{})
		last[s.node] = done
		work.Go(func() {
			if before != nil {
				<-before // soon after the end of ctx at the latest
			}
			next := sync.OnceFunc(func() { close(done) })
			defer next()
			if sleep(ctx, start.Add(s.At)) || r.now() >= s.At {
				r.do(ctx, s, next)
			}
		})
	}
	var u uses
	work.Go(func() { u.sample(ctx, start, c.all()) })
	work.Wait()

	c.mu.Lock()
	c.mu.run = nil
	c.mu.Unlock()
	record := &Record{Marks: r.sorted(), Nodes: u.nodes, Note: u.note}
	problems := append(r.problems(), c.takeCrashes()...)
	if c.life.Err() != nil {
		problems = append(problems, errStopped)
	}
	return record, errors.Join(problems...)
}

// Marks returns those of the run under way, in order.
func (c *Cluster) Marks() []Mark {
	c.mu.Lock()
	r := c.mu.run
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.sorted()
}

// run is one under way.
type run struct {
	cluster *Cluster
	start   time.Time

	mu struct {
		sync.Mutex
		marks []*Mark
	}
}

// enter makes it the run of its cluster, if the plan fits.
func (r *run) enter(p *Plan) error {
	c := r.cluster
	if len(p.steps) > 0 {
		nodes := c.all()
		if len(nodes) != p.nodes {
			return fmt.Errorf("the plan is for %d nodes, and there are %d", p.nodes, len(nodes))
		}
		for _, n := range nodes {
			if _, _, ok := n.up(); !ok {
				return fmt.Errorf("a plan begins with all nodes: %w", n.notUp())
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.stopping:
		return errStopped
	case c.mu.run != nil:
		return errors.New("another run is under way")
	}
	c.mu.run = r
	if err := c.growLocked(p.total); err != nil {
		c.mu.run = nil
		return err
	}
	return nil
}

// now is the time since the start.
func (r *run) now() time.Duration { return time.Since(r.start) }

// begin adds a mark. It is the caller's until the mark is ended.
func (r *run) begin(kind Kind, node, text string) *Mark {
	m := &Mark{At: r.now(), Kind: kind, Node: node, Text: text}
	r.mu.Lock()
	r.mu.marks = append(r.mu.marks, m)
	r.mu.Unlock()
	r.cluster.log("%s: %s", m.At.Round(time.Millisecond), text)
	return m
}

// took ends a mark: it has taken effect.
func (r *run) took(m *Mark) {
	r.mu.Lock()
	m.Until = r.now()
	r.mu.Unlock()
	r.cluster.log("%s: %s: has taken effect", m.Until.Round(time.Millisecond), m.Text)
}

// failed ends a mark: it was not done, or not well.
func (r *run) failed(m *Mark, err error) {
	r.mu.Lock()
	m.Problem = err.Error()
	r.mu.Unlock()
	r.cluster.log("%s: %s: %v", r.now().Round(time.Millisecond), m.Text, err)
}

func (r *run) sorted() []Mark {
	r.mu.Lock()
	defer r.mu.Unlock()
	marks := make([]Mark, len(r.mu.marks))
	for i, m := range r.mu.marks {
		marks[i] = *m
	}
	slices.SortStableFunc(marks, func(a, b Mark) int { return cmp.Compare(a.At, b.At) })
	return marks
}

func (r *run) problems() (problems []error) {
	for _, m := range r.sorted() {
		if m.Problem != "" {
			problems = append(problems, fmt.Errorf("%s: %s", m.Text, m.Problem))
		}
	}
	return problems
}

// sleep waits until a time. It reports whether that came before the end of ctx.
func sleep(ctx context.Context, until time.Time) bool {
	timer := time.NewTimer(time.Until(until))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return ctx.Err() == nil
	}
}
