// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// refusedAfter are the events of a limiter that refuses each fourth call because of
// overload. If charges is set, it charges those too.
func refusedAfter(charges bool, owner *naive, key string, err error) []bench.Event {
	var events []bench.Event
	for i := range 400 {
		c := check(key, i, 1)
		e := event(bench.OpCheck, c, at(i), at(i+1), allowed)
		if i%4 == 3 {
			e.Answer, e.Err = bench.Answer{}, err
		}
		if e.Err == nil || charges {
			if a := owner.ask(c, int64(at(i))); e.Err == nil {
				e.Answer = a
			}
		}
		events = append(events, e)
	}
	return events
}

func TestRefusedCallsMustNotBeCharged(t *testing.T) {
	refusal := fmt.Errorf("check: %w", &bench.OverloadedError{RetryAfter: time.Second})
	lost := fmt.Errorf("no answer")
	for _, c := range []struct {
		name            string
		charges         bool
		err             error
		excess          int64
		refused, failed int64
	}{
		{"refused", false, refusal, 0, 100, 0},
		{"refused and charged", true, refusal, 100, 100, 0},
		{"failed and charged", true, lost, 0, 0, 100}, // it may be
	} {
		t.Run(c.name, func(t *testing.T) {
			for _, window := range []time.Duration{0, time.Hour} {
				l := requests(1000)
				l.Window = window
				if window > 0 {
					l.Algorithm = audit.TokenBucket
				}
				owner := newNaive(l)
				events := refusedAfter(c.charges, owner, "acme/alice", c.err)
				final := owner.left("acme/alice", int64(at(500)))
				final.Sent, final.Done = at(500), at(501)
				r := run(t, audit.Options{Limits: []audit.Limit{l}}, events, final)
				d := dimension(t, r, audit.Requests)
				// In half a second a bucket of 1,000 an hour refills less than one.
				if d.Excess < c.excess-1 || d.Excess > c.excess || r.OK != (c.excess == 0) {
					t.Errorf("window %s: excess %d, OK %t, want an excess of %d\n%s", window, d.Excess, r.OK, c.excess, r.Summary())
				}
				if r.Refused != c.refused || r.Failed != c.failed || r.Events != 400 || d.Missing != 0 {
					t.Errorf("window %s: refused %d, failed %d, %d events, missing %d, want %d, %d, 400 and 0", window, r.Refused, r.Failed, r.Events, d.Missing, c.refused, c.failed)
				}
				if want := "100 requests were refused because of overload and must not be charged"; (c.refused > 0) != strings.Contains(r.Summary(), want) {
					t.Errorf("summary:\n%s", r.Summary())
				}
			}
		})
	}
}

// A key all of whose calls were refused is in no log, but its usage is read.
func TestUsageOfAKeyThatWasOnlyRefused(t *testing.T) {
	o := audit.Options{Limits: []audit.Limit{requests(1000)}}
	for _, used := range []int64{0, 3} {
		var events []bench.Event
		for i := range 10 {
			e := event(bench.OpReserve, check("acme", i, 1), at(i), at(i+1), bench.Answer{Outcome: bench.Refused})
			e.Err = &bench.OverloadedError{}
			events = append(events, e)
		}
		r := run(t, o, events, usedOf("acme", audit.Requests, used))
		if d := dimension(t, r, audit.Requests); d.Excess != used || r.OK != (used == 0) {
			t.Errorf("%d used: %+v\n%s", used, d, r.Summary())
		}
	}
}

// A settle must not be refused. It counts as one that failed: it may have been applied.
func TestARefusedSettleHasFailed(t *testing.T) {
	l := audit.Limit{Dimension: audit.OutputTokens, Amount: 1000}
	c := &bench.Call{Key: "k", ID: "1", LLM: true, Requests: 1, MaxOutputTokens: 100}
	settle := event(bench.OpSettle, c, at(5), at(6), bench.Answer{})
	settle.Usage, settle.Err = bench.Usage{ID: "1", Key: "k", OutputTokens: 40, Final: true}, &bench.OverloadedError{}
	for used, ok := range map[int64]bool{40: true, 100: true, 101: false} {
		r := run(t, audit.Options{Limits: []audit.Limit{l}}, []bench.Event{event(bench.OpReserve, c, at(0), at(1), allowed), settle}, usedOf("k", audit.OutputTokens, used))
		if r.OK != ok || r.Refused != 0 {
			t.Errorf("%d used: OK %t, %d refused, want %t and none\n%s", used, r.OK, r.Refused, ok, r.Summary())
		}
	}
}
