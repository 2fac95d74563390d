// SPDX-License-Identifier: Apache-2.0

package local

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Plan is what happens to a cluster during a run. It never changes; nil is a plan
// in which nothing happens.
type Plan struct {
	nodes int
	total int // with those that join
	steps []step
}

// step is a fault and the number of its node, of one that joins, too.
type step struct {
	Fault
	node int // 0: all
}

// NewPlan puts faults in order. It returns every problem: a fault must be within
// the run, and of a node that is there and runs at that time.
func NewPlan(nodes int, length time.Duration, faults ...Fault) (*Plan, error) {
	if nodes < 1 || nodes > maxNodes {
		return nil, fmt.Errorf("nodes: must be 1 to %d, got %d", maxNodes, nodes)
	}
	faults = slices.SortedStableFunc(slices.Values(faults), func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	p := &Plan{nodes: nodes}
	r := rehearsal{length: length, nodes: make([]foreseen, nodes)}
	var problems []error
	for _, f := range faults {
		node, err := r.play(f)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", f, err))
		}
		p.steps = append(p.steps, step{f, node})
	}
	p.total = len(r.nodes)
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return p, nil
}

// Faults returns them in order.
func (p *Plan) Faults() []Fault {
	if p == nil {
		return nil
	}
	faults := make([]Fault, len(p.steps))
	for i, s := range p.steps {
		faults[i] = s.Fault
	}
	return faults
}

// rehearsal goes through a plan without a cluster.
type rehearsal struct {
	length time.Duration
	nodes  []foreseen
}

// foreseen is how a node will be.
type foreseen struct {
	down        string // why; empty: it is not
	since       time.Duration
	pausedUntil time.Duration
}

// play checks the next fault. It returns the number of its node.
func (r *rehearsal) play(f Fault) (node int, err error) {
	switch {
	case forms[f.Kind] == "":
		return 0, fmt.Errorf("no fault is called %q", f.Kind)
	case f.At < 0 || f.At >= r.length:
		return 0, fmt.Errorf("it is not within the run, which takes %s", brief(r.length))
	case f.Kind == Restart:
		return 0, r.restart(f)
	case f.Kind == Join && f.Node == 0:
		if len(r.nodes) == maxNodes {
			return 0, fmt.Errorf("there are %d nodes already", maxNodes)
		}
		r.nodes = append(r.nodes, foreseen{})
		return len(r.nodes), nil
	case f.Node < 1 || f.Node > len(r.nodes):
		return 0, fmt.Errorf("there is no node %d at that time, only 1 to %d", f.Node, len(r.nodes))
	}
	return f.Node, r.nodes[f.Node-1].play(f, r.length)
}

func (r *rehearsal) restart(f Fault) error {
	if f.Node != 0 || f.Wait < 0 {
		return errors.New("it is of all nodes, and the time between them must not be negative")
	}
	if !slices.ContainsFunc(r.nodes, func(n foreseen) bool { return n.down == "" }) {
		return errors.New("no node runs at that time")
	}
	return nil
}

func (n *foreseen) play(f Fault, length time.Duration) error {
	switch {
	case f.Kind == Join && n.down == "":
		return fmt.Errorf("%s runs at that time", nameOf(f.Node))
	case f.Kind == Join:
		*n = foreseen{}
		return nil
	case n.down != "":
		return fmt.Errorf("%s is down since it was %s at %s", nameOf(f.Node), n.down, brief(n.since))
	case f.At < n.pausedUntil:
		return fmt.Errorf("%s is paused until %s", nameOf(f.Node), brief(n.pausedUntil))
	}
	switch f.Kind {
	case Kill:
		n.down, n.since = "killed", f.At
	case Leave:
		n.down, n.since = "told to leave", f.At
	case Pause:
		if f.For <= 0 || f.For > length-f.At {
			return fmt.Errorf("it must go on within the run, which takes %s", brief(length))
		}
		n.pausedUntil = f.At + f.For
	}
	return nil
}

func nameOf(node int) string { return fmt.Sprintf("bench-%d", node) }
