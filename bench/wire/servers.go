// SPDX-License-Identifier: Apache-2.0

package wire

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/internal/freeport"
)

// policyText never denies, since only the round trip is measured.
const policyText = `tiers:
  one:  { requests: 9_000_000_000_000/min }
  four: { requests: 9_000_000_000_000/min, tokens: 9_000_000_000_000/min, concurrent: 9_000_000_000, spend: $900_000_000/day }
  hot:      { limits: [ { dimension: requests, limit: 9_000_000_000_000, window: 1m, slices: clients } ] }
  off:      { limits: [ { dimension: requests, limit: 9_000_000_000_000, window: 1m, slices: off } ] }
  hot-edge: { limits: [ { dimension: requests, limit: 10_000, window: day, slices: clients } ] }
  off-edge: { limits: [ { dimension: requests, limit: 10_000, window: day, slices: off } ] }
assign:
  - { key: "org-*", tier: four }
default_tier: four
prices:
  "*": { input: 0.01, output: 0.01 }
`

const (
	startTimeout = 30 * time.Second
	stopTimeout  = 5 * time.Second
)

// server is one or more processes that answer together. Nil: their CPU time is not known.
type server struct {
	name string
	pids []int
	http []string // addresses for profiles
}

// cpu returns the CPU time of the processes.
func (s *server) cpu() (sum time.Duration) {
	if s == nil {
		return 0
	}
	for _, pid := range s.pids {
		if u, err := local.ProcessUsage(pid); err == nil { // a process that has ended fails its calls
			sum += u.CPU
		}
	}
	return sum
}

// startNodes starts nodes.
func (b *run) startNodes(ctx context.Context, o local.Options) (*local.Cluster, *server, error) {
	o.Binary, o.PolicyText, o.ExtraArgs = b.o.Binary, policyText, []string{"--max-ids", strconv.Itoa(1 << 23)}
	c, err := local.Start(ctx, o)
	if err != nil {
		return nil, nil, err
	}
	b.onClose(c.Stop)
	s := &server{name: fmt.Sprintf("%d-nodes", o.Nodes), http: c.HTTPAddrs()}
	for _, node := range c.Nodes() {
		s.pids = append(s.pids, node.PID)
	}
	return c, s, nil
}

// startEcho starts an echo in a process of its own.
func (b *run) startEcho(ctx context.Context) (bench.Target, *server, error) {
	binary := b.o.Binary
	if binary == "" {
		var err error
		if binary, err = os.Executable(); err != nil {
			return nil, nil, fmt.Errorf("find this executable: %w", err)
		}
	}
	port, err := freeport.Pick()
	if err != nil {
		return nil, nil, err
	}
	at := freeport.Address(port)
	return b.startTarget(ctx, "echo", "echo:"+at, target.Options{Timeout: callTimeout}, binary, "bench", "echo", at)
}

// startGubernator starts a cluster of daemons in one process, whose ports are two apart.
func (b *run) startGubernator(ctx context.Context, daemons int) (first int, t bench.Target, s *server, err error) {
	if first, err = freeport.Pick(); err != nil {
		return 0, nil, nil, err
	}
	t, s, err = b.startTarget(ctx, fmt.Sprintf("gubernator-%d", daemons), "gubernator:"+freeport.Address(first),
		target.Options{Timeout: callTimeout, Limits: fourLimits[:1]}, b.o.Gubernator, "--port", strconv.Itoa(first), "--daemons", strconv.Itoa(daemons))
	return first, t, s, err
}

// startTarget starts a process, and waits until its target answers.
func (b *run) startTarget(ctx context.Context, name, spec string, o target.Options, path string, args ...string) (bench.Target, *server, error) {
	p, err := local.StartProcess(filepath.Join(b.dir, name+".log"), path, args...)
	if err != nil {
		return nil, nil, err
	}
	b.onClose(func() error { p.Stop(stopTimeout); return nil })
	t, err := b.open(ctx, spec, o)
	if err != nil {
		return nil, nil, errors.Join(err, p.Err())
	}
	return t, &server{name: name, pids: []int{p.PID()}}, nil
}

// open opens a target, and waits until it answers.
func (b *run) open(ctx context.Context, spec string, o target.Options) (bench.Target, error) {
	t, err := target.Open(spec, o)
	if err != nil {
		return nil, err
	}
	b.onClose(t.Close)
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	return t, target.Ready(ctx, t)
}
