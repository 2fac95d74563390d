// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// A machine makes random calls for one root to an engine and to the oracle, and fails
// at the first result that differs.
type machine struct {
	*pair
	t     *rapid.T
	now   limiter.Time
	skew  int64 // how far the engine's monotonic clock is ahead of the model's
	keys  []string
	plans map[string]*limiter.Plan
	rates limiter.Rates

	snapshot *limiter.SnapshotRun // in progress, or nil

	slides bool  // there is a sliding window
	scale  int64 // costs are drawn up to about this much

	overrun map[limiter.Dimension]int64 // of engines before the last restart

	reserved      []*limiter.Request // reserves that were allowed
	checked       []*limiter.Request
	denied        *limiter.Request // the latest denied request
	deniedReserve bool             // denied is a reserve
	wait          time.Duration
	nextID        int
}

func (m *machine) actions() map[string]func(*rapid.T) {
	return map[string]func(*rapid.T){
		"check":    m.step(m.check),
		"reserve":  m.step(m.reserve),
		"progress": m.step(func() { m.settle(false) }),
		"settle":   m.step(func() { m.settle(true) }),
		"cancel":   m.step(m.cancel),
		"pass":     m.step(m.advance),
		"retry":    m.step(m.retry),
		"replay":   m.step(m.replay),
		"restart":  m.step(m.restart),
		"snapshot": m.step(m.snapshotStep),
		"adjust":   m.step(m.adjust),
		"":         m.step(m.peek),
	}
}

func (m *machine) step(f func()) func(*rapid.T) {
	return func(t *rapid.T) {
		m.t = t
		f()
	}
}

func (m *machine) draw(label string, lo, hi int64) int64 {
	return rapid.Int64Range(lo, hi).Draw(m.t, label)
}

func (m *machine) id() string {
	m.nextID++
	return strconv.Itoa(m.nextID)
}

func (m *machine) request() *limiter.Request {
	key := rapid.SampledFrom(m.keys).Draw(m.t, "key")
	return &limiter.Request{
		Key: key, Model: "m", Plan: m.plans[key], ID: m.id(),
		Requests:     rapid.SampledFrom([]int64{1, 1, 1, 0, 2}).Draw(m.t, "requests"),
		InputTokens:  m.draw("input", 0, m.scale/2),
		OutputTokens: m.draw("output", 0, m.scale),
		Costs:        []limiter.Cost{{Dimension: "images", Amount: m.draw("images", 0, m.scale/2)}},
		Force:        rapid.IntRange(0, 5).Draw(m.t, "force") == 0,
		ServiceTier:  m.serviceTier(),
		Priority:     rapid.SampledFrom([]limiter.Priority{limiter.NoPriority, limiter.NoPriority, limiter.Interactive, limiter.Standard, limiter.Batch}).Draw(m.t, "priority"),
	}
}

func (m *machine) serviceTier() string {
	return rapid.SampledFrom([]string{"", "", "flex", "odd", "priority", "other"}).Draw(m.t, "service tier")
}

// clock returns the engine's time.
func (m *machine) clock() limiter.Time {
	return limiter.Time{Mono: m.now.Mono + m.skew, Wall: m.now.Wall}
}

// snapshotStep begins a snapshot or writes the next item of one. Neither changes what
// calls get.
func (m *machine) snapshotStep() {
	switch {
	case m.snapshot == nil:
		m.snapshot = m.BeginSnapshot(m.clock(), limiter.PartitionOf(m.keys[0]))
	case !m.snapshot.Step():
		m.snapshot = nil
	}
}

// noise makes a call to the engine, but not to the oracle.
func (m *machine) noise(now limiter.Time) {
	var d limiter.Decision
	r := m.request()
	switch rapid.IntRange(0, 4).Draw(m.t, "noise") {
	case 0:
		_ = m.Check(now, r, &d)
	case 1:
		_ = m.Reserve(now, r, &d)
	case 2, 3:
		if old, ok := m.pick(m.reserved); ok {
			_ = m.Settle(now, &limiter.Usage{Key: old.Key, ID: old.ID, InputTokens: m.draw("noise input", 0, m.scale), OutputTokens: -1, Final: rapid.Bool().Draw(m.t, "final noise")}, &d)
		}
	case 4:
		if old, ok := m.pick(m.reserved); ok {
			_ = m.Cancel(now, old.Key, old.ID, &d)
		}
	}
}

// restart moves the state to another engine through a snapshot, between whose steps it
// makes calls: the state must be that of the time when the snapshot began. The clock of
// the new engine may differ, unless there are sliding windows, whose sub-windows would
// shift.
func (m *machine) restart() {
	if rapid.IntRange(0, 3).Draw(m.t, "really") > 0 {
		return
	}
	m.addOverrun()
	partition := limiter.PartitionOf(m.keys[0])
	if m.snapshot != nil {
		m.snapshot.Finish()
		m.snapshot = nil
	}
	run, now := m.BeginSnapshot(m.clock(), partition), m.clock()
	for range rapid.IntRange(0, 20).Draw(m.t, "calls during the snapshot") {
		m.noise(now)
		now = now.Add(time.Duration(m.draw("ms pass", 0, 9000)) * time.Millisecond)
		if !rapid.Bool().Draw(m.t, "step") {
			continue
		}
		if !run.Step() {
			break
		}
	}
	data := run.Finish()
	if !m.slides {
		m.skew = m.draw("skew", 0, 1e15)
	}
	m.Engine = limiter.New(limiter.Options{Catalog: m.catalog})
	if err := m.Restore(m.clock(), partition, data, time.LoadLocation); err != nil {
		m.t.Fatalf("Restore = %v, want no error", err)
	}
}

func (m *machine) check() { m.call(m.request(), false) }

func (m *machine) reserve() {
	r := m.request()
	r.MinOutputTokens = rapid.SampledFrom([]int64{0, 1, 16, 50, m.scale / 4}).Draw(m.t, "min")
	r.Choices = rapid.SampledFrom([]int64{0, 1, 2}).Draw(m.t, "n")
	if rapid.IntRange(0, 9).Draw(m.t, "default output") == 0 {
		r.OutputTokens = -1
	}
	r.TTL = time.Duration(m.draw("ttl", 1, 40)) * time.Second
	if r.EstimatedInput = rapid.Bool().Draw(m.t, "estimated input"); r.EstimatedInput && rapid.Bool().Draw(m.t, "a high estimate") {
		r.InputTokens *= 10
		r.KnownInput = m.draw("known input", 0, r.InputTokens)
	}
	m.call(r, true)
}

// call makes the call on both sides and keeps it for later calls.
func (m *machine) call(r *limiter.Request, reserve bool) limiter.Decision {
	var got, want limiter.Decision
	var err, wantErr error
	call := fmt.Sprintf("Check(%+v)", *r)
	if reserve {
		call = fmt.Sprintf("Reserve(%+v)", *r)
		err = m.Reserve(m.clock(), r, &got)
		want, wantErr = m.model.Reserve(m.now, r)
	} else {
		err = m.Check(m.clock(), r, &got)
		want, wantErr = m.model.Check(m.now, r)
	}
	m.same(call, got, err, want, wantErr)
	switch {
	case got.Outcome == limiter.Denied:
		m.denied, m.deniedReserve, m.wait = r, reserve, got.RetryAfter
	case got.Replayed || err != nil:
	case reserve:
		m.reserved = append(m.reserved, r)
	default:
		m.checked = append(m.checked, r)
	}
	return got
}

func (m *machine) settle(final bool) {
	r, ok := m.pick(m.reserved)
	if !ok {
		return
	}
	u := limiter.Usage{Key: r.Key, ID: r.ID, InputTokens: -1, CachedInputTokens: -1, OutputTokens: -1, Final: final}
	if rapid.Bool().Draw(m.t, "has input") {
		u.InputTokens = m.draw("used input", 0, m.scale)
		if rapid.Bool().Draw(m.t, "has cached") {
			u.CachedInputTokens = m.draw("cached", 0, u.InputTokens)
		}
		if rapid.Bool().Draw(m.t, "has writes") {
			u.CacheWriteTokens = m.draw("written", -1, u.InputTokens-max(u.CachedInputTokens, 0))
			u.CacheWrite1hTokens = m.draw("written for an hour", 0, u.InputTokens-max(u.CachedInputTokens, 0)-max(u.CacheWriteTokens, 0))
		}
	}
	if rapid.Bool().Draw(m.t, "has fees") {
		u.Images, u.Searches = m.draw("fee images", -1, 5), m.draw("searches", 0, 5)
		u.ServiceTier, u.Rejected = m.serviceTier(), rapid.Bool().Draw(m.t, "rejected")
	}
	if rapid.Bool().Draw(m.t, "has output") {
		u.OutputTokens = m.draw("used output", 0, m.scale*3/2)
	}
	if rapid.Bool().Draw(m.t, "has images") {
		u.Costs = []limiter.Cost{{Dimension: "images", Amount: m.draw("used images", 0, m.scale)}}
	}
	var got limiter.Decision
	err := m.Settle(m.clock(), &u, &got)
	want, wantErr := m.model.Settle(m.now, &u)
	m.same(fmt.Sprintf("Settle(%+v)", u), got, err, want, wantErr)
}

func (m *machine) cancel() {
	r, ok := m.pick(m.reserved)
	if !ok {
		return
	}
	var got limiter.Decision
	err := m.Cancel(m.clock(), r.Key, r.ID, &got)
	want, wantErr := m.model.Cancel(m.now, r.Key, r.ID)
	m.same("Cancel("+r.ID+")", got, err, want, wantErr)
}

// pick chooses one of rs, preferring recent ones.
func (m *machine) pick(rs []*limiter.Request) (*limiter.Request, bool) {
	if len(rs) == 0 {
		return nil, false
	}
	back := int(m.draw("back", 0, min(int64(len(rs))-1, 5)))
	return rs[len(rs)-1-back], true
}

// replay repeats an earlier id, sometimes with another body.
func (m *machine) replay() {
	reserve := rapid.Bool().Draw(m.t, "a reserve")
	list := m.checked
	if reserve {
		list = m.reserved
	}
	old, ok := m.pick(list)
	if !ok {
		return
	}
	r := *old
	if rapid.IntRange(0, 4).Draw(m.t, "other body") == 0 {
		r.InputTokens++
	}
	if rapid.IntRange(0, 3).Draw(m.t, "forced now") == 0 { // does not change its identity
		r.Force = !r.Force
	}
	m.call(&r, reserve)
}

func (m *machine) advance() {
	unit := rapid.SampledFrom([]time.Duration{time.Microsecond, time.Millisecond, 30 * time.Millisecond, time.Second}).Draw(m.t, "unit")
	m.now = m.now.Add(unit * time.Duration(m.draw("passes", 0, 1000)))
}

// retry repeats the latest denied request just before its retry time, and then at it.
func (m *machine) retry() {
	if m.denied == nil || m.wait <= 0 {
		return
	}
	r := *m.denied
	m.denied = nil
	if m.wait > 1 {
		m.now = m.now.Add(m.wait - 1)
		early := r
		early.ID = m.id()
		m.call(&early, m.deniedReserve)
		m.wait = 1
	}
	m.now = m.now.Add(m.wait)
	m.call(&r, m.deniedReserve)
}

// peek compares the state of every limit.
func (m *machine) peek() {
	for _, key := range m.keys {
		r := &limiter.Request{Key: key, Model: "m", Plan: m.plans[key], Priority: limiter.Priority(m.draw("priority of peek", 0, 3))}
		var got limiter.Decision
		m.Peek(m.clock(), r, &got)
		m.same("Peek("+key+")", got, nil, m.model.Peek(m.now, r), nil)
	}
}

func (m *machine) same(call string, got limiter.Decision, err error, want limiter.Decision, wantErr error) {
	m.t.Helper()
	if (err == nil) != (wantErr == nil) || wantErr != nil && !errors.Is(err, wantErr) {
		m.t.Fatalf("%s = %v, want %v", call, err, wantErr)
	}
	if err == nil {
		sameDecision(m.t, call, got, want)
	}
}

// addOverrun keeps the overrun of the engine before a restart.
func (m *machine) addOverrun() {
	for d, n := range m.Stats().Overrun {
		m.overrun[d] += n
	}
}

// finish lets all leases expire, compares the end state, and checks the promise of each
// limit.
func (m *machine) finish(t *rapid.T) {
	m.t = t
	m.peek()
	m.now = m.now.Add(41 * time.Second)
	m.peek()
	m.addOverrun()
	if diff := cmp.Diff(m.model.Overrun, m.overrun, cmpopts.IgnoreMapEntries(func(_ limiter.Dimension, n int64) bool { return n == 0 })); diff != "" {
		t.Errorf("overrun differs (-want +got):\n%s", diff)
	}
	for _, violation := range m.model.Violations() {
		t.Error(violation)
	}
}
