// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/bucketring/bucketring/bench/local"
)

// Times of an iteration.
const (
	warmup      = time.Second     // connections are established
	steady      = 4 * time.Second // measured before the fault
	repairAfter = 6 * time.Second // a killed node starts again
	darkFor     = time.Second     // all nodes are down
	pauseFor    = 5 * time.Second
	aftermath   = 3 * time.Second // measured after the fault
	// maxFault bounds the time from a fault until the nodes have one ring again.
	maxFault = 90 * time.Second
)

// faultAt is when the fault begins, since the begin of the load.
const faultAt = warmup + steady

// outage is a time in which some nodes cannot decide.
type outage struct {
	victims  []int // numbers of the nodes
	from, to time.Duration
}

// fault is what happened. Times are since the begin of the load.
type fault struct {
	victims    []int
	begin, end time.Duration // until the nodes had one ring again
	applied    time.Duration // when it had begun for all: a network is not cut in one moment
	outages    []outage
	oneRing    time.Duration // from the end of a split to one ring
	problem    error         // a fault that was not applied, or that did not end
}

// faults returns the faults of the processes of an iteration.
func (c Campaign) faults(victim int) (list []local.Fault) {
	add := func(k local.FaultKind, node int, at, length time.Duration) {
		list = append(list, local.Fault{Kind: k, Node: node, At: at, Duration: length})
	}
	switch c.Kind {
	case Rolling:
		add(local.Restart, 0, faultAt, 0)
	case Kill:
		add(local.Kill, victim, faultAt, 0)
		add(local.Join, victim, faultAt+repairAfter, 0)
	case Pause:
		add(local.Pause, victim, faultAt, pauseFor)
	case FullKill:
		for n := range c.Nodes {
			add(local.Kill, n+1, faultAt, 0)
			add(local.Join, n+1, faultAt+darkFor, 0)
		}
	case Split:
	}
	return list
}

// marks returns how many marks the faults leave.
func (c Campaign) marks() int {
	switch c.Kind {
	case Rolling:
		return c.Nodes
	case FullKill:
		return 2 * c.Nodes
	case Kill:
		return 2
	default:
		return 1
	}
}

// injectProcessFault causes the fault of an iteration whose load begins at start, and
// returns when it is over.
func injectProcessFault(ctx context.Context, cluster *local.Cluster, c Campaign, victim int, start time.Time) (*fault, error) {
	plan, err := local.NewPlan(c.Nodes, faultAt+maxFault, c.faults(victim)...)
	if err != nil {
		return nil, err
	}
	runCtx, cancel := context.WithCancel(ctx)
	defer cancel()
	type ended struct {
		record *local.Record
		err    error
	}
	done := make(chan ended, 1) // cap 1: the result
	go func() {
		record, err := cluster.Run(runCtx, start, plan)
		done <- ended{record, err}
	}()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	over := time.NewTimer(time.Until(start) + faultAt + maxFault)
	defer over.Stop()
	for waiting := true; waiting; {
		select {
		case <-ctx.Done():
			cancel()
			<-done
			return nil, context.Cause(ctx)
		case e := <-done: // it failed
			return nil, errors.Join(errors.New("the faults ended early"), e.err)
		case <-over.C:
			waiting = false
		case <-tick.C:
			waiting = !effective(cluster.Marks(), c.marks())
		}
	}
	cancel()
	e := <-done
	if e.record == nil {
		return nil, e.err
	}
	f := faultOf(c, e.record.Marks)
	f.problem = errors.Join(f.problem, e.err)
	return f, nil
}

// effective reports whether all marks have ended.
func effective(marks []local.Mark, want int) bool {
	return len(marks) >= want && !slices.ContainsFunc(marks, func(m local.Mark) bool { return m.EffectiveAt == 0 && m.Problem == "" })
}

// faultOf returns what happened from the marks.
func faultOf(c Campaign, marks []local.Mark) *fault {
	f := &fault{begin: faultAt}
	if len(marks) > 0 {
		f.begin = marks[0].At
	}
	f.applied = f.begin
	if !effective(marks, c.marks()) {
		f.problem = fmt.Errorf("the nodes did not agree on one ring within %s", maxFault)
	}
	var repaired time.Duration
	for _, m := range marks {
		end := m.EffectiveAt
		if end == 0 {
			end = m.At + maxFault
		}
		f.end = max(f.end, end)
		if m.Kind == local.Join && repaired == 0 {
			repaired = m.At
		}
	}
	if c.Kind == FullKill { // before, there was nobody to ask
		defer func() { f.outages = []outage{{f.victims, repaired, f.end}} }()
	}
	for _, m := range marks {
		var number int
		if _, err := fmt.Sscanf(m.Node, "bench-%d", &number); err != nil || m.Kind == local.Join {
			continue
		}
		f.victims = append(f.victims, number)
		o := outage{victims: []int{number}, from: m.At, to: max(m.At, m.EffectiveAt)}
		switch m.Kind {
		case local.Kill:
			o.to = max(m.At, repaired)
		case local.Pause:
			o.to = m.At + pauseFor
		default: // a restart lasts until the ring has the node again
		}
		f.outages = append(f.outages, o)
	}
	return f
}

// injectSplit cuts the minority off, with the victim in it, and heals that.
func injectSplit(ctx context.Context, cluster *local.Cluster, network *local.Network, c Campaign, victim int, length time.Duration, start time.Time) (*fault, error) {
	f := &fault{}
	for i := range minority(c.Nodes) {
		f.victims = append(f.victims, (victim-1+i)%c.Nodes+1)
	}
	if err := sleepUntil(ctx, start.Add(faultAt)); err != nil {
		return nil, err
	}
	f.begin = time.Since(start)
	if err := network.Cut(f.victims...); err != nil {
		return nil, err
	}
	f.applied = time.Since(start)
	err := sleepUntil(ctx, start.Add(f.applied+length))
	if err := errors.Join(err, network.Heal(f.victims...)); err != nil {
		return nil, err
	}
	healed := time.Now()
	f.outages = []outage{{f.victims, f.begin, healed.Sub(start)}}
	limited, cancel := context.WithTimeout(ctx, maxFault)
	defer cancel()
	if err := cluster.AwaitOneRing(limited, c.Nodes); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		f.problem = err
	}
	f.oneRing, f.end = time.Since(healed), time.Since(start)
	return f, nil
}

// sleepUntil waits, and returns the cause if ctx is done earlier.
func sleepUntil(ctx context.Context, at time.Time) error {
	timer := time.NewTimer(time.Until(at))
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-timer.C:
		return nil
	}
}
