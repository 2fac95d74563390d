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

// Mark is a fault that was applied, or a crash. Times are since the start of the run.
type Mark struct {
	At time.Duration `json:"at_ns"` // when it began
	// EffectiveAt is when it had taken effect: when the rings of all running nodes no
	// longer had a stopped node, or had a started node that was ready. 0 means that it
	// had not by the end of the run.
	EffectiveAt time.Duration `json:"until_ns,omitempty"`
	Kind        FaultKind     `json:"kind"`
	Node        string        `json:"node"`
	Text        string        `json:"text"`
	// Problem is why it was not applied or failed; empty if it succeeded.
	Problem string `json:"problem,omitempty"`
}

// Record is what happened to a cluster during a run.
type Record struct {
	Marks []Mark      `json:"marks"` // by At
	Nodes []NodeUsage `json:"nodes,omitempty"`
	// Bench is the usage of this process.
	Bench NodeUsage `json:"bench,omitzero"`
	Note  string    `json:"note,omitempty"` // why Nodes is empty
}

// CPU returns the CPU time of all nodes.
func (r *Record) CPU() (sum time.Duration) {
	for _, n := range r.Nodes {
		sum += n.CPU
	}
	return sum
}

// Run applies the faults of a plan at their times after start, and samples the usage of
// the nodes, until ctx is done. Only one Run may be in progress. The plan must be for
// the number of nodes that there are, and all of them must be running.
//
// The error joins the faults that failed and the crashes of nodes; the end of ctx is
// not an error. The record is nil only if nothing was started.
func (c *Cluster) Run(ctx context.Context, start time.Time, p *Plan) (*Record, error) {
	if p == nil {
		p = &Plan{}
	}
	r := &run{cluster: c, start: start}
	if err := r.register(p); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	defer context.AfterFunc(c.ctx, cancel)()

	var work sync.WaitGroup
	last := make(map[int]chan struct{}) // by node: closed when its previous fault was applied
	for _, s := range p.steps {
		before, done := last[s.node], make(chan struct{})
		last[s.node] = done
		work.Go(func() {
			if before != nil {
				<-before // closed soon after the end of ctx at the latest
			}
			next := sync.OnceFunc(func() { close(done) })
			defer next()
			if sleep(ctx, start.Add(s.At)) || r.now() >= s.At {
				r.execute(ctx, s, next)
			}
		})
	}
	var u usageSampler
	work.Go(func() { u.sample(ctx, start, c.allNodes()) })
	work.Wait()

	c.mu.Lock()
	c.mu.run = nil
	c.mu.Unlock()
	record := &Record{Marks: r.sorted(), Nodes: u.nodes, Bench: u.own, Note: u.note}
	problems := append(r.problems(), c.takeCrashes()...)
	if c.ctx.Err() != nil {
		problems = append(problems, errStopped)
	}
	return record, errors.Join(problems...)
}

// Marks returns the marks of the Run in progress, by time. It returns nil if there is none.
func (c *Cluster) Marks() []Mark {
	c.mu.Lock()
	r := c.mu.run
	c.mu.Unlock()
	if r == nil {
		return nil
	}
	return r.sorted()
}

// run is a Run in progress.
type run struct {
	cluster *Cluster
	start   time.Time

	mu struct {
		sync.Mutex
		marks []*Mark
	}
}

// register makes r the run of its cluster, if the plan fits.
func (r *run) register(p *Plan) error {
	c := r.cluster
	if len(p.steps) > 0 {
		nodes := c.allNodes()
		if len(nodes) != p.nodes {
			return fmt.Errorf("the plan is for %d nodes, got %d", p.nodes, len(nodes))
		}
		for _, n := range nodes {
			if _, _, ok := n.runningChild(); !ok {
				return fmt.Errorf("all nodes must be running: %w", n.stateError())
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.mu.stopping:
		return errStopped
	case c.mu.run != nil:
		return errors.New("another run is in progress")
	}
	c.mu.run = r
	if err := c.addNodesLocked(p.total); err != nil {
		c.mu.run = nil
		return err
	}
	return nil
}

// now returns the time since the start.
func (r *run) now() time.Duration { return time.Since(r.start) }

// addMark adds a mark. The caller ends it with effective or fail.
func (r *run) addMark(kind FaultKind, node, text string) *Mark {
	m := &Mark{At: r.now(), Kind: kind, Node: node, Text: text}
	r.mu.Lock()
	r.mu.marks = append(r.mu.marks, m)
	r.mu.Unlock()
	r.cluster.log("%s: %s", m.At.Round(time.Millisecond), text)
	return m
}

// effective ends a mark: the fault has taken effect.
func (r *run) effective(m *Mark) {
	r.mu.Lock()
	m.EffectiveAt = r.now()
	r.mu.Unlock()
	r.cluster.log("%s: %s: has taken effect", m.EffectiveAt.Round(time.Millisecond), m.Text)
}

// fail ends a mark: the fault was not applied, or failed.
func (r *run) fail(m *Mark, err error) {
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

// sleep waits until a time. It returns false if ctx is done earlier.
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
