// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/workload"
)

// side is one target and what was measured of it so far.
type side struct {
	name, letter, kind string
	description        string
	version            string // of its server; empty: not known
	local              bool   // it is the cluster of this run
	target             bench.Target

	started time.Time // of its log, which goes over all rounds
	auditor *audit.Auditor
	callers callers
	late    []time.Duration // by round: by how much the log is behind the clock
	sum     sum
}

// callers are the first of those whose calls were planned. It is for one
// goroutine at a time.
type callers struct {
	seen map[caller]bool
	list []caller
}

// caller is one in one round. Keys of two rounds are never the same.
type caller struct {
	key, tier, model string
	round            int
}

// mostAsked is how many callers are asked in the end what they have used.
const mostAsked = 2_000

func (c *callers) add(call *bench.Call, round int) {
	if len(c.list) == mostAsked {
		return
	}
	who := caller{call.Key, call.Tier, call.Model, round}
	if c.seen[who] {
		return
	}
	if c.seen == nil {
		c.seen = map[caller]bool{}
	}
	c.seen[who] = true
	c.list = append(c.list, who)
}

// workload returns the calls of one turn. They are the same for all targets, but
// their ids, and their keys where the state of another turn would be in the way. A
// replay goes on in each round where the one before has ended.
func (r *runner) workload(s *side, round int) (*workload.Workload, error) {
	spec := r.o.Workload
	spec.Seed += uint64(round) * 1_000_003
	spec.Replay = spec.Replay.Skip(time.Duration(round) * r.o.turn())
	run := strconv.FormatInt(r.began.UnixMilli(), 36)
	spec.IDPrefix = fmt.Sprintf("%s%s%d-", run, s.letter, round)
	switch {
	case r.o.Rounds > 1 || len(r.o.Versus) > 0:
		spec.KeyPrefix += fmt.Sprintf("%s%d-", s.letter, round)
		if !s.local {
			spec.KeyPrefix = run + spec.KeyPrefix
		}
	case !s.local && spec.KeyPrefix == "":
		spec.KeyPrefix = run + "-"
	}
	return workload.New(spec)
}

// turn lets a target have its turn. The error is the cause if ctx ended.
func (r *runner) turn(ctx context.Context, s *side, round int) (*report.Turn, error) {
	calls, err := r.workload(s, round)
	if err != nil {
		return nil, err
	}
	arrivals, err := r.arrivals(calls)
	if err != nil {
		return nil, err
	}
	length := r.o.turn()
	r.o.Begin(s.name)
	begin := time.Now()
	if s.started.IsZero() {
		s.started = begin
		if err := s.audit(r); err != nil {
			return nil, err
		}
	}
	offset, models := begin.Sub(s.started), CallsModels(s.kind+":")

	watched := r.watch(ctx, s, begin.Add(r.o.Warmup), length)
	result, err := bench.Run(ctx, bench.Options{
		Target: s.target, Arrivals: arrivals, Callers: r.o.Callers,
		Duration: length, Warmup: r.o.Warmup, Timeout: r.o.Timeout,
		Workload: bench.WorkloadFunc(func(c *bench.Call) bool {
			if !calls.Next(c) {
				return false
			}
			if models {
				c.Duration, c.ProgressReports = 0, 0 // it takes as long as the model does
			}
			s.callers.add(c, round)
			return true
		}),
		OnEvent: func(e bench.Event) {
			if s.auditor != nil {
				e.Due, e.Sent, e.Done = e.Due+offset, e.Sent+offset, e.Done+offset
				s.auditor.Add(&e)
			}
		},
		OnInterval: func(iv bench.Interval) { r.o.Progress(report.FromInterval(iv, nil)) },
	})
	record, problem := watched()
	r.o.End()
	if result == nil {
		return nil, errors.Join(err, problem)
	}
	s.late = append(s.late, result.Started.Sub(begin))
	turn, failed := s.sum.add(result, record)
	if failed != nil {
		return nil, failed
	}
	turn.Target = s.name
	if err != nil {
		return &turn, err
	}
	if problem != nil {
		r.o.Log("cluster: " + problem.Error()) // what happened is measured all the same
	}
	return &turn, nil
}

// watch breaks and measures the cluster, if the target is that, until what it
// returns is called.
func (r *runner) watch(ctx context.Context, s *side, start time.Time, length time.Duration) func() (*local.Record, error) {
	if !s.local {
		return func() (*local.Record, error) { return nil, nil } //nolint:nilnil // there is nothing to know
	}
	var (
		record *local.Record
		err    error
		work   sync.WaitGroup
	)
	ctx, cancel := context.WithDeadline(ctx, start.Add(length))
	work.Go(func() {
		var plan *local.Plan
		if len(r.o.Faults) > 0 {
			if plan, err = local.NewPlan(r.o.Local, length, r.o.Faults...); err != nil {
				return
			}
		}
		record, err = r.cluster.Run(ctx, start, plan)
	})
	return func() (*local.Record, error) {
		cancel()
		work.Wait()
		return record, err
	}
}

// How far the clock of a limiter may run from ours during a run: on this machine
// when it is being set right, and on another one.
const (
	clockHere      = time.Millisecond
	clockElsewhere = 50 * time.Millisecond
)

// audit makes the auditor, if it is known what the target promises.
func (s *side) audit(r *runner) (err error) {
	var o audit.Options
	switch {
	case s.kind == redisPlain || s.kind == redisLua:
		o = ofRedis(s.kind, r.o.Targets.Limits)
	case s.kind == "null" || s.kind == rateLimit || CallsModels(s.kind+":"):
		return nil
	case r.policy != nil:
		o = OfPolicy(r.policy, s.started, s.local)
	default:
		return nil
	}
	o.ClockSkew = clockHere
	if s.local {
		o.Members = r.o.members()
	} else {
		o.ClockSkew = clockElsewhere
	}
	o.MaxFindings = 1_000
	s.auditor, err = audit.New(o)
	return err
}

// arrived is how long calls that were decided without their owner may take until
// they are told to it.
const arrived = 2 * time.Second

// ended asks the target in the end what was used. Callers that it cannot tell of
// are left out.
func (s *side) ended(ctx context.Context, o *Options) error {
	left, ok := s.target.(bench.UsageReader)
	if !ok || s.auditor == nil || s.kind == redisPlain { // which counts denied calls, too
		return nil
	}
	if len(o.Faults) > 0 {
		wait := time.NewTimer(arrived)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	var work errgroup.Group
	work.SetLimit(16)
	for _, who := range s.callers.list {
		work.Go(func() error {
			ctx, cancel := context.WithTimeout(ctx, bench.DefaultTimeout)
			defer cancel()
			// Times of the log count from the moment at which a turn really began.
			started := s.started.Add(s.late[who.round])
			sent := time.Since(started)
			used, err := left.ReadUsage(ctx, who.key, who.tier, who.model)
			if err == nil {
				s.auditor.AddFinalUsage(audit.KeyUsage{
					Key: who.key, Tier: who.tier, Model: who.model,
					Used: used, Sent: sent, Done: time.Since(started),
				})
			}
			return nil
		})
	}
	return work.Wait()
}
