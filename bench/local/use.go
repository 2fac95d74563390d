// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"time"
)

// Use is what a process has used.
type Use struct {
	CPU time.Duration // user and system, all threads, since it was started; in steps of 10 ms
	RSS int64         // resident memory, in bytes, now
}

// Sample is what a node has used so far.
type Sample struct {
	At  time.Duration `json:"at_ns"`     // since the start of the run
	CPU time.Duration `json:"cpu_ns"`    // since the start of the run, in all its processes
	RSS int64         `json:"rss_bytes"` // 0: it is down
}

// NodeUse is what a node used during a run.
type NodeUse struct {
	Name    string        `json:"name"`
	CPU     time.Duration `json:"cpu_ns"`
	PeakRSS int64         `json:"peak_rss_bytes"` // of the samples
	// Samples are about a second apart. A node that joined late has none before.
	Samples []Sample `json:"samples"`
}

func (u *NodeUse) add(s Sample) {
	u.Samples = append(u.Samples, s)
	u.CPU, u.PeakRSS = s.CPU, max(u.PeakRSS, s.RSS)
}

// uses are what nodes used during a run.
type uses struct {
	nodes []NodeUse
	note  string // why there are none
}

// sampleEvery is the time between two samples.
const sampleEvery = time.Second

// sample looks at the nodes every second from start on, and at the end of ctx.
func (u *uses) sample(ctx context.Context, start time.Time, nodes []*node) {
	if !sleep(ctx, start) {
		return
	}
	u.nodes = make([]NodeUse, len(nodes))
	before := make([]time.Duration, len(nodes))
	for i, n := range nodes {
		now, err := n.use()
		if err != nil {
			u.nodes, u.note = nil, err.Error()
			return
		}
		u.nodes[i].Name, before[i] = n.name, now.CPU
	}
	for due := start; ; due = due.Add(sampleEvery) {
		more := sleep(ctx, due)
		at := time.Since(start)
		for i, n := range nodes {
			if now, err := n.use(); err == nil {
				u.nodes[i].add(Sample{At: at, CPU: now.CPU - before[i], RSS: now.RSS})
			}
		}
		if !more {
			return
		}
	}
}
