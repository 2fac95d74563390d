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

// ErrNotReady says that a target does not answer, before the run.
var ErrNotReady = errors.New("not ready")

// Run does a run and returns its document, which is valid. If ctx ends during it,
// the document has what was measured until then, and the error is the cause. With
// any other error there is none.
func Run(ctx context.Context, o Options) (run *report.Run, err error) {
	if err := o.Validate(); err != nil {
		return nil, err
	}
	r := &runner{o: o.withDefaults(), began: time.Now()}
	if r.o.Local > 0 || r.o.Policy != "" {
		if r.policy, err = readPolicy(r.o.Policy); err != nil {
			return nil, fmt.Errorf("policy: %w", err)
		}
	}
	if err := r.known(); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, r.close()) }()
	if r.o.Local > 0 {
		if err := r.start(ctx); err != nil {
			return nil, err
		}
	}
	if err := r.open(ctx); err != nil {
		return nil, err
	}
	cause := r.rounds(ctx)
	if cause != nil && ctx.Err() == nil {
		return nil, cause
	}
	run, err = r.document()
	if err != nil {
		return nil, errors.Join(cause, err)
	}
	return run, cause
}

// runner is a run under way.
type runner struct {
	o       *Options
	began   time.Time
	policy  *policy.Policy // nil: not known
	cluster *local.Cluster // nil: none
	sides   []*side
	paired  []report.Round
}

// start starts the cluster. It outlives ctx, so that what is under way when a run
// is interrupted is not lost.
func (r *runner) start(ctx context.Context) (err error) {
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	defer context.AfterFunc(ctx, cancel)()
	options := local.Options{Nodes: r.o.Local, Binary: r.o.Binary, Policy: r.o.Policy, Log: r.o.Log}
	if options.Policy == "" {
		options.PolicyText = defaultPolicy
	}
	if r.cluster, err = local.Start(life, options); err != nil { //nolint:contextcheck // see above
		cancel()
		return err
	}
	return nil
}

// known finds mistakes in the specs of targets before a cluster is started for
// nothing.
func (r *runner) known() error {
	for _, spec := range r.o.specs() {
		if r.o.ofCluster(spec) {
			continue
		}
		t, err := target.Open(spec, r.o.optionsOf(spec))
		if err != nil {
			return err
		}
		if err := t.Close(); err != nil {
			return fmt.Errorf("close %s: %w", t.Name(), err)
		}
	}
	return nil
}

// optionsOf are those of the options for targets that are about one.
func (o *Options) optionsOf(spec string) target.Options {
	options := o.Targets
	if o.ofCluster(spec) || !target.SupportsTLS(spec) {
		options.TLS = nil
	}
	if options.TLS != nil {
		options.Insecure = false // that is for the others
	}
	if kind := kindOf(spec); kind != redisPlain && kind != redisLua {
		options.Limits = nil
	}
	return options
}

// open opens all targets and waits until they answer.
func (r *runner) open(ctx context.Context) error {
	for i, spec := range r.o.specs() {
		s, err := r.side(i, spec)
		if err != nil {
			return err
		}
		r.sides = append(r.sides, s)
	}
	ctx, cancel := context.WithTimeout(ctx, r.o.Wait)
	defer cancel()
	for _, s := range r.sides {
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

// kindOf is the kind of a spec; over TLS, it is the same one.
func kindOf(spec string) string {
	kind, _, _ := strings.Cut(spec, ":")
	return cmp.Or(overTLS[kind], kind)
}

// ofCluster reports whether a target is the cluster of this run, by one of its
// doors.
func (o *Options) ofCluster(spec string) bool {
	return o.Local > 0 && slices.Contains([]string{"", "client:", "grpc:", "http:"}, spec)
}

// UsesTLS reports whether any target is asked over TLS when Targets.TLS is set.
// The cluster of a run never is: its nodes are on loopback.
func (o *Options) UsesTLS() bool {
	return slices.ContainsFunc(o.specs(), func(spec string) bool { return !o.ofCluster(spec) && target.SupportsTLS(spec) })
}

func (o *Options) specs() []string { return append([]string{o.Target}, o.Versus...) }

// side opens one target.
func (r *runner) side(i int, spec string) (*side, error) {
	s := &side{letter: string(rune('a' + i)), kind: kindOf(spec)}
	full := spec
	if r.o.Local > 0 {
		switch grpc, http := r.cluster.GRPCAddrs(), r.cluster.HTTPAddrs(); spec {
		case "", "client:":
			s.kind, full, s.name = "client", "client:"+strings.Join(grpc, ","), "local:"+strconv.Itoa(r.o.Local)
		case "grpc:":
			full, s.name = "grpc:"+grpc[0], fmt.Sprintf("local:%d grpc", r.o.Local)
		case "http:":
			full, s.name = "http://"+http[0], fmt.Sprintf("local:%d http", r.o.Local)
		}
		s.local = s.name != ""
	}
	var err error
	if s.target, err = target.Open(full, r.o.optionsOf(spec)); err != nil {
		return nil, err
	}
	if s.name == "" {
		s.name = s.target.Name()
	}
	for n := 2; slices.ContainsFunc(r.sides, func(other *side) bool { return other.name == s.name }); n++ {
		s.name = fmt.Sprintf("%s #%d", s.target.Name(), n)
	}
	s.description = target.Describe(s.target)
	return s, nil
}

func (r *runner) close() error {
	var problems []error
	for _, s := range r.sides {
		if err := s.target.Close(); err != nil {
			problems = append(problems, fmt.Errorf("close %s: %w", s.name, err))
		}
	}
	if r.cluster != nil {
		problems = append(problems, r.cluster.Stop())
	}
	return errors.Join(problems...)
}

// rounds lets the targets take turns; the one that is first is last in the next
// round.
func (r *runner) rounds(ctx context.Context) error {
	for n := range r.o.Rounds {
		order := slices.Clone(r.sides)
		if n%2 == 1 {
			slices.Reverse(order)
		}
		var round report.Round
		for _, s := range order {
			turn, err := r.turn(ctx, s, n)
			if turn != nil {
				round.Turns = append(round.Turns, *turn)
			}
			if err != nil {
				return err // a round that was cut short is not paired
			}
		}
		r.paired = append(r.paired, round)
	}
	for _, s := range r.sides {
		if err := s.ended(ctx, r.o); err != nil {
			return err
		}
	}
	return nil
}

// arrivals returns the times of one turn.
func (r *runner) arrivals(calls *workload.Workload) (bench.Arrivals, error) {
	switch {
	case r.o.replay():
		return bench.Times(calls.Times(), 1)
	case r.o.Rate == 0:
		return nil, nil //nolint:nilnil // a closed loop has none
	case r.o.Arrivals == Constant:
		return bench.Constant(r.o.Rate)
	default:
		return bench.Poisson(r.o.Rate, calls.Spec().Seed)
	}
}

// document puts together what was measured.
func (r *runner) document() (*report.Run, error) {
	o := r.o
	run := &report.Run{
		FormatVersion: report.FormatVersion,
		Started:       r.began.UTC().Truncate(time.Millisecond),
		Command:       o.Command, Flags: o.Flags, Seed: o.Workload.Seed,
		Environment: report.CaptureEnvironment(), Harness: o.Harness,
		Load: report.Load{
			Loop: "open", Arrivals: string(o.Arrivals), RatePerSecond: o.Rate,
			Workload: o.Workload.String(), Warmup: o.Warmup, Duration: o.For,
		},
	}
	switch {
	case o.replay():
		run.Load.Arrivals = "trace"
	case o.Rate == 0:
		run.Load.Loop, run.Load.Arrivals, run.Load.Callers = "closed", "", int64(o.Callers)
	}
	for _, s := range r.sides {
		t, err := s.result(r)
		if err != nil {
			return nil, err
		}
		run.Targets = append(run.Targets, *t)
		if s.version != "" {
			run.Environment.Versions = append(run.Environment.Versions, report.Flag{Name: s.name, Value: s.version})
		}
	}
	if len(r.sides) > 1 && len(r.paired) > 0 {
		run.Pairing = &report.Pairing{Baseline: r.sides[0].name, Rounds: r.paired}
	}
	if err := run.Validate(); err != nil {
		return nil, fmt.Errorf("document of the run: %w", err)
	}
	return run, nil
}
