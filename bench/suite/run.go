// SPDX-License-Identifier: Apache-2.0

package suite

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/bench/workload"
	"github.com/bucketring/bucketring/limiter/policy"
)

// ErrNotReady is returned if a target does not answer before the run.
var ErrNotReady = errors.New("not ready")

// Run performs a run and returns its document, which is valid. If ctx ends during the
// run, it returns a document of what was measured and the cause. Any other error comes
// without a document.
func Run(ctx context.Context, o Options) (run *report.Run, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &runner{o: o.withDefaults(), began: time.Now()}
	if r.o.LocalNodes > 0 || r.o.Policy != "" {
		if r.policy, err = readPolicy(r.o.Policy); err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
	}
	if err := r.validateTargets(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if r.o.LocalNodes > 0 {
		if err := r.startCluster(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.openTargets(ctx); err != nil {
		return nil, err
	}
	cause := r.runRounds(ctx)
	if cause != nil && ctx.Err() == nil {
		return nil, cause
	}
	run, err = r.document()
	if err != nil {
		return nil, errors.Join(cause, err)
	}
	return run, cause
}

// runner is a run in progress.
type runner struct {
	o              *Options
	began          time.Time
	policy         *policy.Policy // nil if unknown
	cluster        *local.Cluster // nil if there is none
	targets        []*measuredTarget
	completeRounds []report.Round
}

// startCluster starts the cluster. It does not end with ctx, so that requests in flight
// can finish when a run is interrupted.
func (r *runner) startCluster(ctx context.Context) (err error) {
	clusterCtx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	options := local.Options{Nodes: r.o.LocalNodes, Binary: r.o.Binary, Policy: r.o.Policy, Persist: r.o.Persist, BareServers: r.o.bareServers(), Log: r.o.Log}
	if options.Policy == "" {
		options.PolicyText = defaultPolicy
	}
	if r.cluster, err = local.Start(clusterCtx, options); err != nil { //nolint:contextcheck // see above
		cancel()
		return err
	}
	return nil
}

// validateTargets checks the specs of the targets before a cluster is started.
func (r *runner) validateTargets() error {
	for _, spec := range r.o.specs() {
		if r.o.isCluster(spec) {
			continue
		}
		t, err := target.Open(spec, r.o.targetOptions(spec))
		if err != nil {
			return err
		}
		if err := t.Close(); err != nil {
			return fmt.Errorf("close %s: %w", t.Name(), err)
		}
	}
	return nil
}

// targetOptions returns the options for a target, without those that do not apply to it.
func (o *Options) targetOptions(spec string) target.Options {
	options := o.Targets
	if o.isCluster(spec) || !target.SupportsTLS(spec) {
		options.TLS = nil
	}
	if options.TLS != nil {
		options.Insecure = false // Insecure is for targets without TLS
	}
	if kind := kindOf(spec); kind != redisPlain && kind != redisLua && kind != throttle {
		options.Limits = nil
	}
	return options
}

// openTargets opens all targets and waits until they answer.
func (r *runner) openTargets(ctx context.Context) error {
	for i, spec := range r.o.specs() {
		s, err := r.openTarget(i, spec)
		if err != nil {
			return err
		}
		r.targets = append(r.targets, s)
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.ReadyTimeout)
	defer cancel()
	for _, s := range r.targets {
		slow := time.AfterFunc(time.Second, func() { r.o.Log("waiting for " + s.name) })
		err := target.Ready(ctx, s.target)
		slow.Stop()
		if err != nil {
			return fmt.Errorf("%w: %w", ErrNotReady, err)
		}
		s.version = target.Version(ctx, s.target)
	}
	return nil
}

// kindOf returns the kind of a spec, without TLS.
func kindOf(spec string) string {
	kind, _, _ := strings.Cut(spec, ":")
	return cmp.Or(plaintextKind[kind], kind)
}

// isCluster reports whether a spec means the local cluster.
func (o *Options) isCluster(spec string) bool {
	return o.LocalNodes > 0 && slices.Contains([]string{"", "client:", "grpc:", "http:"}, spec)
}

// UsesTLS reports whether any target uses Targets.TLS. The local cluster does not: its
// nodes are on loopback.
func (o *Options) UsesTLS() bool {
	return slices.ContainsFunc(o.specs(), func(spec string) bool { return !o.isCluster(spec) && target.SupportsTLS(spec) })
}

func (o *Options) specs() []string { return append([]string{o.Target}, o.Versus...) }

// openTarget opens one target.
func (r *runner) openTarget(i int, spec string) (*measuredTarget, error) {
	s := &measuredTarget{letter: string(rune('a' + i)), kind: kindOf(spec)}
	full := spec
	if r.o.LocalNodes > 0 {
		switch grpc, http := r.cluster.GRPCAddrs(), r.cluster.HTTPAddrs(); spec {
		case "", "client:":
			s.kind, full, s.name = "client", "client:"+strings.Join(grpc, ","), "local:"+strconv.Itoa(r.o.LocalNodes)
		case "grpc:":
			full, s.name = "grpc:"+grpc[0], fmt.Sprintf("local:%d grpc", r.o.LocalNodes)
		case "http:":
			full, s.name = "http://"+http[0], fmt.Sprintf("local:%d http", r.o.LocalNodes)
		}
		s.local = s.name != ""
	}
	var err error
	if s.target, err = target.Open(full, r.o.targetOptions(spec)); err != nil {
		return nil, err
	}
	if s.name == "" {
		s.name = s.target.Name()
	}
	for n := 2; slices.ContainsFunc(r.targets, func(other *measuredTarget) bool { return other.name == s.name }); n++ {
		s.name = fmt.Sprintf("%s #%d", s.target.Name(), n)
	}
	s.description = target.Describe(s.target)
	return s, nil
}

func (r *runner) close() error {
	var problems []error
	for _, s := range r.targets {
		if err := s.target.Close(); err != nil {
			problems = append(problems, fmt.Errorf("close %s: %w", s.name, err))
		}
	}
	if r.cluster != nil {
		problems = append(problems, r.cluster.Stop())
	}
	return errors.Join(problems...)
}

// runRounds measures the targets in turns. Every other round is in reverse order.
func (r *runner) runRounds(ctx context.Context) error {
	if r.o.Overload {
		if err := r.runOverload(ctx); err != nil {
			return err
		}
		return r.readUsage(ctx)
	}
	for n := range r.o.Rounds {
		order := slices.Clone(r.targets)
		if n%2 == 1 {
			slices.Reverse(order)
		}
		var round report.Round
		for _, s := range order {
			turn, err := r.runTurn(ctx, s, n)
			if turn != nil {
				round.Turns = append(round.Turns, *turn)
			}
			if err != nil {
				return err // an incomplete round is not paired
			}
		}
		r.completeRounds = append(r.completeRounds, round)
	}
	for _, s := range r.targets {
		for _, text := range s.addStarvation(r.o.Faults) {
			r.o.Log(text)
		}
	}
	return r.readUsage(ctx)
}

// readUsage reads the final usage from all targets.
func (r *runner) readUsage(ctx context.Context) error {
	for _, s := range r.targets {
		if err := s.readUsage(ctx, r.o); err != nil {
			return err
		}
	}
	return nil
}

// arrivals returns the schedule of one turn.
func (r *runner) arrivals(calls *workload.Workload) (bench.Arrivals, error) {
	switch {
	case r.o.replay():
		return bench.Times(calls.Times(), 1)
	case r.o.Rate == 0:
		return nil, nil //nolint:nilnil // nil means a closed loop
	default:
		return r.arrivalsAt(r.o.Rate, calls)
	}
}

// document combines what was measured.
func (r *runner) document() (*report.Run, error) {
	o := r.o
	run := &report.Run{
		FormatVersion: report.FormatVersion,
		Started:       r.began.UTC().Truncate(time.Millisecond),
		Command:       o.Command, Flags: o.Flags, Seed: o.Workload.Seed,
		Environment: report.CaptureEnvironment(), Harness: o.Harness,
		Load: report.Load{
			Loop: "open", Arrivals: string(o.Arrivals), RatePerSecond: o.Rate,
			Workload: o.Workload.String(), Warmup: o.Warmup, Duration: o.Duration,
		},
	}
	switch {
	case o.replay():
		run.Load.Arrivals = "trace"
	case o.Overload:
		run.Load.RatePerSecond = 0
	case o.Rate == 0:
		run.Load.Loop, run.Load.Arrivals, run.Load.Callers = "closed", "", int64(o.Callers)
	}
	for _, s := range r.targets {
		t, err := s.report(r)
		if err != nil {
			return nil, err
		}
		run.Targets = append(run.Targets, *t)
		if s.version != "" {
			run.Environment.Versions = append(run.Environment.Versions, report.Flag{Name: s.name, Value: s.version})
		}
	}
	if len(r.targets) > 1 && len(r.completeRounds) > 0 {
		run.Pairing = &report.Pairing{Baseline: r.targets[0].name, Rounds: r.completeRounds}
	}
	if err := run.Validate(); err != nil {
		return nil, fmt.Errorf("document of the run: %w", err)
	}
	return run, nil
}
