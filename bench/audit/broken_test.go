// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// Each of these limiters is wrong in its own way, and the auditor must find it.

const ms = time.Millisecond

func at(i int) time.Duration { return time.Duration(i) * ms }

func check(key string, i int, requests int64) *bench.Call {
	return &bench.Call{Key: key, ID: fmt.Sprintf("%s-%d", key, i), Requests: requests}
}

func event(op bench.Op, c *bench.Call, sent, done time.Duration, a bench.Answer) bench.Event {
	return bench.Event{Op: op, Call: c, Due: sent, Sent: sent, Done: done, Answer: a}
}

var (
	allowed = bench.Answer{Outcome: bench.Allowed}
	denied  = bench.Answer{Outcome: bench.Denied, Reason: "limit_exceeded"}
)

func requests(amount int64) audit.Limit {
	return audit.Limit{Dimension: audit.Requests, Amount: amount}
}

func run(t *testing.T, o audit.Options, events []bench.Event, ended ...audit.KeyUsage) *audit.Report {
	t.Helper()
	r, err := audit.Run(o, events, ended...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

// dimension returns the sums of one dimension.
func dimension(t *testing.T, r *audit.Report, name string) audit.DimensionSummary {
	t.Helper()
	for _, d := range r.Dimensions {
		if d.Name == name {
			return d
		}
	}
	t.Fatalf("the report knows no %s:\n%s", name, r.Summary())
	return audit.DimensionSummary{}
}

func usedOf(key, dimension string, used int64) audit.KeyUsage {
	return audit.KeyUsage{Key: key, Used: []bench.LimitUsage{{Scope: key, Dimension: dimension, Name: dimension, Used: used}}}
}

func TestStateDroppedWhenOwnershipMoves(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{requests(1000)}}
	owner := newNaive(o.Limits...)
	var events []bench.Event
	for i := range 2000 {
		if i == 300 {
			owner = newNaive(o.Limits...) // the next one starts empty
		}
		c := check("acme/alice", i, 1)
		events = append(events, event(bench.OpCheck, c, at(i), at(i+1), owner.ask(c, int64(at(i)))))
	}
	r := run(t, o, events, owner.left("acme/alice", int64(at(3000))))
	d := dimension(t, r, audit.Requests)
	if r.OK || d.Over != 300 || d.OverLimits != 1 || d.Under != 0 || d.Missing != 300 || d.Excess != 0 {
		t.Errorf("dropped state of 300: %+v", d)
	}
	for _, want := range []string{
		"acme/alice: 1,300 requests admitted, 300 more than its limit of 1,000",
		"acme/alice: 1,000 requests used, want exactly 1,300: 300 lost",
	} {
		if !strings.Contains(r.Summary(), want) {
			t.Errorf("the summary lacks %q:\n%s", want, r.Summary())
		}
	}
}

func TestCheckThenChargeLater(t *testing.T) {
	const callers, amount = 100, 40
	o := audit.Options{Limits: []audit.Limit{requests(amount)}}
	a, err := audit.New(o)
	if err != nil {
		t.Fatal(err)
	}
	var used atomic.Int64
	var looked, wait sync.WaitGroup
	looked.Add(callers)
	start := time.Now()
	for i := range callers {
		wait.Go(func() {
			c := check("k", i, 1)
			sent := time.Since(start)
			answer := denied
			if used.Load()+1 <= amount {
				answer = allowed
			}
			looked.Done()
			looked.Wait() // all of them look before one is charged
			if answer.Outcome == bench.Allowed {
				used.Add(1)
			}
			e := event(bench.OpCheck, c, sent, time.Since(start), answer)
			a.Add(&e)
		})
	}
	wait.Wait()
	a.AddFinalUsage(usedOf("k", audit.Requests, used.Load()))
	r := a.Report()
	if d := dimension(t, r, audit.Requests); r.OK || d.Over != callers-amount || d.Excess+d.Missing != 0 || d.Under != 0 {
		t.Errorf("%d too many: %+v", callers-amount, d)
	}
}

func TestDoubleChargingRetries(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{requests(100)}}
	var events []bench.Event
	var used, twice int64
	for i := range 100 {
		c := check("k", i, 1)
		tries := 1
		if i%10 == 3 && i < 90 {
			tries = 2
		}
		for try := range tries {
			answer := denied
			if used < 100 {
				used++
				answer = allowed
				twice += int64(try)
			}
			e := event(bench.OpCheck, c, at(10*i+5*try), at(10*i+5*try+2), answer)
			if try < tries-1 {
				e.Answer, e.Err = bench.Answer{}, errors.New("the answer was lost")
			}
			events = append(events, e)
		}
	}
	r := run(t, o, events, usedOf("k", audit.Requests, used))
	d := dimension(t, r, audit.Requests)
	// 100 were charged for 91 ids, so the last ones were denied though each id fits.
	if r.OK || d.Over != 0 || d.Excess != twice || d.Under != twice || d.Missing != 0 {
		t.Errorf("%d charged twice: %+v", twice, d)
	}
	if c := r.Charges[0]; c.Suspected != 9 || c.Suspects[0].Why != "sent 2 times" || c.Suspects[0].Cost != 1 {
		t.Errorf("suspects = %+v", c)
	}
	if r.Retried != 9 {
		t.Errorf("retried = %d, want 9", r.Retried)
	}
}

// llm makes the events of an LLM call of ms length n that reserves 100 tokens
// and uses 30.
func llm(key string, i int, n int) (*bench.Call, []bench.Event) {
	c := &bench.Call{Key: key, ID: fmt.Sprintf("%s-%d", key, i), LLM: true, Requests: 1, InputTokens: 10, OutputTokens: 20, MaxOutputTokens: 90}
	u := bench.Usage{ID: c.ID, Key: key, InputTokens: 10, OutputTokens: 20, Final: true}
	settle := bench.Event{Op: bench.OpSettle, Call: c, Sent: at(i + n), Done: at(i+n) + ms/2, Usage: u}
	return c, []bench.Event{event(bench.OpReserve, c, at(i), at(i)+ms/2, allowed), settle}
}

func TestRefundsLost(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{{Dimension: audit.Tokens, Amount: 1000}}}
	var events []bench.Event
	var used, wrong int64
	for i := range 40 {
		_, both := llm("k", 10*i, 5)
		if used+100 > 1000 {
			both = both[:1]
			both[0].Answer = denied
			if 30*used/100+100 <= 1000 {
				wrong++
			}
		} else {
			used += 100 // and the settle gives nothing back
		}
		events = append(events, both...)
	}
	r := run(t, o, events, usedOf("k", audit.Tokens, used))
	d := dimension(t, r, audit.Tokens)
	if r.OK || d.Over != 0 || d.Excess != 700 || d.Under != wrong || wrong != 30 {
		t.Errorf("10 refunds of 70 were lost, and 30 denied for it: %+v", d)
	}
}

func TestSettleLost(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{{Dimension: audit.Tokens, Amount: 1000}}}
	_, a := llm("k", 0, 5)
	_, b := llm("k", 1, 5)
	b[1].Err = errors.New("unavailable")
	// The settle of b may have got there or not, and its lease may have run out,
	// which leaves the 10 of its input: all are right.
	for used, want := range map[int64]int64{60: 0, 130: 0, 40: 0, 131: 1, 39: -1} {
		r := run(t, o, append(a, b...), usedOf("k", audit.Tokens, used))
		d := dimension(t, r, audit.Tokens)
		if d.Excess-d.Missing != want || r.OK != (want == 0) {
			t.Errorf("used %d: %+v, want %d", used, d, want)
		}
		if want != 0 && r.Charges[0].Suspects[0] != (audit.Suspect{ID: "k-1", Why: "1 of 1 settles failed", Cost: 100}) {
			t.Errorf("suspects = %+v", r.Charges[0].Suspects)
		}
	}
}

func TestSlidingWindowAsTwoFixedOnes(t *testing.T) {
	var events []bench.Event
	for i := range 400 { // 100 per window of 1 s, at the end of one and the begin of the next
		sent := at(900 + i)
		answer := denied
		if i < 100 || i >= 100 && i < 200 {
			answer = allowed
		}
		events = append(events, event(bench.OpCheck, check("k", i, 1), sent, sent+ms/2, answer))
	}
	sliding := audit.Limit{Dimension: audit.Requests, Algorithm: audit.SlidingWindow, Amount: 100, Window: time.Second}
	if d := dimension(t, run(t, audit.Options{Limits: []audit.Limit{sliding}}, events), audit.Requests); d.Over != 100 || d.Possible != 100 {
		t.Errorf("sliding: %+v, want 100 over", d)
	}
	fixed := sliding
	fixed.Algorithm = audit.FixedWindow
	d := dimension(t, run(t, audit.Options{Limits: []audit.Limit{fixed}}, events), audit.Requests)
	if d.Over != 0 || d.Possible != 100 {
		t.Errorf("fixed, somewhere: %+v, want none over, 100 possible", d)
	}
	fixed.Resets = []time.Duration{time.Second}
	if d := dimension(t, run(t, audit.Options{Limits: []audit.Limit{fixed}}, events), audit.Requests); d.Over != 0 || d.Possible != 0 {
		t.Errorf("fixed, reset at 1s: %+v, want none over", d)
	}
	fixed.Resets = []time.Duration{950 * ms}
	if d := dimension(t, run(t, audit.Options{Limits: []audit.Limit{fixed}}, events), audit.Requests); d.Over != 50 {
		t.Errorf("fixed, reset at 950ms: %+v, want 50 over", d)
	}
	fixed.Resets = []time.Duration{}
	if d := dimension(t, run(t, audit.Options{Limits: []audit.Limit{fixed}}, events), audit.Requests); d.Over != 100 {
		t.Errorf("fixed, no reset: %+v, want 100 over", d)
	}
}

func TestFixedWindowThatNoPositionExplains(t *testing.T) {
	// 100 at 0.1 s, 1.1 s, 2.1 s … fit; 60 every 0.4 s do not, wherever windows begin.
	limit := audit.Limit{Dimension: audit.Requests, Algorithm: audit.FixedWindow, Amount: 100, Window: time.Second}
	for every, want := range map[int]int64{1000: 0, 400: 80} {
		var events []bench.Event
		for i := range 20 {
			n := int64(60)
			if every == 1000 {
				n = 100
			}
			sent := at(100 + i*every)
			events = append(events, event(bench.OpCheck, check("k", i, n), sent, sent, allowed))
		}
		if d := dimension(t, run(t, audit.Options{Limits: []audit.Limit{limit}}, events), audit.Requests); d.Over != want {
			t.Errorf("every %d ms: %+v, want %d over", every, d, want)
		}
	}
}

func TestTokenBucket(t *testing.T) {
	limit := audit.Limit{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 1000, Window: time.Second, Burst: 100}
	o := audit.Options{Limits: []audit.Limit{limit}}
	for _, c := range []struct {
		name           string
		every, took    time.Duration
		n              int
		over, possible int64
	}{
		{"as fast as it refills", ms, 0, 1000, 0, 0},
		// Of 1000 in 499.5 ms, 100 and 499 fit.
		{"twice as fast", ms / 2, 0, 1000, 401, 401},
		// From the first sending to the last answer 100 ms more were refilled.
		{"twice as fast, slow answers", ms / 2, 100 * ms, 1000, 301, 501},
		{"a burst", 0, 0, 150, 50, 50},
		{"a burst with slow answers", 0, 20 * ms, 150, 30, 70},
	} {
		var events []bench.Event
		for i := range c.n {
			sent := time.Duration(i) * c.every
			events = append(events, event(bench.OpCheck, check("k", i, 1), sent, sent+c.took, allowed))
		}
		r := run(t, o, events)
		if d := dimension(t, r, audit.Requests); d.Over != c.over || d.Possible != c.possible || r.SlowestCall != c.took {
			t.Errorf("%s: %+v, want %d to %d over", c.name, d, c.over, c.possible)
		}
	}
}

func TestTokenBucketDeniesTooEarly(t *testing.T) {
	limit := audit.Limit{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 1000, Window: time.Second, Burst: 10}
	var events []bench.Event
	for i := range 10 {
		events = append(events, event(bench.OpCheck, check("k", i, 1), 0, ms, allowed))
	}
	// Until 2 ms nothing need be there (the charges may have been made at 1 ms);
	// then one.
	for i, when := range []time.Duration{ms, ms + ms/2, 2*ms - 1000, 2*ms + 1000, 5 * ms} {
		events = append(events, event(bench.OpCheck, check("k", 10+i, 1), when, when+ms/4, denied))
	}
	r := run(t, audit.Options{Limits: []audit.Limit{limit}}, events)
	if d := dimension(t, r, audit.Requests); d.Under != 2 || d.Over != 0 {
		t.Errorf("%+v, want 2 denied too early", d)
	}
	if u := r.Under[0]; u.Calls != 2 || u.First != 2*ms+1000 || u.Room != 1 {
		t.Errorf("under = %+v", u)
	}
}

func TestConcurrencyLeak(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 10}}}
	var events []bench.Event
	leaked, wrong := int64(0), int64(0)
	for i := range 100 { // one at a time; every 5th slot leaks
		_, both := llm("k", 10*i, 5)
		if leaked == 10 {
			both = both[:1]
			both[0].Answer = denied
			wrong++
		} else if i%5 == 0 {
			leaked++
		}
		events = append(events, both...)
	}
	r := run(t, o, events, usedOf("k", audit.Concurrent, leaked))
	if d := dimension(t, r, audit.Concurrent); r.OK || d.Under != wrong || wrong != 54 || d.Excess != 10 || d.Over != 0 {
		t.Errorf("%d leaked, %d denied for it: %+v", leaked, wrong, d)
	}
}

func TestConcurrencyTooMany(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 10}}}
	var events []bench.Event
	for i := range 100 { // 15 ms each, one per ms: 14 at once, surely
		_, both := llm("k", i, 15)
		events = append(events, both...)
	}
	r := run(t, o, events)
	if d := dimension(t, r, audit.Concurrent); d.Over != 5 {
		t.Errorf("%+v, want 5 too many", d)
	}
	if want := "k: 15 calls at once, 5 more than its limit of 10"; !strings.Contains(r.Summary(), want) {
		t.Errorf("the summary lacks %q:\n%s", want, r.Summary())
	}
	if d := dimension(t, run(t, audit.Options{Limits: o.Limits, Lease: 8 * ms}, events), audit.Concurrent); d.Over != 0 {
		t.Errorf("with a lease of 8 ms: %+v, want none surely alive", d)
	}
}

func TestFallbackIsCountedSeparately(t *testing.T) {
	limit := requests(100)
	var events []bench.Event
	for i := range 150 {
		answer := allowed
		if i >= 100 {
			answer.Route, answer.Owner = "fallback", fmt.Sprint("node", i%3)
		}
		events = append(events, event(bench.OpCheck, check("k", i, 1), at(i), at(i+1), answer))
	}
	fallback := denied
	fallback.Route = "fallback"
	closed := bench.Answer{Outcome: bench.Denied, Reason: "owner_unreachable", Route: "fallback"}
	events = append(events,
		event(bench.OpCheck, check("k", 150, 1), at(150), at(151), fallback),
		event(bench.OpCheck, check("k", 151, 1), at(150), at(151), closed))
	for _, c := range []struct {
		mode    audit.FallbackMode
		members int
		beyond  int64
	}{
		{audit.FallbackUnknown, 3, 0},
		{audit.FallbackOpen, 3, 0},
		{audit.FallbackClosed, 3, 50},
		{audit.FallbackShare, 3, 0},    // of 33
		{audit.FallbackShare, 7, 8},    // of 14: they have 17, 17 and 16
		{audit.FallbackShare, 101, 50}, // of nothing
		{audit.FallbackShare, 0, 0},
	} {
		limit.Fallback = c.mode
		r := run(t, audit.Options{Limits: []audit.Limit{limit}, Members: c.members}, events, usedOf("k", audit.Requests, 150))
		d := dimension(t, r, audit.Requests)
		if d.Over != 0 || d.WithFallback != 50 || d.Fallback != 50 || d.BeyondBound != c.beyond || r.OK != (c.beyond == 0) || d.Under != 0 || d.Missing+d.Excess != 0 {
			t.Errorf("%s of %d members, beyond %d: %+v", c.mode, c.members, c.beyond, d)
		}
		if says := strings.Contains(r.Summary(), "MORE than declared:\n  k: "); says != (c.beyond > 0) {
			t.Errorf("%s of %d members: the summary says so: %v\n%s", c.mode, c.members, says, r.Summary())
		}
		if r.OtherDenials["owner_unreachable"] != 1 || r.OtherDenials["limit_exceeded in fallback"] != 1 {
			t.Errorf("denied else: %v", r.OtherDenials)
		}
	}
}

func TestSeveralLimits(t *testing.T) {
	// A denial is wrong only if every limit had room.
	o := audit.Options{
		Limits: []audit.Limit{
			{Scope: "*", Name: "org", Dimension: audit.Requests, Amount: 15},
			{Dimension: audit.Requests, Amount: 10},
			{Dimension: audit.Spend, Amount: 1_000_000, Tier: "free"},
		},
		Prices: map[string]audit.Price{"*": {Input: 1_000_000, Output: 3_000_000}},
	}
	var events []bench.Event
	ask := func(key string, i int, answer bench.Answer) {
		c := check(key, i, 1)
		c.Tier, c.InputTokens, c.OutputTokens = "free", 1, 10
		events = append(events, event(bench.OpCheck, c, at(len(events)), at(len(events))+ms/2, answer))
	}
	for i := range 9 {
		ask("acme/alice", i, allowed)
	}
	ask("acme/alice", 9, denied) // wrong: 9 of 10, 9 of 15
	ask("acme/alice", 10, allowed)
	ask("acme/alice", 11, denied) // right: 10 of 10
	for i := range 5 {
		ask("acme/bob", i, allowed)
	}
	ask("acme/bob", 5, denied) // right: 15 of 15 in acme
	ask("zoo/carol", 0, denied)
	r := run(t, o, events)
	if d := dimension(t, r, audit.Requests); d.Under != 2 || d.Over != 0 || d.Limits != 5 || d.Admitted != 30 {
		t.Errorf("%+v", d)
	}
	if d := dimension(t, r, audit.Spend); d.Admitted != 15*31 {
		t.Errorf("%+v, want 15 x 31 micros", d)
	}
	if r.Keys != 3 || r.Calls != 19 || r.Under[0].Scope != "acme/alice" || r.Under[0].Room != 1 {
		t.Errorf("%+v", r)
	}
}

func TestInitialUsage(t *testing.T) {
	a, err := audit.New(audit.Options{Limits: []audit.Limit{requests(10)}})
	if err != nil {
		t.Fatal(err)
	}
	a.AddInitialUsage(usedOf("k", audit.Requests, 6))
	for i := range 6 {
		answer := allowed
		if i == 5 {
			answer = denied
		}
		e := event(bench.OpCheck, check("k", i, 1), at(i), at(i+1), answer)
		a.Add(&e)
	}
	a.AddFinalUsage(usedOf("k", audit.Requests, 11))
	if d := dimension(t, a.Report(), audit.Requests); d.Over != 1 || d.Under != 0 || d.Excess+d.Missing != 0 {
		t.Errorf("%+v, want 1 over", d)
	}
}

func TestFallbackReachesTheOwnerLate(t *testing.T) {
	// What was admitted in fallback at 0 may have reached the owner just before the
	// denial at 5 s, when by itself it would have been refilled long ago.
	limit := audit.Limit{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 10, Window: time.Second}
	for route, want := range map[string]int64{"fallback": 0, "forward": 1} {
		answer := bench.Answer{Outcome: bench.Allowed, Route: route}
		r := run(t, audit.Options{Limits: []audit.Limit{limit}}, []bench.Event{
			event(bench.OpCheck, check("k", 0, 10), 0, ms, answer),
			event(bench.OpCheck, check("k", 1, 1), 5*time.Second, 5*time.Second+ms, denied),
		})
		if d := dimension(t, r, audit.Requests); d.Under != want {
			t.Errorf("%s: %+v, want %d denied too early", route, d, want)
		}
	}
}

func TestProgressRenewsTheLeaseFromItsRequest(t *testing.T) {
	limit := audit.Limit{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: 1}
	first, _ := llm("k", 0, 0)
	progress := bench.Event{Op: bench.OpProgress, Call: first, Sent: 5 * ms, Done: 8 * ms, Usage: bench.Usage{ID: first.ID, OutputTokens: 1}}
	for when, want := range map[int]int64{14: 1, 16: 0} {
		second, _ := llm("k", when, 0)
		events := []bench.Event{
			event(bench.OpReserve, first, 0, ms, allowed), progress,
			event(bench.OpReserve, second, at(when), at(when)+ms/2, allowed),
		}
		r := run(t, audit.Options{Limits: []audit.Limit{limit}, Lease: 10 * ms}, events)
		if d := dimension(t, r, audit.Concurrent); d.Over != want {
			t.Errorf("a second call at %d ms: %+v, want %d over", when, d, want)
		}
	}
}

// Calls that waited for longer than the audit looks were charged at the end of their wait. So what is
// too much is found, unless the answers do not say how long the calls waited.
func TestOverAdmissionAfterLongWaits(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{{Dimension: audit.Requests, Algorithm: audit.TokenBucket, Amount: 10, Window: time.Second}}}
	for _, tt := range []struct {
		name   string
		answer bench.Answer
		over   int64
	}{
		{"they say so", bench.Answer{Outcome: bench.Allowed, Waited: 5 * time.Second}, 9},
		{"they do not", allowed, 0},
		{"they are repeats", bench.Answer{Outcome: bench.Allowed, Waited: 5 * time.Second, Replayed: true}, 0},
	} {
		var events []bench.Event
		for i := range 20 { // at once, after 5 s: 10, and one in 100 ms
			events = append(events, event(bench.OpCheck, check("k", i, 1), 0, 5100*time.Millisecond, tt.answer))
		}
		if d := dimension(t, run(t, o, events), audit.Requests); d.Over != tt.over {
			t.Errorf("%s: %d too many, want %d", tt.name, d.Over, tt.over)
		}
	}
}
