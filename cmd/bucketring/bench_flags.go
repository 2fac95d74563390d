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
)

// The load of a run that says nothing else.
const (
	defaultBenchRate = 2_000
	defaultBenchKeys = "zipf:1.1x100k"
	defaultBenchTier = "free=70,standard=25,enterprise=5"
)

// nullTarget does nothing.
const nullTarget = "null:"

// benchFlags are what bench run is told.
type benchFlags struct {
	options  suite.Options
	servers  []string
	tls      tlsFlags
	trace    string
	speed    float64
	rate     rate
	keys     textFlag
	tiers    textFlag
	models   textFlag
	tokens   textFlag
	llm      textFlag
	retries  textFlag
	arrivals string
	faults   []*faultFlag

	out, page string
	calibrate bool
	output    *format
}

func (b *benchFlags) declare(cmd *cobra.Command) {
	f, o := cmd.Flags(), &b.options
	f.IntVar(&o.LocalNodes, "local", 0, "start a cluster of so many nodes on this machine, as 3")
	f.StringSliceVar(&b.servers, "servers", nil, "gRPC addresses of nodes, as 10.0.0.1:6471,10.0.0.2:6471 (default $BUCKETRING_SERVER or "+defaultServer+")")
	f.StringVar(&o.Target, "target", "", "what is asked, as grpc:HOST:PORT, http://HOST:PORT, openai:http://HOST:PORT, rls:HOST:PORT or null:; with --local also grpc: and http:")
	f.StringArrayVar(&o.Versus, "vs", nil, "target to compare with in alternating rounds, as redis://localhost:6379 or redis-lua://localhost; may be repeated")
	f.IntVar(&o.Rounds, "rounds", 0, "turns of each target (default 1, with --vs 5)")
	f.BoolVar(&o.Targets.Insecure, "insecure", false, "allow plaintext to other machines")
	b.tls.declare(f)
	f.StringVar(&o.Targets.Domain, rlsDomain, "", "domain of questions to rls: (default "+target.DefaultDomain+")")
	f.StringVar(&o.Targets.DescriptorKey, rlsEntry, "", "name of the entry of the descriptor that has the key, for rls: (default "+target.DefaultDescriptorKey+")")

	f.Var(&b.rate, "rate", "calls per second, sent when they are due, as 20k (default "+grouped(defaultBenchRate)+")")
	f.IntVar(&o.Callers, "callers", 0, "without --rate: so many callers that each wait for their answer; with it: the most calls under way")
	f.StringVar(&b.arrivals, "arrivals", string(suite.Poisson), "poisson or constant")
	f.DurationVar(&o.Duration, "for", 10*time.Second, "time that each target is measured, in all rounds together")
	f.DurationVar(&o.Warmup, "warmup", 2*time.Second, "time before each round that is not measured")
	f.DurationVar(&o.Timeout, "timeout", time.Second, "time to wait for an answer (of a model: default 1m)")
	f.DurationVar(&o.ReadyTimeout, "wait", suite.DefaultReadyTimeout, "time to wait until a target answers for the first time")
	f.StringVar(&o.Targets.KeyHeader, "key-header", target.DefaultKeyHeader, "header in which openai: and anthropic: say the key of a call; it is the bearer token, too")

	spec := &o.Workload
	b.keys.declare(f, &spec.Keys, "keys", "whose calls, as uniform:1M, zipf:1.1x100k, hot:acme/alice or orgs:100x1000 (default "+defaultBenchKeys+")")
	b.tiers.declare(f, &spec.Tiers, "tiers", "tiers of the keys (default "+defaultBenchTier+")")
	b.models.declare(f, &spec.Models, "models", "models of the calls, as small=4,large=1")
	b.tokens.declare(f, &spec.Tokens, "tokens", "size of calls: chat, fixed:900+100 or uniform:100-2000+50-400 (default chat)")
	b.llm.declare(f, &spec.LLM, "llm", "share of calls that reserve, report and settle, as 30%")
	b.retries.declare(f, &spec.Retries, "retries", "share of calls that are sent twice, as 1%")
	f.StringVar(&b.trace, "trace", "", "azure: the calls and times of the Azure LLM inference trace, instead of --rate and --keys")
	f.Float64Var(&b.speed, "speed", 1, "how many times as fast --trace is replayed")
	f.Uint64Var(&spec.Seed, "seed", 1, "the same seed makes the same calls")
	f.StringVar(&spec.KeyPrefix, "prefix", "", "begins every key, so that runs against the same servers don't share usage")

	f.StringVar(&o.Policy, "policy", "", "policy file or directory of --local, and what other servers are audited by (default with --local: one for the bench)")
	for _, fault := range []struct {
		kind local.FaultKind
		help string
	}{
		{local.Kill, "crash a node at a time, as 1@10s"},
		{local.Pause, "let a node stand still at a time, as 1@10s+2s"},
		{local.Leave, "let a node leave at a time, as 2@10s"},
		{local.Join, "let one more node join at a time, as @10s, or one that is down, as 2@15s"},
		{local.Restart, "restart all nodes one after the other, as rolling@15s"},
	} {
		flag := &faultFlag{kind: fault.kind}
		b.faults = append(b.faults, flag)
		f.Var(flag, string(fault.kind), fault.help+" (needs --local)")
	}

	f.StringVar(&b.out, "out", "", "write the run to this file, compressed if it ends in .gz (default bucketring-bench-<time>.json)")
	f.StringVar(&b.page, "report", "", "write the page to this file (default bucketring-bench-<time>.html)")
	f.BoolVar(&b.calibrate, "calibrate", false, "first measure the bench itself for 3 s: its highest rate, and what it adds to a latency (default with --target null:)")
	b.output = addFormat(f)
}

// complete makes options of what was given, or says what is wrong.
func (b *benchFlags) complete(cmd *cobra.Command, s *streams) error {
	o := &b.options
	given := cmd.Flags().Changed
	switch {
	case o.LocalNodes > 0 && len(b.servers) > 0:
		return misused(cmd, errors.New("--servers: --local starts servers of its own"), cmd.CommandPath()+" --local 3")
	case o.Target != "" && len(b.servers) > 0:
		return misused(cmd, errors.New("--servers: --target says what is asked"), "")
	case given("local") && o.LocalNodes < 1:
		return misused(cmd, fmt.Errorf("--local: must be 1 or more, got %d", o.LocalNodes), "")
	case o.LocalNodes == 0 && o.Target == "":
		if len(b.servers) == 0 {
			b.servers = []string{s.setting("", "BUCKETRING_SERVER", defaultServer)}
		}
		o.Target = "client:" + strings.Join(b.servers, ",")
	}

	switch b.trace {
	case "":
		if given("speed") {
			return misused(cmd, errors.New("--speed: is of --trace"), cmd.CommandPath()+" --trace azure --speed 10")
		}
		if err := b.synthetic(); err != nil {
			return err
		}
	case "azure":
		replay, err := workload.ParseReplay(strconv.FormatFloat(b.speed, 'f', -1, 64) + "x")
		if err != nil {
			return misused(cmd, fmt.Errorf("--speed: %w", err), cmd.CommandPath()+" --trace azure --speed 10")
		}
		o.Workload.Replay = replay
	default:
		return misused(cmd, fmt.Errorf("--trace: must be azure, got %q", b.trace), cmd.CommandPath()+" --trace azure --speed 10")
	}
	if o.Target == nullTarget && !given("calibrate") {
		b.calibrate = true // what else would it be for?
	}
	o.Rate = float64(b.rate)
	o.Arrivals = suite.Arrival(b.arrivals)
	for _, f := range b.faults {
		o.Faults = append(o.Faults, f.faults...)
	}
	if err := b.reservations(cmd, s); err != nil {
		return err
	}
	if err := b.doors(cmd); err != nil {
		return err
	}
	if err := b.modelCalls(given("timeout")); err != nil {
		return err
	}
	if err := o.Validate(); err != nil {
		return misused(cmd, err, "")
	}
	o.Command, o.Flags = commandOf(cmd)
	return nil
}

// synthetic fills in what a load that is no replay lacks.
func (b *benchFlags) synthetic() error {
	if b.rate == 0 && b.options.Callers == 0 {
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

// reservations sees to it that no target is asked for what it does not have.
func (b *benchFlags) reservations(cmd *cobra.Command, s *streams) error {
	for _, spec := range append([]string{b.options.Target}, b.options.Versus...) {
		if !suite.ChecksOnly(spec) {
			continue
		}
		kind, _, _ := strings.Cut(spec, ":")
		if b.llm.text != "" && !strings.HasPrefix(b.llm.text, "0%") {
			return misused(cmd, fmt.Errorf("--llm: a target of kind %s knows checks only", kind), "leave out --llm, or that target")
		}
		if b.trace != "" && b.llm.text == "" {
			s.note("all calls of the trace are checks: a target of kind %s knows no others\n", kind)
		}
		if b.llm.text == "" {
			return b.llm.Set("0%")
		}
	}
	return nil
}

// modelTimeout is for a part of an answer of a model, which may take its time.
const modelTimeout = time.Minute

// modelCalls fills in what is usual for targets that call models.
func (b *benchFlags) modelCalls(timed bool) error {
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

// commandOf is the command as it can be typed again, and all of its flags.
// Passwords are left out.
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
				words = append(words, "--"+f.Name, quoted(value))
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

func quoted(value string) string {
	if value == "" || strings.ContainsAny(value, " \t'\"$*;&|<>()#\\`") {
		return "'" + strings.ReplaceAll(value, "'", `'\''`) + "'"
	}
	return value
}

// textFlag is a flag whose value another package reads.
type textFlag struct {
	text string
	into encoding.TextUnmarshaler
}

func (t *textFlag) declare(f *pflag.FlagSet, into encoding.TextUnmarshaler, name, help string) {
	t.into = into
	f.Var(t, name, help)
}

// String implements pflag.Value.
func (t *textFlag) String() string { return t.text }

// Type implements pflag.Value.
func (t *textFlag) Type() string { return "spec" }

// Set implements pflag.Value.
func (t *textFlag) Set(text string) error {
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

// rate is calls per second, such as 20k.
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

// kindsOfTargets says what can be asked, for the help.
func kindsOfTargets() string {
	var b strings.Builder
	for _, k := range target.Kinds() {
		fmt.Fprintf(&b, "  %s\n", k.Syntax)
	}
	return b.String()
}
