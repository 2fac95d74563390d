// SPDX-License-Identifier: Apache-2.0

package line_test

import (
	"maps"
	"math"
	"slices"
	"testing"
	"time"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/line"
)

// fataler is a *testing.T or a *rapid.T.
type fataler interface {
	Helper()
	Fatalf(format string, args ...any)
}

// world drives a line with a real engine in virtual time, as the owner of a root does.
type world struct {
	t      fataler
	engine *limiter.Engine
	line   *line.Line
	now    limiter.Time
	plans  map[string]*limiter.Plan

	calls   map[line.ID]*call
	served  []*call
	expired []*call
	tries   int
	expiry  int64 // when the engine ends a lease by itself
	checked bool  // verify after each event that nobody waits who could go
}

// call is a call of the world.
type call struct {
	limiter.Request
	reserve  bool
	arrived  int64
	served   int64
	weight   int64
	class    limiter.Priority
	maxWait  time.Duration
	estimate time.Duration
	deadline int64
	refusal  line.Refusal
	limits   []limiter.LimitState // as of the last decision
}

var start = limiter.Time{Mono: 1, Wall: 1_772_000_000e9}

func newWorld(t fataler, b line.Bounds) *world {
	return &world{t: t, engine: limiter.New(limiter.Options{}), line: line.New(b), now: start, plans: map[string]*limiter.Plan{}, calls: map[line.ID]*call{}}
}

// level is the limits of a level of a key that ends at its length.
type level struct {
	end    int
	limits []limiter.Limit
}

// plan sets the plan of a key.
func (w *world) plan(key string, levels ...level) *limiter.Plan {
	w.t.Helper()
	p := &limiter.Plan{Tier: "t", Version: 1, Rates: limiter.Rates{Weights: limiter.DefaultWeights}}
	for _, v := range levels {
		set, err := w.engine.Catalog().LimitSet(v.limits)
		if err != nil {
			w.t.Fatalf("LimitSet(%+v) = %v", v.limits, err)
		}
		p.Levels[p.Count] = limiter.Level{End: v.end, Tier: "t", Limits: set}
		p.Count++
	}
	w.plans[key] = p
	return p
}

// submit makes a call: it is admitted, waits, or is refused. It returns the refusal.
func (w *world) submit(c *call) line.Refusal {
	w.t.Helper()
	c.Plan, c.arrived = w.plans[c.Key], w.now.Mono
	c.Priority = c.class
	var d limiter.Decision
	if w.line.Len() > 0 {
		if err := w.engine.Preview(w.now, &c.Request, c.reserve, &d); err != nil {
			w.t.Fatalf("Preview(%+v) = %v", c.Request, err)
		}
		if d.Outcome != limiter.Denied && w.line.Blocks(w.now.Mono, c.class, c.Model, &d) {
			return w.wait(c, &d)
		}
	}
	w.ask(c, &d)
	if d.Outcome != limiter.Denied {
		w.admit(c)
		return line.NotRefused
	}
	return w.wait(c, &d)
}

func (w *world) ask(c *call, d *limiter.Decision) {
	w.t.Helper()
	var err error
	if c.reserve {
		err = w.engine.Reserve(w.now, &c.Request, d)
	} else {
		err = w.engine.Check(w.now, &c.Request, d)
	}
	if err != nil {
		w.t.Fatalf("call %+v = %v", c.Request, err)
	}
	c.limits = append(c.limits[:0], d.Limits...)
}

func (w *world) admit(c *call) {
	c.served = w.now.Mono
	w.served = append(w.served, c)
}

func (w *world) wait(c *call, d *limiter.Decision) line.Refusal {
	c.limits = append(c.limits[:0], d.Limits...)
	place, refusal := w.line.Arrive(w.now.Mono, line.Call{
		Key: c.Key, Model: c.Model, Class: c.class, Weight: c.weight, Arrived: c.arrived, MaxWait: c.maxWait,
	}, d)
	c.estimate, c.refusal, c.deadline = place.Estimate, refusal, place.Deadline
	if refusal == line.NotRefused {
		w.calls[place.ID] = c
	}
	return refusal
}

// turns does what the line says until nobody is to be tried, and returns when to go on.
func (w *world) turns() int64 {
	w.t.Helper()
	if w.now.Mono >= w.expiry {
		w.line.FreedAll(w.now.Mono)
	}
	for range 100_000 {
		turn := w.line.Next(w.now.Mono)
		c := w.calls[turn.ID]
		switch turn.Kind {
		case line.None:
			if turn.At <= w.now.Mono {
				w.t.Fatalf("Next at %d says that it is to be asked again at %d", w.now.Mono, turn.At)
			}
			w.conserved()
			w.expiry = w.engine.NextExpiry("org/a")
			if w.line.Len() == 0 {
				return turn.At
			}
			return min(turn.At, w.expiry)
		case line.Expired:
			w.expired = append(w.expired, c)
			delete(w.calls, turn.ID)
		case line.Try:
			w.tries++
			var d limiter.Decision
			w.ask(c, &d)
			if d.Outcome != limiter.Denied {
				w.admit(c)
				w.line.Admitted(w.now.Mono, turn.ID)
				delete(w.calls, turn.ID)
				continue
			}
			if _, refusal := w.line.Denied(w.now.Mono, turn.ID, &d); refusal != line.NotRefused {
				c.refusal = refusal
				delete(w.calls, turn.ID)
			}
		}
	}
	w.t.Fatalf("the line does not end its turns at %d with %d waiting", w.now.Mono, w.line.Len())
	return 0
}

// until runs the world until a time.
func (w *world) until(mono int64) {
	w.t.Helper()
	for {
		at := w.turns()
		if at > mono {
			w.at(mono)
			return
		}
		w.at(at)
	}
}

// drain runs the world until nobody waits.
func (w *world) drain() {
	w.t.Helper()
	for {
		at := w.turns()
		if at == math.MaxInt64 {
			if w.line.Len() != 0 || len(w.calls) != 0 {
				w.t.Fatalf("%d wait, %d of them known, and nobody ever is to be tried", w.line.Len(), len(w.calls))
			}
			return
		}
		w.at(at)
	}
}

func (w *world) at(mono int64) {
	if mono > w.now.Mono {
		w.now = w.now.Add(time.Duration(mono - w.now.Mono))
	}
}

// waiting returns the calls that wait, in the order of their ids.
func (w *world) waiting() []line.ID { return slices.Sorted(maps.Keys(w.calls)) }

// conserved fails if somebody waits whose call fits, and none that waits and does not fit needs
// a limit that it needs.
func (w *world) conserved() {
	w.t.Helper()
	if !w.checked {
		return
	}
	held := map[string]bool{}
	fits := []*call{}
	for _, id := range w.waiting() {
		c := w.calls[id]
		var d limiter.Decision
		if err := w.engine.Preview(w.now, &c.Request, c.reserve, &d); err != nil {
			w.t.Fatalf("Preview = %v", err)
		}
		if d.Outcome != limiter.Denied {
			c.limits = append(c.limits[:0], d.Limits...)
			fits = append(fits, c)
			continue
		}
		for i := range d.Limits {
			if s := &d.Limits[i]; s.Exceeded {
				held[s.Scope+" "+s.Name] = true
			}
		}
	}
	for _, c := range fits {
		blocked := false
		for i := range c.limits {
			blocked = blocked || c.limits[i].Cost > 0 && held[c.limits[i].Scope+" "+c.limits[i].Name]
		}
		if !blocked {
			w.t.Fatalf("at %d %s waits although its call fits and nobody ahead needs its limits", w.now.Mono, c.Key)
		}
	}
}

func queued(l limiter.Limit, wait time.Duration, depth int64) limiter.Limit {
	l.Queue = limiter.Queue{MaxWait: wait, MaxDepth: depth}
	return l
}

func bucket(name string, amount int64, window time.Duration) limiter.Limit {
	return queued(limiter.Limit{Name: name, Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: amount, Window: window}, 10*time.Minute, 100_000)
}

func tokens(key string, cost int64) *call {
	return &call{Request: limiter.Request{Key: key, InputTokens: cost}}
}

func (w *world) mustWait(c *call) {
	w.t.Helper()
	if refusal := w.submit(c); refusal != line.NotRefused || c.served != 0 {
		w.t.Fatalf("submit(%s, %d) = %s, served at %d, want it to wait", c.Key, c.InputTokens, refusal, c.served)
	}
}

func (w *world) keys() (keys []string) {
	for _, c := range w.served {
		keys = append(keys, c.Key)
	}
	return keys
}

var _ fataler = (*testing.T)(nil)
