// SPDX-License-Identifier: Apache-2.0

package local

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"time"
)

// Plan is a validated sequence of faults. It is immutable. A nil Plan has no faults.
type Plan struct {
	nodes int
	total int // including nodes that join
	steps []step
}

// step is a fault and the number of its node.
type step struct {
	Fault
	node int // 0 means all
}

// NewPlan validates faults for a cluster of so many nodes and a run of that length, and
// orders them by time. A fault must be within the run, and its node in the right state
// at that time. The error joins all problems.
func NewPlan(nodes int, length time.Duration, faults ...Fault) (*Plan, error) {
	if nodes < 1 || nodes > maxNodes {
		return nil, fmt.Errorf("nodes: must be 1 to %d, got %d", maxNodes, nodes)
	}
	faults = slices.SortedStableFunc(slices.Values(faults), func(a, b Fault) int { return cmp.Compare(a.At, b.At) })
	p := &Plan{nodes: nodes}
	r := planChecker{length: length, nodes: make([]plannedNode, nodes)}
	var problems []error
	for _, f := range faults {
		node, err := r.check(f)
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

// Faults returns the faults by time.
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

// planChecker simulates a plan without a cluster.
type planChecker struct {
	length time.Duration
	nodes  []plannedNode
}

// plannedNode is the simulated state of a node.
type plannedNode struct {
	down        string // the reason; empty if the node is up
	since       time.Duration
	pausedUntil time.Duration
}

// check checks the next fault. It returns the number of its node.
func (r *planChecker) check(f Fault) (node int, err error) {
	switch {
	case faultSyntax[f.Kind] == "":
		return 0, fmt.Errorf("unknown kind of fault %q", f.Kind)
	case f.At < 0 || f.At >= r.length:
		return 0, fmt.Errorf("must be within the run, which takes %s", formatDuration(r.length))
	case f.Kind == Restart:
		return 0, r.restart(f)
	case f.Kind == Busy:
		return 0, r.busy(f)
	case f.Kind == Join && f.Node == 0:
		if len(r.nodes) == maxNodes {
			return 0, fmt.Errorf("must be at most %d nodes", maxNodes)
		}
		r.nodes = append(r.nodes, plannedNode{})
		return len(r.nodes), nil
	case f.Node < 1 || f.Node > len(r.nodes):
		return 0, fmt.Errorf("unknown node %d, there are 1 to %d at that time", f.Node, len(r.nodes))
	}
	return f.Node, r.nodes[f.Node-1].apply(f, r.length)
}

func (r *planChecker) restart(f Fault) error {
	if f.Node != 0 || f.Interval < 0 {
		return errors.New("must be of all nodes, with an interval that is not negative")
	}
	if !slices.ContainsFunc(r.nodes, func(n plannedNode) bool { return n.down == "" }) {
		return errors.New("no node is running at that time")
	}
	return nil
}

func (r *planChecker) busy(f Fault) error {
	switch {
	case f.Node != 0 || f.Processes < 1 || f.Processes > maxProcesses:
		return fmt.Errorf("must be of 1 to %d processes and no node", maxProcesses)
	case f.Duration <= 0 || f.Duration > r.length-f.At:
		return fmt.Errorf("must end within the run, which takes %s", formatDuration(r.length))
	}
	return nil
}

func (n *plannedNode) apply(f Fault, length time.Duration) error {
	switch {
	case f.Kind == Join && n.down == "":
		return fmt.Errorf("%s is running at that time", nameOf(f.Node))
	case f.Kind == Join:
		*n = plannedNode{}
		return nil
	case n.down != "":
		return fmt.Errorf("%s is down, %s at %s", nameOf(f.Node), n.down, formatDuration(n.since))
	case f.At < n.pausedUntil:
		return fmt.Errorf("%s is paused until %s", nameOf(f.Node), formatDuration(n.pausedUntil))
	}
	switch f.Kind {
	case Kill:
		n.down, n.since = "killed", f.At
	case Leave:
		n.down, n.since = "stopped", f.At
	case Pause:
		if f.Duration <= 0 || f.Duration > length-f.At {
			return fmt.Errorf("must end within the run, which takes %s", formatDuration(length))
		}
		n.pausedUntil = f.At + f.Duration
		if f.Interval != 0 {
			n.pausedUntil = length
		}
	}
	return nil
}

func nameOf(node int) string { return fmt.Sprintf("bench-%d", node) }
