// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/workload"
)

// measuredTarget is a target and its measurements.
type measuredTarget struct {
	name, letter, kind string
	description        string
	version            string // of its server; empty if unknown
	local              bool   // the local cluster
	target             bench.Target

	started    time.Time // begin of its log, which spans all rounds
	auditor    *audit.Auditor
	callers    callerSet
	overload   *report.Overload // nil unless it is measured
	mu         sync.Mutex
	startDelay map[int]time.Duration // by round: time from begin to the start of the run; protected by mu
	fallback   atomic.Bool           // an answer came without the owner
	totals     totals
}

func (s *measuredTarget) setStartDelay(round int, d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.startDelay == nil {
		s.startDelay = map[int]time.Duration{}
	}
	s.startDelay[round] = d
}

// callerSet collects the first callers of each round, up to maxCallers in a run. It is
// safe for concurrent use by different rounds.
type callerSet struct {
	mu    sync.Mutex
	known map[caller]bool
	list  []caller
}

// caller identifies the limits of a call in one round. Rounds never share keys.
type caller struct {
	key, tier, model string
	round            int
}

// maxCallers is the maximum number of callers whose usage is read after the run.
const maxCallers = 2_000

// add adds the caller of a call. It returns false if the set is full.
func (c *callerSet) add(call *bench.Call, round int, limit int) (more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.list) >= limit {
		return false
	}
	who := caller{call.Key, call.Tier, call.Model, round}
	if c.known[who] {
		return true
	}
	if c.known == nil {
		c.known = map[caller]bool{}
	}
	c.known[who] = true
	c.list = append(c.list, who)
	return true
}

// workload returns the calls of one turn. All targets get the same calls, except for ids
// and for a prefix of keys that keeps turns from sharing state. A replay continues in
// each round where the round before ended.
func (r *runner) workload(s *measuredTarget, round int) (*workload.Workload, error) {
	spec := r.o.Workload
	spec.Seed += uint64(round) * 1_000_003
	spec.Replay = spec.Replay.Skip(time.Duration(round) * r.o.measuredTurn())
	run := strconv.FormatInt(r.began.UnixMilli(), 36)
	spec.IDPrefix = fmt.Sprintf("%s%s%d-", run, s.letter, round)
	switch {
	case r.o.Rounds > 1 || len(r.o.Versus) > 0 || r.o.Overload:
		spec.KeyPrefix += fmt.Sprintf("%s%d-", s.letter, round)
		if !s.local {
			spec.KeyPrefix = run + spec.KeyPrefix
		}
	case !s.local && spec.KeyPrefix == "":
		spec.KeyPrefix = run + "-"
	}
	return workload.New(spec)
}

// maxCallers returns how many callers may be known after a round.
func (o *Options) maxCallers(round int) int {
	if !o.Overload {
		return maxCallers
	}
	return min((round+1)*overloadCallers, 5*maxCallers) // some of each load
}

// load is what is sent to a target in one turn, or in one part of it.
type load struct {
	round            int // no two loads of a target have the same
	calls            *workload.Workload
	arrivals         bench.Arrivals // nil: a closed loop
	warmup, duration time.Duration
	interval         time.Duration // 0: the default
	drain            time.Duration // 0: the default
	maxLag           time.Duration // 0: the default
	longest          time.Duration // of an LLM call; 0: no bound
	silent           bool          // not shown while it runs
	through          bench.Target  // sends it to the target; nil: the target itself
}

// runTurn measures one turn of a target. If ctx ends, the error is its cause.
func (r *runner) runTurn(ctx context.Context, s *measuredTarget, round int) (*report.Turn, error) {
	calls, err := r.workload(s, round)
	if err != nil {
		return nil, err
	}
	arrivals, err := r.arrivals(calls)
	if err != nil {
		return nil, err
	}
	r.o.OnTurnStart(s.name)
	result, record, err := r.measure(ctx, s, &load{round: round, calls: calls, arrivals: arrivals, warmup: r.o.Warmup, duration: r.o.measuredTurn()})
	r.o.OnTurnEnd()
	if result == nil {
		return nil, err
	}
	turn, failed := s.totals.add(result, record)
	if failed != nil {
		return nil, failed
	}
	turn.Target = s.name
	return &turn, err
}

// begin begins the log of a target, once.
func (s *measuredTarget) begin(r *runner, at time.Time) error {
	if !s.started.IsZero() {
		return nil
	}
	s.started = at
	return s.startAudit(r)
}

// measure sends a load to a target. The record is nil if the target is not the local
// cluster. If ctx ends, the result is what was measured, and the error its cause.
func (r *runner) measure(ctx context.Context, s *measuredTarget, l *load) (*bench.Result, *local.Record, error) {
	begin := time.Now()
	if err := s.begin(r, begin); err != nil {
		return nil, nil, err
	}
	offset, models := begin.Sub(s.started), CallsModels(s.kind+":")
	watched := func() (*local.Record, error) { return nil, nil } //nolint:nilnil // no cluster, no record
	if !l.silent {
		watched = r.superviseCluster(ctx, s, begin.Add(l.warmup), l.duration)
	}
	to := s.target
	if l.through != nil {
		to = l.through
	}
	more, limit := true, r.o.maxCallers(l.round)
	result, err := bench.Run(ctx, bench.Options{
		Target: to, Arrivals: l.arrivals, Callers: r.o.Callers,
		Duration: l.duration, Warmup: l.warmup, Timeout: r.o.Timeout,
		Interval: l.interval, DrainTimeout: l.drain, MaxLag: l.maxLag,
		Workload: bench.WorkloadFunc(func(c *bench.Call) bool {
			if !l.calls.Next(c) {
				return false
			}
			if models {
				c.Duration, c.ProgressReports = 0, 0 // the model decides
			}
			if l.longest > 0 {
				c.Duration = min(c.Duration, l.longest)
			}
			if more {
				more = s.callers.add(c, l.round, limit)
			}
			return true
		}),
		OnEvent: func(e bench.Event) {
			if e.Answer.Route == "fallback" && !s.fallback.Load() {
				s.fallback.Store(true)
			}
			if s.auditor != nil {
				e.Due, e.Sent, e.Done = e.Due+offset, e.Sent+offset, e.Done+offset
				s.auditor.Add(&e)
			}
		},
		OnInterval: func(iv bench.Interval) {
			if !l.silent {
				r.o.OnInterval(report.NewInterval(iv, nil))
			}
		},
	})
	record, problem := watched()
	if record != nil && s.auditor != nil {
		allowLosses(s.auditor, offset+l.warmup, record.Marks)
	}
	if result == nil {
		return nil, nil, errors.Join(err, problem)
	}
	s.setStartDelay(l.round, result.Started.Sub(begin))
	if problem != nil && err == nil {
		r.o.Log("cluster: " + problem.Error()) // the measurements are still valid
	}
	return result, record, err
}

// superviseCluster injects faults into the cluster and samples its usage, if it is the
// target. The returned function ends that and returns the record.
func (r *runner) superviseCluster(ctx context.Context, s *measuredTarget, start time.Time, length time.Duration) func() (*local.Record, error) {
	if !s.local {
		return func() (*local.Record, error) { return nil, nil } //nolint:nilnil // no cluster, no record
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
			if plan, err = local.NewPlan(r.o.LocalNodes, length, r.o.Faults...); err != nil {
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

// How far the clock of a limiter may drift from this process's during a run: on this
// machine while NTP adjusts it, and on another machine.
const (
	localClockSkew  = time.Millisecond
	remoteClockSkew = 50 * time.Millisecond
)

// moveDelay is how long the state of a limit may be on its way when it moves to another
// node. Ages are sent, and not times, so a limit is not refilled for that long.
const moveDelay = 100 * time.Millisecond

// RefillDelay returns for how long faults may delay the refill of a limit, on so many nodes.
func RefillDelay(nodes int, faults []local.Fault) (d time.Duration) {
	for _, f := range faults {
		moves := 2 // away, and back
		if f.Kind == local.Restart {
			moves *= nodes
		}
		d += time.Duration(moves) * moveDelay
	}
	return d
}

// startAudit creates the auditor, if the limits of the target are known.
func (s *measuredTarget) startAudit(r *runner) (err error) {
	var o audit.Options
	switch {
	case s.kind == redisPlain || s.kind == redisLua || s.kind == throttle:
		o = redisAuditOptions(s.kind, r.o.Targets.Limits)
	case s.kind == "null" || s.kind == "bare" || s.kind == rateLimit || s.kind == gubernator || s.kind == echo || CallsModels(s.kind+":"):
		return nil
	case r.policy != nil:
		o = PolicyAuditOptions(r.policy, s.started, s.local)
	default:
		return nil
	}
	o.ClockSkew = localClockSkew
	if s.local {
		o.Members = r.o.members()
		o.RefillDelay = RefillDelay(r.o.LocalNodes, r.o.Faults)
	} else {
		o.ClockSkew = remoteClockSkew
	}
	o.MaxFindings = 1_000
	s.auditor, err = audit.New(o)
	return err
}

// LossAtFailure is how long before the failure of a node small charges may have been answered
// that are lost with it: 20 ms between flushes to the heir, and a generous round trip.
const LossAtFailure = 50 * time.Millisecond

// allowLosses tells the auditor when nodes failed, as marks since the start of a turn say.
func allowLosses(a *audit.Auditor, start time.Duration, marks []local.Mark) {
	for _, m := range marks {
		switch m.Kind {
		case local.Kill, local.Pause, local.Crash:
			// As long again for the fault to be applied, and for answers to arrive.
			a.AllowLoss(start+m.At-LossAtFailure, start+m.At+LossAtFailure)
		}
	}
}

// outboxDelay is how long owners may take to hear of what was decided without them: usage
// that was accepted in fallback, and withdrawals of what was denied there.
const outboxDelay = 2 * time.Second

// flushTimeout is how long a target may take to have charges taken back of calls that got
// no answer, after its load has ended.
const flushTimeout = 10 * time.Second

// readUsage reads the final usage from the target. Callers whose usage cannot be read
// are left out.
func (s *measuredTarget) readUsage(ctx context.Context, o *Options) error {
	reader, ok := s.target.(bench.UsageReader)
	if !ok || s.auditor == nil || s.kind == redisPlain { // redis also counts denied calls
		return nil
	}
	if f, ok := s.target.(bench.Flusher); ok {
		ctx, cancel := context.WithTimeout(ctx, flushTimeout)
		_ = f.Flush(ctx) // what is left shows in the usage
		cancel()
	}
	if len(o.Faults) > 0 || o.Overload || o.Targets.NoIDs || s.fallback.Load() { // slices are returned at the end of their leases
		wait := time.NewTimer(outboxDelay)
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
			// Times in the log are since the start of the run of a turn.
			started := s.started.Add(s.startDelay[who.round])
			sent := time.Since(started)
			used, err := reader.ReadUsage(ctx, who.key, who.tier, who.model)
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
