// SPDX-License-Identifier: Apache-2.0

package continuity

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync/atomic"
	"time"

	"github.com/HdrHistogram/hdrhistogram-go"
	"golang.org/x/sync/errgroup"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
	"github.com/bucketring/bucketring/bench/suite"
)

// Iteration is one fault and what was found. Its times are since the begin of its load.
type Iteration struct {
	Number  int      `json:"number"` // from 1
	Victims []string `json:"victims"`
	// Begin is when the fault began, and End when the nodes had one ring again.
	Begin time.Duration `json:"begin_ns"`
	End   time.Duration `json:"end_ns"`
	// Problem is why the fault was not applied as planned; empty if it was.
	Problem string `json:"problem,omitempty"`

	Counts
	Findings
	Owned Recovery `json:"owned"` // keys that the victims owned
	Heir  Recovery `json:"heir"`  // keys that the victims were heir of
	// Cut are the keys whose owner and heir were both cut off. The others have no copy of
	// these, so they answer in fallback until the end of the split.
	Cut Recovery `json:"cut"`
	// OneRing is the time from the end of a split until all nodes had the same ring.
	OneRing time.Duration `json:"one_ring_ns,omitempty"`
	// Messages are the most frequent messages of failed requests.
	Messages []Message `json:"messages,omitempty"`
	Waiting  *Waiting  `json:"waiting,omitempty"`

	steady, during *hdrhistogram.Histogram
}

// Counts are numbers of requests.
type Counts struct {
	Requests int64 `json:"requests"` // checks, reserves, reports and settles
	Admitted int64 `json:"admitted"` // checks and reserves
	Denied   int64 `json:"denied"`
	Failed   int64 `json:"failed"`   // of all requests
	Refused  int64 `json:"refused"`  // because of overload
	Fallback int64 `json:"fallback"` // checks and reserves without an owner
	// NotSent is the number of calls that this process could not send in time.
	NotSent int64 `json:"not_sent"`
}

func (c *Counts) plus(d *Counts) {
	c.Requests += d.Requests
	c.Admitted += d.Admitted
	c.Denied += d.Denied
	c.Failed += d.Failed
	c.Refused += d.Refused
	c.Fallback += d.Fallback
	c.NotSent += d.NotSent
}

// Message is how often requests failed with a message.
type Message struct {
	Text  string `json:"text"`
	Count int64  `json:"count"`
}

// errIterationOver ends the load of an iteration.
var errIterationOver = errors.New("the iteration is over")

// usualLease is the lease of a reservation that names none.
const usualLease = 30 * time.Second

// usageWait bounds the time for owners to hear of what was decided without them.
const usageWait = 6 * time.Second

// iterate runs the n-th iteration, from 0.
func (r *campaignRun) iterate(ctx context.Context, n int) (*Iteration, error) {
	load := newLoad(fmt.Sprintf("c%d", n), r.classes(), r.options.Seed+uint64(n), r.options.SplitFor+usualLease)
	victim := n%r.campaign.Nodes + 1
	where, err := locate(ctx, r.cluster.HTTPAddrs()[0], load.keys)
	if err != nil {
		return nil, err
	}
	arrivals, err := bench.Poisson(r.options.Rate, r.options.Seed+uint64(n))
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	limits := suite.PolicyAuditOptions(r.policy, begin, true)
	limits.ClockSkew, limits.Members, limits.MaxFindings = time.Millisecond, r.campaign.Nodes, maxFindings
	limits.RefillDelay = refillDelay
	auditor, err := audit.New(limits)
	if err != nil {
		return nil, err
	}
	log := &runLog{load: load, ingress: r.ingress}

	loadCtx, endLoad := context.WithCancelCause(ctx)
	defer endLoad(nil)
	var f *fault
	var group errgroup.Group
	group.Go(func() (err error) {
		defer endLoad(errIterationOver)
		if f, err = r.inject(ctx, victim, begin); err != nil {
			return err
		}
		return sleepUntil(ctx, time.Now().Add(aftermath))
	})
	result, err := bench.Run(loadCtx, bench.Options{
		Target: r.target, Workload: load, Arrivals: arrivals, MaxLag: time.Second, Timeout: r.timeout(),
		OnEvent: func(e bench.Event) {
			auditor.Add(&e)
			log.add(&e)
		},
	})
	if err := errors.Join(group.Wait(), ignore(err, errIterationOver)); err != nil || result == nil {
		return nil, err
	}
	f.shift(begin.Sub(result.Started))

	report, slots, err := r.finalAudit(ctx, auditor, load, result.Started)
	if err != nil {
		return nil, err
	}
	it := &Iteration{Number: n + 1, Begin: f.begin, End: f.end, OneRing: f.oneRing}
	for _, v := range f.victims {
		it.Victims = append(it.Victims, nodeName(v))
	}
	if f.problem != nil {
		it.Problem = f.problem.Error()
	}
	it.count(log, result)
	if r.options.Waiters {
		it.Waiting = log.waiting()
		it.Waiting.SlotsHeld = slots
	}
	it.Findings = *findings(report, &tolerance{promises[r.campaign.Kind], log, f.begin, f.applied, limits.Cost})
	it.steady, it.during = log.latencies(warmup, f.begin), log.latencies(f.begin, f.end)
	it.recover(r.campaign, log, f, where)
	return it, nil
}

// ignore returns err unless it is the expected one.
func ignore(err, expected error) error {
	if errors.Is(err, expected) {
		return nil
	}
	return err
}

func nodeName(n int) string { return fmt.Sprintf("bench-%d", n) }

// shift changes the origin of the times.
func (f *fault) shift(by time.Duration) {
	f.begin += by
	f.applied += by
	f.end += by
	for i := range f.outages {
		f.outages[i].from += by
		f.outages[i].to += by
	}
}

// classes returns the classes of the keys.
func (r *campaignRun) classes() []class {
	if r.options.Waiters {
		return waiterClasses
	}
	return classes
}

// timeout returns the time for a request; 0: the usual one.
func (r *campaignRun) timeout() time.Duration {
	if r.options.Waiters {
		return waiterTimeout
	}
	return 0
}

// finalAudit reads the usage of all keys and audits the log, until the usage is what the
// log explains, or for usageWait. It returns how many slots are held.
func (r *campaignRun) finalAudit(ctx context.Context, a *audit.Auditor, load *load, started time.Time) (*audit.Report, int64, error) {
	for deadline := time.Now().Add(usageWait); ; {
		if err := sleepUntil(ctx, time.Now().Add(time.Second)); err != nil {
			return nil, 0, err
		}
		var slots atomic.Int64
		var group errgroup.Group
		group.SetLimit(8)
		for _, k := range load.keys {
			group.Go(func() error {
				limited, cancel := context.WithTimeout(ctx, bench.DefaultTimeout)
				defer cancel()
				sent := time.Since(started)
				used, err := r.target.ReadUsage(limited, k.name, k.tier, "")
				if err != nil {
					return fmt.Errorf("read the usage of %s: %w", k.name, err)
				}
				slots.Add(heldSlots(used))
				a.AddFinalUsage(audit.KeyUsage{Key: k.name, Tier: k.tier, Used: used, Sent: sent, Done: time.Since(started)})
				return nil
			})
		}
		err := group.Wait()
		if late := time.Now().After(deadline); err != nil && (late || ctx.Err() != nil) {
			return nil, 0, err
		} else if report := a.Report(); err == nil && (len(report.Charges) == 0 && slots.Load() == 0 || late) {
			return report, slots.Load(), nil
		}
	}
}

// count counts the requests of a log.
func (it *Iteration) count(l *runLog, result *bench.Result) {
	it.NotSent = result.Dropped
	for i := range l.samples {
		s := &l.samples[i]
		it.Requests++
		if s.result == failed {
			it.Failed++
		}
		if !s.decides() {
			continue
		}
		switch s.result {
		case admitted:
			it.Admitted++
		case denied:
			it.Denied++
		case refused:
			it.Refused++
		case failed:
		}
		if s.route == "fallback" {
			it.Fallback++
		}
	}
	for _, text := range slices.Sorted(maps.Keys(l.messages)) {
		it.Messages = append(it.Messages, Message{text, l.messages[text]})
	}
	slices.SortStableFunc(it.Messages, func(a, b Message) int { return int(b.Count - a.Count) })
	it.Messages = it.Messages[:min(len(it.Messages), 5)]
}

// recover measures how long the keys of the victims had no exact answers. Nodes that are cut
// off themselves are not asked.
func (it *Iteration) recover(c Campaign, l *runLog, f *fault, where []location) {
	for _, o := range f.outages {
		is := func(name string) bool {
			return slices.ContainsFunc(o.victims, func(v int) bool { return nodeName(v) == name })
		}
		asked := func(s *sample) bool { return s.ingress == 0 || !slices.Contains(o.victims, s.ingress) }
		cut := func(s *sample) bool { return c.Kind == Split && is(where[s.key].Owner) && is(where[s.key].Heir) }
		it.Owned.worst(l.recovery(o.from, o.to, func(s *sample) bool {
			return asked(s) && is(where[s.key].Owner) && !cut(s)
		}))
		it.Cut.worst(l.recovery(o.from, o.to, func(s *sample) bool { return asked(s) && cut(s) }))
		it.Heir.worst(l.recovery(o.from, o.to, func(s *sample) bool {
			return asked(s) && is(where[s.key].Heir) && !is(where[s.key].Owner)
		}))
	}
}

// refillDelay is for how long a limit may be without refill during an iteration, in which
// its state moves twice or more for each node. It only allows more denials.
const refillDelay = time.Second
