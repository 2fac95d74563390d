// SPDX-License-Identifier: Apache-2.0

package suite

import (
	_ "embed"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/target"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
	"github.com/bucketring/bucketring/limiter/policy/source"
)

//go:embed policy.yaml
var defaultPolicy string

// DefaultPolicy returns the policy of a local cluster without Options.Policy.
func DefaultPolicy() string { return defaultPolicy }

// readPolicy reads a policy as a node does. An empty path means DefaultPolicy.
func readPolicy(path string) (*policy.Policy, error) {
	if path == "" {
		p, err := policy.Parse("policy.yaml", []byte(defaultPolicy), limiter.NewCatalog())
		if err != nil {
			return nil, fmt.Errorf("policy of the bench: %w", err)
		}
		return p, nil
	}
	store, err := source.New(source.Options{Path: path, Catalog: limiter.NewCatalog(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, err
	}
	return store.Current(), nil
}

// PolicyAuditOptions returns the limits of a policy for an audit of a log that begins at
// started. sameClock says that the limiter and the log use the same clock, so that the
// reset times of fixed windows are known.
func PolicyAuditOptions(p *policy.Policy, started time.Time, sameClock bool) audit.Options {
	t := &policyLimits{policy: p, started: started, sameClock: sameClock}
	return audit.Options{LimitsOf: t.limitsOf, Cost: t.cost}
}

// fallbackModes maps the limiter's fallback modes to the auditor's.
var fallbackModes = map[limiter.Unreachable]audit.FallbackMode{
	limiter.Closed: audit.FallbackClosed,
	limiter.Share:  audit.FallbackShare,
	limiter.Open:   audit.FallbackOpen,
}

// policyLimits converts the limits of a policy for the auditor.
type policyLimits struct {
	policy    *policy.Policy
	started   time.Time
	sameClock bool
	rates     sync.Map // model -> limiter.Rates
}

// limitsOf returns the limits of a call, and none if the policy has no tier for it.
func (t *policyLimits) limitsOf(key, tier, model string) []audit.Limit {
	var plan limiter.Plan
	if err := t.policy.Resolve(limiter.Time{Wall: time.Now().UnixNano()}, key, tier, model, &plan); err != nil {
		return nil
	}
	until := time.Now()
	var list []audit.Limit
	for i := range plan.Levels[:plan.Count] {
		level := &plan.Levels[i]
		for _, set := range []struct {
			limits *limiter.LimitSet
			model  string
		}{{level.Limits, ""}, {level.Model, model}} {
			if set.limits == nil {
				continue
			}
			for _, l := range set.limits.Limits() {
				if l.Shadow {
					continue // a shadow limit never denies
				}
				a := t.convert(&l, until)
				a.Scope, a.Model = key[:level.End], set.model
				a.Estimate, a.EstimatedOutput = estimates[level.Estimate.Mode], level.Estimate.Output
				list = append(list, a)
			}
		}
	}
	return list
}

var estimates = map[limiter.EstimateMode]audit.Estimate{
	limiter.EstimateMax:   audit.EstimateMax,
	limiter.EstimateFixed: audit.EstimateFixed,
	limiter.EstimateInput: audit.EstimateInput,
}

var maxWindow = map[limiter.Calendar]time.Duration{
	limiter.Hour:  time.Hour,
	limiter.Day:   25 * time.Hour, // with a change from summer time
	limiter.Week:  7*24*time.Hour + time.Hour,
	limiter.Month: 31*24*time.Hour + time.Hour,
	limiter.Year:  366*24*time.Hour + time.Hour,
}

func (t *policyLimits) convert(l *limiter.Limit, until time.Time) audit.Limit {
	a := audit.Limit{
		Dimension: string(l.Dimension), Name: l.Name, Algorithm: audit.Algorithm(l.Algorithm.String()),
		Amount: l.Amount, Burst: l.Burst, Window: l.Window, Fallback: fallbackModes[l.Unreachable],
	}
	if l.Calendar != limiter.NoCalendar {
		a.Window = maxWindow[l.Calendar]
	}
	if l.Algorithm == limiter.FixedWindow && t.sameClock {
		a.Resets = t.windowStarts(l, until)
	}
	return a
}

// windowStarts returns the starts of windows from the begin of the log until now. It
// returns nil, which means unknown, if there are too many.
func (t *policyLimits) windowStarts(l *limiter.Limit, until time.Time) []time.Duration {
	const maxStarts = 10_000
	list := []time.Duration{}
	for at := nextWindow(l, t.started); !at.After(until); at = nextWindow(l, at) {
		if len(list) == maxStarts {
			return nil
		}
		list = append(list, at.Sub(t.started))
	}
	return list
}

// nextWindow returns the start of the first window that begins after a time.
func nextWindow(l *limiter.Limit, at time.Time) time.Time {
	if l.Calendar == limiter.NoCalendar {
		since := at.UnixNano()
		return time.Unix(0, since-since%int64(l.Window)+int64(l.Window))
	}
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	in := at.In(zone)
	year, month, day := in.Date()
	switch l.Calendar {
	case limiter.Hour:
		return in.Truncate(time.Hour).Add(time.Hour)
	case limiter.Day:
		start := time.Date(year, month, day, 0, l.StartMinute, 0, 0, zone)
		if !start.After(at) {
			start = time.Date(year, month, day+1, 0, l.StartMinute, 0, 0, zone)
		}
		return start
	case limiter.Week:
		sinceMonday := (int(in.Weekday()) + 6) % 7
		return time.Date(year, month, day-sinceMonday+7, 0, 0, 0, 0, zone)
	case limiter.Year:
		return time.Date(year+1, 1, 1, 0, 0, 0, 0, zone)
	default:
		start := monthStart(l, year, month, zone)
		if !start.After(at) {
			start = monthStart(l, year, month+1, zone)
		}
		return start
	}
}

// monthStart returns when the window of a limit begins that begins in a month. In a shorter
// month that is the last day.
func monthStart(l *limiter.Limit, year int, month time.Month, zone *time.Location) time.Time {
	last := time.Date(year, month+1, 0, 0, 0, 0, 0, time.UTC).Day()
	return time.Date(year, month, min(max(l.StartDay, 1), last), 0, 0, 0, 0, zone)
}

// cost returns the cost of units under a limit, from the policy's weights and prices,
// rounded up as the limiter does.
func (t *policyLimits) cost(l *audit.Limit, u audit.Units) int64 {
	switch limiter.Dimension(l.Dimension) {
	case limiter.Requests:
		return u.Requests
	case limiter.InputTokens:
		return u.Input
	case limiter.OutputTokens:
		return u.Output
	case limiter.Tokens:
		w := t.ratesOf(u.Model).Weights
		return audit.Price{Input: w.Input, Output: w.Output}.Cost(u)
	case limiter.Spend:
		r := t.ratesOf(u.Model)
		return audit.Price{Input: r.InputPrice, Output: r.OutputPrice}.Cost(u) + r.RequestFee*u.Requests
	default:
		return 0
	}
}

func (t *policyLimits) ratesOf(model string) limiter.Rates {
	if known, ok := t.rates.Load(model); ok {
		return known.(limiter.Rates)
	}
	var plan limiter.Plan
	rates := limiter.Rates{Weights: limiter.DefaultWeights}
	if tiers := t.policy.Tiers(); len(tiers) > 0 && t.policy.Resolve(limiter.Time{}, "bench", tiers[0], model, &plan) == nil {
		rates = plan.Rates
	}
	t.rates.Store(model, rates)
	return rates
}

// redisAuditOptions returns the limits of a target on Redis, or of CL.THROTTLE, for the auditor.
func redisAuditOptions(kind string, limits []target.Limit) audit.Options {
	if len(limits) == 0 {
		limits = []target.Limit{target.DefaultLimit}
	}
	algorithm := audit.FixedWindow
	if kind == redisLua || kind == throttle {
		algorithm = audit.TokenBucket
	}
	var o audit.Options
	for _, l := range limits {
		o.Limits = append(o.Limits, audit.Limit{
			Dimension: string(l.Dimension), Algorithm: algorithm, Amount: l.Amount, Window: l.Window,
		})
	}
	return o
}

// Kinds of targets that support checks only.
const (
	redisPlain = "redis"
	redisLua   = "redis-lua"
	rateLimit  = "rls"
	throttle   = "throttle"
	gubernator = "gubernator"
	echo       = "echo"
)

// plaintextKind maps a kind over TLS to the same kind without.
var plaintextKind = map[string]string{"rediss": redisPlain, "rediss-lua": redisLua}

var checksOnly = []string{redisPlain, redisLua, rateLimit, throttle, gubernator, echo}

// ChecksOnly reports whether the target of a spec has no reservations.
func ChecksOnly(spec string) bool { return slices.Contains(checksOnly, kindOf(spec)) }

// CallsModels reports whether the target of a spec makes LLM calls itself.
func CallsModels(spec string) bool {
	kind := kindOf(spec)
	return slices.ContainsFunc(target.Kinds(), func(k target.Kind) bool { return k.Name == kind && k.CallsModel })
}
