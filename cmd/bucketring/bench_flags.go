// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/bucketring/bucketring/bench/local"
	"github.com/bucketring/bucketring/bench/report"
	"github.com/bucketring/bucketring/bench/suite"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/bench/workload"
	"github.com/bucketring/bucketring/internal/amount"
	"github.com/bucketring/bucketring/limiter/policy/source"
)

// The default load of a run. Its time is enough for [report.MinComparable].
const (
	defaultBenchTime = 30 * time.Second
	defaultBenchRate = 2_000
	defaultBenchKeys = "zipf:1.1x100k"
	defaultBenchTier = "free=70,standard=25,enterprise=5"
)

// nullTarget is the target that does nothing.
const nullTarget = "null:"

// benchFlags are the flags of bench run.
type benchFlags struct {
	options  suite.Options
	servers  []string
	tls      tlsFlags
	token    tokenFlag
	trace    string
	speed    float64
	rate     rate
	keys     specFlag
	tiers    specFlag
	models   specFlag
	tokens   specFlag
	llm      specFlag
	retries  specFlag
	arrivals *string
	faults   []*faultFlag

	out, reportPath string
	calibrate       bool
	output          *format
}

func (b *benchFlags) declare(cmd *cobra.Command) {
	f, o := cmd.Flags(), &b.options
	f.IntVar(&o.LocalNodes, "local", 0, "start a cluster with this number of nodes on this machine")
	f.BoolVar(&o.Persist, "data", false, "let the nodes of --local write their state to a temporary directory")
	f.StringSliceVar(&b.servers, "servers", nil, "gRPC addresses of nodes, such as 10.0.0.1:6471,10.0.0.2:6471 (default $BUCKETRING_SERVER or "+defaultServer+")")
	f.StringVar(&o.Target, "target", "", "target, such as grpc:HOST:PORT, http://HOST:PORT, openai:http://HOST:PORT, rls:HOST:PORT or null:; with --local also grpc: and http:")
	f.StringArrayVar(&o.Versus, "vs", nil, "target to compare with in alternating rounds, such as redis://localhost:6379 or redis-lua://localhost; may be repeated")
	f.IntVar(&o.Rounds, "rounds", 0, "rounds of each target (default 1, with --vs 5)")
	b.token.declare(f)
	f.BoolVar(&o.Targets.Insecure, "insecure", false, "allow connections to other machines without TLS")
	b.tls.declare(f)
	f.StringVar(&o.Targets.Domain, rlsDomain, "", "domain of requests to rls: targets (default "+target.DefaultDomain+")")
	f.StringVar(&o.Targets.DescriptorKey, rlsEntry, "", "name of the descriptor entry that has the key, for rls: targets (default "+target.DefaultDescriptorKey+")")

	f.Var(&b.rate, "rate", "calls per second, sent on schedule, such as 20k (default "+amount.Group(defaultBenchRate)+")")
	f.IntVar(&o.Callers, "callers", 0, "without --rate: number of callers, each of which waits for its answer; with --rate: maximum number of calls in progress")
	b.arrivals = addChoice(f, "arrivals", "distribution of the times between calls: ", string(suite.Poisson), string(suite.Constant))
	f.BoolVar(&o.Overload, "overload", false, "find the capacity of each target, then offer 0.9, 1, 2, 4 and 10 times as much, for 5s each unless --for is set; --rate is where the search begins")
	f.DurationVar(&o.Duration, "for", defaultBenchTime, "measured time of each target, over all rounds")
	f.DurationVar(&o.Warmup, "warmup", 2*time.Second, "unmeasured time before each round")
	f.DurationVar(&o.Timeout, "timeout", time.Second, "time to wait for an answer; for targets that call models the default is 1m")
	f.DurationVar(&o.ReadyTimeout, "wait", suite.DefaultReadyTimeout, "time to wait for the first answer of a target")
	f.StringVar(&o.Targets.KeyHeader, "key-header", target.DefaultKeyHeader, "header with the key of a call for openai: and anthropic: targets; the bearer token also has it")

	spec := &o.Workload
	b.keys.declare(f, &spec.Keys, "keys", "distribution of keys, such as uniform:1M, zipf:1.1x100k, hot:acme/alice or orgs:100x1000 (default "+defaultBenchKeys+")")
	b.tiers.declare(f, &spec.Tiers, "tiers", "weights of the tiers of keys (default "+defaultBenchTier+")")
	b.models.declare(f, &spec.Models, "models", "weights of the models of calls, such as small=4,large=1")
	b.tokens.declare(f, &spec.Tokens, "tokens", "input and output tokens of calls: chat, fixed:900+100 or uniform:100-2000+50-400 (default chat)")
	b.llm.declare(f, &spec.LLM, "llm", "share of calls that reserve, report progress and settle, such as 30%")
	b.retries.declare(f, &spec.Retries, "retries", "share of calls that are sent twice, such as 1%")
	f.BoolVar(&o.Targets.NoIDs, "no-ids", false, "send checks without request ids, as callers that never repeat a call; only such checks are answered from slices")
	f.StringVar(&b.trace, "trace", "", "azure: replay the Azure LLM inference trace instead of --rate and --keys")
	withChoices(f, "trace", "azure")
	f.Float64Var(&b.speed, "speed", 1, "speed of the replay of --trace")
	f.Uint64Var(&spec.Seed, "seed", 1, "seed of the workload; the same seed makes the same calls")
	f.StringVar(&spec.KeyPrefix, "prefix", "", "prefix of every key, so that runs against the same servers do not share usage")

	f.StringVar(&o.Policy, "policy", "", "policy file or directory: that of --local, or the one that other servers are audited against (default with --local: a policy for the benchmark)")
	for _, fault := range []struct {
		kind local.FaultKind
		help string
	}{
		{local.Kill, "crash a node, such as 1@10s for node 1 after 10 s"},
		{local.Pause, "pause a node for a time, such as 1@10s+2s, or again each second, such as 1@10s+300ms/1s"},
		{local.Leave, "let a node leave, such as 2@10s"},
		{local.Join, "let an additional node join, such as @10s, or a stopped one rejoin, such as 2@15s"},
		{local.Restart, "restart all nodes one after the other, such as rolling@15s"},
		{local.Busy, "run processes that use the processors beside the nodes, such as 8@10s+60s for 8 of them for a minute"},
	} {
		flag := &faultFlag{kind: fault.kind}
		b.faults = append(b.faults, flag)
		f.Var(flag, string(fault.kind), fault.help+" (needs --local)")
	}

	f.StringVar(&b.out, "out", "", "write the run to this file, compressed if its name ends in .gz (default bucketring-bench-<time>.json)")
	f.StringVar(&b.reportPath, "report", "", "write an HTML report to this file (default bucketring-bench-<time>.html)")
	f.BoolVar(&b.calibrate, "calibrate", false, "first measure the benchmark itself for 3 s: its maximum rate, and the latency that it adds (default with --target null:)")
	b.output = addFormat(f)
}

// resolve sets the options from the flags, or returns a usage error.
func (b *benchFlags) resolve(cmd *cobra.Command, s *streams) error {
	o := &b.options
	given := cmd.Flags().Changed
	switch {
	case o.LocalNodes > 0 && len(b.servers) > 0:
		return usageError(cmd, errors.New("--servers: must not be set together with --local, which starts its own nodes"), cmd.CommandPath()+" --local 3")
	case o.Target != "" && len(b.servers) > 0:
		return usageError(cmd, errors.New("--servers: must not be set together with --target"), "")
	case o.Persist && o.LocalNodes == 0:
		return usageError(cmd, errors.New("--data: needs --local"), cmd.CommandPath()+" --local 3 --data")
	case given("local") && o.LocalNodes < 1:
		return usageError(cmd, fmt.Errorf("--local: must be 1 or more, got %d", o.LocalNodes), "")
	case o.LocalNodes == 0 && o.Target == "":
		if len(b.servers) == 0 {
			b.servers = []string{s.flagOrEnv("", envServer, defaultServer)}
		}
		o.Target = "client:" + strings.Join(b.servers, ",")
	}

	switch b.trace {
	case "":
		if given("speed") {
			return usageError(cmd, errors.New("--speed: needs --trace"), cmd.CommandPath()+" --trace azure --speed 10")
		}
		if err := b.setLoadDefaults(); err != nil {
			return err
		}
	case "azure":
		replay, err := workload.ParseReplay(strconv.FormatFloat(b.speed, 'f', -1, 64) + "x")
		if err != nil {
			return usageError(cmd, fmt.Errorf("--speed: %w", err), cmd.CommandPath()+" --trace azure --speed 10")
		}
		o.Workload.Replay = replay
	default:
		return usageError(cmd, fmt.Errorf("--trace: must be azure, got %q", b.trace), cmd.CommandPath()+" --trace azure --speed 10")
	}
	if o.Target == nullTarget && !given("calibrate") {
		b.calibrate = true // the null target has no other use
	}
	if o.Overload {
		b.setOverloadDefaults(given)
	}
	var err error
	if o.Targets.Token, err = b.token.source(cmd, s); err != nil {
		return err
	}
	o.Rate = float64(b.rate)
	o.Arrivals = suite.Arrival(*b.arrivals)
	for _, f := range b.faults {
		o.Faults = append(o.Faults, f.faults...)
	}
	if err := b.checkReservations(cmd, s); err != nil {
		return err
	}
	if err := b.checkTargetFlags(cmd); err != nil {
		return err
	}
	if err := b.setModelDefaults(given("timeout")); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return usageError(cmd, namingFlags(cmd, err), "")
	}
	if err := b.checkTiers(cmd, s); err != nil {
		return err
	}
	o.Command, o.Flags = commandOf(cmd)
	return nil
}

// checkTiers rejects tiers that --policy does not have: calls with them are invalid.
func (b *benchFlags) checkTiers(cmd *cobra.Command, s *streams) error {
	if b.options.Policy == "" {
		return nil
	}
	p, err := s.loadPolicy(b.options.Policy)
	if err != nil {
		return errorWithHint(fmt.Errorf("--policy: %w", err), "")
	}
	known := p.Tiers()
	for _, name := range b.options.Workload.Tiers.Names() {
		if !slices.Contains(known, name) {
			return usageError(cmd, fmt.Errorf("--tiers: %s has no tier %q", source.Redacted(b.options.Policy), name), "--tiers "+strings.Join(known, "=1,")+"=1")
		}
	}
	return nil
}

// setLoadDefaults sets the defaults of a load that is no replay.
func (b *benchFlags) setLoadDefaults() error {
	if b.rate == 0 && b.options.Callers == 0 && !b.options.Overload {
		b.rate = defaultBenchRate
	}
	if b.keys.text == "" {
		if err := b.keys.Set(defaultBenchKeys); err != nil {
			return err
		}
	}
	if b.tiers.text == "" {
		return b.tiers.Set(defaultBenchTier)
	}
	return nil
}

// setOverloadDefaults sets the defaults of a run that measures overload.
func (b *benchFlags) setOverloadDefaults(given func(flag string) bool) {
	if !given("for") {
		b.options.Duration = 25 * time.Second
	}
	if !given("warmup") {
		b.options.Warmup = time.Second
	}
}

// checkReservations rejects --llm for targets that only support checks.
func (b *benchFlags) checkReservations(cmd *cobra.Command, s *streams) error {
	for _, spec := range append([]string{b.options.Target}, b.options.Versus...) {
		if !suite.ChecksOnly(spec) {
			continue
		}
		kind, _, _ := strings.Cut(spec, ":")
		if b.llm.text != "" && !strings.HasPrefix(b.llm.text, "0%") {
			return usageError(cmd, fmt.Errorf("--llm: targets of kind %s only support checks", kind), "leave out --llm, or that target")
		}
		if b.trace != "" && b.llm.text == "" {
			s.notef("all calls of the trace are sent as checks: targets of kind %s support no others\n", kind)
		}
		if b.llm.text == "" {
			return b.llm.Set("0%")
		}
	}
	return nil
}

// modelTimeout is the default timeout of targets that call models.
const modelTimeout = time.Minute

// setModelDefaults sets the defaults of targets that call models.
func (b *benchFlags) setModelDefaults(timed bool) error {
	if !slices.ContainsFunc(append([]string{b.options.Target}, b.options.Versus...), suite.CallsModels) {
		return nil
	}
	if !timed {
		b.options.Timeout = modelTimeout
	}
	if b.llm.text == "" && b.trace == "" {
		return b.llm.Set("100%")
	}
	return nil
}

// commandOf returns the command line to repeat a run, and all of its flags, without
// passwords.
func commandOf(cmd *cobra.Command) (string, []report.Flag) {
	words := []string{cmd.CommandPath()}
	var flags []report.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name == "help" {
			return
		}
		values := []string{f.Value.String()}
		if list, ok := f.Value.(pflag.SliceValue); ok {
			values = list.GetSlice()
		}
		for _, value := range values {
			value = withoutPassword(value)
			flags = append(flags, report.Flag{Name: f.Name, Value: value})
			if !f.Changed {
				continue
			}
			switch {
			case f.Value.Type() != "bool":
				words = append(words, "--"+f.Name, shellQuote(value))
			case value == "true":
				words = append(words, "--"+f.Name)
			default:
				words = append(words, "--"+f.Name+"="+value)
			}
		}
	})
	return strings.Join(words, " "), flags
}

func withoutPassword(value string) string {
	kind, rest, ok := strings.Cut(value, "://")
	if at := strings.LastIndex(rest, "@"); ok && at >= 0 {
		return kind + "://" + rest[at+1:]
	}
	return value
}

func shellQuote(value string) string {
	if value == "" || strings.ContainsAny(value, " \t'\"$*;&|<>()#\\`") {
		return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return value
}

// specFlag is a flag whose value is parsed by another package.
type specFlag struct {
	text string
	into encoding.TextUnmarshaler
}

func (t *specFlag) declare(f *pflag.FlagSet, into encoding.TextUnmarshaler, name, help string) {
	t.into = into
	f.Var(t, name, help)
}

// String implements pflag.Value.
func (t *specFlag) String() string { return t.text }

// Type implements pflag.Value.
func (t *specFlag) Type() string { return "spec" }

// Set implements pflag.Value.
func (t *specFlag) Set(text string) error {
	if err := t.into.UnmarshalText([]byte(text)); err != nil {
		return err
	}
	t.text = text
	return nil
}

// faultFlag is a flag that may be repeated, such as --kill 1@10s.
type faultFlag struct {
	kind   local.FaultKind
	texts  []string
	faults []local.Fault
}

// String implements pflag.Value.
func (f *faultFlag) String() string { return strings.Join(f.texts, ",") }

// Type implements pflag.Value.
func (f *faultFlag) Type() string { return "fault" }

// Set implements pflag.Value.
func (f *faultFlag) Set(text string) error {
	for one := range strings.SplitSeq(text, ",") {
		fault, err := local.ParseFault(f.kind, one)
		if err != nil {
			return err
		}
		f.texts, f.faults = append(f.texts, one), append(f.faults, fault)
	}
	return nil
}

// rate is a flag in calls per second, such as 20k.
type rate float64

// String implements pflag.Value.
func (r *rate) String() string {
	if *r == 0 {
		return ""
	}
	return strconv.FormatFloat(float64(*r), 'f', -1, 64)
}

// Type implements pflag.Value.
func (r *rate) Type() string { return "rate" }

// Set implements pflag.Value.
func (r *rate) Set(text string) error {
	digits, factor := strings.ReplaceAll(strings.TrimSuffix(text, "/s"), "_", ""), 1.0
	switch {
	case strings.HasSuffix(digits, "k"):
		digits, factor = strings.TrimSuffix(digits, "k"), 1e3
	case strings.HasSuffix(digits, "M"):
		digits, factor = strings.TrimSuffix(digits, "M"), 1e6
	}
	n, err := strconv.ParseFloat(digits, 64)
	if err != nil || !(n*factor > 0 && n*factor <= 1e9) {
		return errors.New("must be calls per second, such as 500, 20k or 1.5M")
	}
	*r = rate(n * factor)
	return nil
}

// targetKinds lists the kinds of targets, for the help.
func targetKinds() string {
	var b strings.Builder
	for _, k := range target.Kinds() {
		fmt.Fprintf(&b, "  %s\n", k.Syntax)
	}
	return b.String()
}
