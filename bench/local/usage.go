// SPDX-License-Identifier: Apache-2.0

package local

import (
	"context"
	"os"
	"time"
)

// Usage is the resource usage of a process.
type Usage struct {
	CPU time.Duration // user and system, since its start, in steps of 10 ms
	RSS int64         // resident memory in bytes
}

// Sample is the usage of a node at one time.
type Sample struct {
	At  time.Duration `json:"at_ns"`     // since the start of the run
	CPU time.Duration `json:"cpu_ns"`    // since the start of the run, of all its processes
	RSS int64         `json:"rss_bytes"` // 0 if the node is down
}

// NodeUsage is the usage of a node during a run.
type NodeUsage struct {
	Name    string        `json:"name"`
	CPU     time.Duration `json:"cpu_ns"`
	PeakRSS int64         `json:"peak_rss_bytes"` // largest RSS of the samples
	// Samples are about a second apart. They begin when the node first started.
	Samples []Sample `json:"samples"`
}

func (u *NodeUsage) add(s Sample) {
	u.Samples = append(u.Samples, s)
	u.CPU, u.PeakRSS = s.CPU, max(u.PeakRSS, s.RSS)
}

// usageSampler samples the usage of nodes during a run.
type usageSampler struct {
	nodes []NodeUsage
	own   NodeUsage // of this process
	note  string    // why nodes is empty
}

// sampleInterval is the time between two samples.
const sampleInterval = time.Second

// sample samples the nodes every second from start on, and at the end of ctx.
func (u *usageSampler) sample(ctx context.Context, start time.Time, nodes []*node) {
	if !sleep(ctx, start) {
		return
	}
	u.nodes = make([]NodeUsage, len(nodes))
	before := make([]time.Duration, len(nodes))
	for i, n := range nodes {
		now, err := n.usage()
		if err != nil {
			u.nodes, u.note = nil, err.Error()
			return
		}
		u.nodes[i].Name, before[i] = n.name, now.CPU
	}
	u.own.Name = "bench"
	own, _ := ProcessUsage(os.Getpid())
	for due := start; ; due = due.Add(sampleInterval) {
		more := sleep(ctx, due)
		at := time.Since(start)
		for i, n := range nodes {
			if now, err := n.usage(); err == nil {
				u.nodes[i].add(Sample{At: at, CPU: now.CPU - before[i], RSS: now.RSS})
			}
		}
		if now, err := ProcessUsage(os.Getpid()); err == nil {
			u.own.add(Sample{At: at, CPU: now.CPU - own.CPU, RSS: now.RSS})
		}
		if !more {
			return
		}
	}
}
