// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"fmt"
	"math"

	"github.com/cespare/xxhash/v2"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
)

// The controls of an overload step show what the harness and the machine leave for the
// target: what no limiter could do better.

// errNotForTarget is the refusal of the calls that a control does not send.
var errNotForTarget = &bench.OverloadedError{HeldBack: true}

// shareTarget sends a share of the calls to a target, and refuses the others at once.
type shareTarget struct {
	bench.Target
	below uint64 // of hashes of request ids: those calls are sent
}

// newShareTarget returns a target that gets a share of the calls, below 1. A repeated call
// is sent if the first one was. Of a Poisson schedule, what is sent is one, too.
func newShareTarget(t bench.Target, share float64) *shareTarget {
	return &shareTarget{t, uint64(share * math.MaxUint64)}
}

func (s *shareTarget) sends(c *bench.Call) bool { return xxhash.Sum64String(c.ID) < s.below }

// Check implements [bench.Target].
func (s *shareTarget) Check(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if !s.sends(c) {
		return bench.Answer{}, errNotForTarget
	}
	return s.Target.Check(ctx, c)
}

// Reserve implements [bench.Target].
func (s *shareTarget) Reserve(ctx context.Context, c *bench.Call) (bench.Answer, error) {
	if !s.sends(c) {
		return bench.Answer{}, errNotForTarget
	}
	return s.Target.Reserve(ctx, c)
}

// controls adds the controls to a step that was measured.
func (m *overloadRun) controls(step *report.OverloadStep) error {
	var err error
	if step.Times > 1 && step.Recovery != report.NeverNormal { // otherwise the load before would still be measured
		if step.Control, err = m.control(step.Times); err != nil {
			return err
		}
	}
	if step.Times >= 1 && m.bare != nil {
		step.Bare, err = m.bareControl(step.Times)
	}
	return err
}

// control offers the same load, of which only the peak so far is sent to the target. The
// rest is refused at once, so that refusals cost the target nothing. It returns nil if
// everything would be sent.
func (m *overloadRun) control(times float64) (*report.OverloadControl, error) {
	s, o := m.target, m.target.overload
	sent := o.Peak()
	share := sent / (times * o.Capacity)
	if share >= 1 {
		return nil, nil //nolint:nilnil // it would be the same load
	}
	r, record, err := m.measureControl(s, fmt.Sprintf("control at %vx of %s", times, s.name), times, newShareTarget(s.target, share))
	if r == nil {
		return nil, err
	}
	c := &report.OverloadControl{ToTarget: sent, Answered: r.Rate(), ClientCPU: r.ClientCPU}
	if r.Pacer != nil {
		c.Sent = r.Pacer.KeptRate
	}
	if l, failed := r.Overall(); failed == nil && l.Count > 0 {
		c.P99 = l.P99
	}
	if record != nil {
		c.ServersCPU = record.CPU()
	}
	return c, err
}

// bareControl offers the same load to bare servers.
func (m *overloadRun) bareControl(times float64) (*report.OverloadBare, error) {
	r, _, err := m.measureControl(m.bare, fmt.Sprintf("bare gRPC at %vx", times), times, nil)
	if r == nil {
		return nil, err
	}
	b := &report.OverloadBare{}
	if seconds := r.Duration.Seconds(); seconds > 0 {
		b.Refused = float64(r.Refused-r.HeldBack) / seconds
	}
	for _, op := range []bench.Op{bench.OpCheck, bench.OpReserve} {
		if l := r.Refusals(op); l != nil { // the worse of both
			b.P50, b.P99 = max(b.P50, l.P50), max(b.P99, l.P99)
		}
	}
	return b, err
}

// measureControl offers a multiple of the capacity.
func (m *overloadRun) measureControl(s *measuredTarget, name string, times float64, through bench.Target) (*bench.Result, *local.Record, error) {
	l, err := m.load(times*m.target.overload.Capacity, m.o.Warmup, m.o.measuredTurn())
	if err != nil {
		return nil, nil, err
	}
	l.through = through
	if err := m.pause(overloadPause); err != nil {
		return nil, nil, err
	}
	m.o.OnTurnStart(name)
	defer m.o.OnTurnEnd()
	return m.measure(m.ctx, s, l)
}

// bareServers returns how many bare servers the run needs: as many as there are nodes, if
// the overload of these is measured over unary gRPC.
func (o *Options) bareServers() int {
	if o.Overload {
		for _, spec := range o.specs() {
			if o.isCluster(spec) && kindOf(spec) == bareKind {
				return o.LocalNodes
			}
		}
	}
	return 0
}

// bareKind is the kind of targets that are compared with bare servers.
const bareKind = "grpc"

// openBare returns bare servers to compare a target with; nil if there are none for it. The
// caller must close its target.
func (r *runner) openBare(ctx context.Context, s *measuredTarget) (*measuredTarget, error) {
	if !s.local || s.kind != bareKind {
		return nil, nil //nolint:nilnil // there is none
	}
	t, err := target.OpenBare(r.cluster.BareAddrs(), r.o.Targets)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.ReadyTimeout)
	defer cancel()
	if err := target.Ready(ctx, t); err != nil {
		_ = t.Close()
		return nil, fmt.Errorf("%w: %w", ErrNotReady, err)
	}
	return &measuredTarget{name: "bare", letter: s.letter, kind: "bare", target: t}, nil
}
