// SPDX-License-Identifier: Apache-2.0

package audit_test

import (
	"cmp"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/bench"
	"github.com/bucketring/bucketring/bench/audit"
)

// history plays random calls against a naive limiter in virtual time. Each is
// decided at a random time between its request and its answer.
type history struct {
	rng    *rand.Rand
	limits []audit.Limit
	n      *naive
	keys   int
	jitter int64
	losses int // of 100 answers
	events []bench.Event
	todo   []step
}

// step is a decision that is due.
type step struct {
	at int64
	do func(now int64)
}

var errLost = errors.New("the answer was lost")

func (h *history) delay() int64 { return h.rng.Int64N(h.jitter + 1) }

// send plans an attempt of c, and calls then with the answer if there is one.
func (h *history) send(c *bench.Call, sent int64, attempt int) {
	decided := sent + h.delay()
	done := decided + h.delay()
	op := bench.OpCheck
	if c.LLM {
		op = bench.OpReserve
	}
	e := bench.Event{Op: op, Call: c, Due: time.Duration(sent), Sent: time.Duration(sent), Done: time.Duration(done)}
	fate := h.rng.IntN(100)
	if fate >= h.losses || fate%2 == 0 { // else the request was lost
		h.todo = append(h.todo, step{decided, func(now int64) {
			if fate >= h.losses {
				e.Answer = h.n.ask(c, now)
			} else {
				h.n.ask(c, now)
				e.Err = errLost
			}
			h.answered(e, attempt)
		}})
		return
	}
	e.Err = errLost
	h.answered(e, attempt)
}

func (h *history) answered(e bench.Event, attempt int) {
	h.events = append(h.events, e)
	done := int64(e.Done)
	if e.Err != nil || attempt < 2 && h.rng.IntN(20) == 0 { // also needless retries
		if attempt < 2 {
			h.send(e.Call, done+h.delay(), attempt+1)
		}
		return
	}
	if c := e.Call; c.LLM && e.Answer.Outcome == bench.Allowed && !e.Answer.Replayed {
		end := done + int64(c.Duration)
		for i := range c.ProgressReports {
			part := int64(i+1) * c.OutputTokens / int64(c.ProgressReports+1)
			h.use(c, done+int64(c.Duration)*int64(i+1)/int64(c.ProgressReports+1), bench.Usage{Key: c.Key, ID: c.ID, InputTokens: c.InputTokens, OutputTokens: part})
		}
		final := bench.Usage{Key: c.Key, ID: c.ID, InputTokens: c.InputTokens, OutputTokens: c.OutputTokens, Final: true}
		h.use(c, end, final)
		if h.rng.IntN(20) == 0 {
			h.use(c, end+h.delay(), final)
		}
	}
}

func (h *history) use(c *bench.Call, sent int64, u bench.Usage) {
	decided := sent + h.delay()
	done := decided + h.delay()
	op := bench.OpProgress
	if u.Final {
		op = bench.OpSettle
	}
	e := bench.Event{Op: op, Call: c, Sent: time.Duration(sent), Done: time.Duration(done), Usage: u}
	fate := h.rng.IntN(100)
	if fate < h.losses {
		e.Err = errLost
	}
	h.events = append(h.events, e)
	if fate >= h.losses || fate%2 == 0 {
		h.todo = append(h.todo, step{decided, func(now int64) { h.n.use(c.ID, u, now) }})
	}
}

// play runs n calls, with their retries and settles.
func (h *history) play(n int, span int64) int64 {
	sent := int64(0)
	for i := range n {
		sent += h.rng.Int64N(2*span/int64(n) + 1)
		c := &bench.Call{Key: fmt.Sprintf("org/k%d", h.rng.IntN(h.keys)), ID: fmt.Sprint("id-", i), Requests: 1}
		c.InputTokens, c.OutputTokens = h.rng.Int64N(20), h.rng.Int64N(30)
		if h.rng.IntN(2) == 0 {
			c.LLM = true
			c.MaxOutputTokens = c.OutputTokens + h.rng.Int64N(40)
			c.Duration, c.ProgressReports = time.Duration(h.rng.Int64N(span/4+1)), h.rng.IntN(3)
		}
		h.send(c, sent, 0)
	}
	now := int64(0)
	for len(h.todo) > 0 {
		i := 0
		for k := range h.todo {
			if h.todo[k].at < h.todo[i].at {
				i = k
			}
		}
		s := h.todo[i]
		h.todo[i] = h.todo[len(h.todo)-1]
		h.todo = h.todo[:len(h.todo)-1]
		now = max(now, s.at)
		s.do(now)
	}
	for _, e := range h.events {
		now = max(now, int64(e.Done))
	}
	h.rng.Shuffle(len(h.events), func(i, j int) { h.events[i], h.events[j] = h.events[j], h.events[i] })
	return now
}

// drawHistory draws a correct limiter, a network and calls.
func drawHistory(t *rapid.T, span int64) (*history, audit.Options, int64) {
	limits := []audit.Limit{}
	for _, dim := range []string{audit.Requests, audit.Tokens, audit.InputTokens, audit.OutputTokens} {
		amount := rapid.Int64Range(1, 12).Draw(t, dim)
		if dim != audit.Requests {
			amount *= 40
		}
		l := audit.Limit{Dimension: dim, Amount: amount, Window: time.Duration(rapid.SampledFrom([]int64{span / 50, span/7 + 13, span}).Draw(t, "window"))}
		switch rapid.IntRange(0, 5).Draw(t, "algorithm") {
		case 0:
			l.Algorithm, l.Window = audit.None, 0
		case 1:
			l.Algorithm = audit.TokenBucket
			l.Burst = rapid.Int64Range(0, amount).Draw(t, "burst")
		case 2:
			l.Algorithm, l.ReleaseDelay = audit.SlidingWindow, -1
		case 3:
			l.Algorithm = audit.FixedWindow
		case 4:
			l.Algorithm = audit.FixedWindow
			for r := l.Window; r <= time.Duration(4*span); r += l.Window {
				l.Resets = append(l.Resets, r)
			}
		default:
			continue
		}
		limits = append(limits, l)
	}
	if rapid.Bool().Draw(t, "concurrent") || len(limits) == 0 {
		limits = append(limits, audit.Limit{Dimension: audit.Concurrent, Algorithm: audit.Concurrency, Amount: rapid.Int64Range(1, 5).Draw(t, "slots")})
	}
	h := &history{
		rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 1)), limits: limits, n: newNaive(limits...),
		keys: rapid.IntRange(1, 3).Draw(t, "keys"), jitter: rapid.SampledFrom([]int64{0, span / 1000, span / 20}).Draw(t, "jitter"),
		losses: rapid.SampledFrom([]int{0, 0, 5, 30}).Draw(t, "losses"),
	}
	o := audit.Options{Limits: limits, Lease: time.Duration(rapid.SampledFrom([]int64{span / 10, 100 * span}).Draw(t, "lease"))}
	h.n.lease = int64(o.Lease)
	end := h.play(rapid.SampledFrom([]int{3, 20, 60, 200}).Draw(t, "calls"), span)
	return h, o, end
}

func TestNoFalseAlarm(t *testing.T) {
	var sum audit.Report
	defer func() { // alarms are only possible where something happened
		t.Logf("%d calls: %d admitted, %d denied, %d failed, %d retried", sum.Calls, sum.Admitted, sum.Denied, sum.Failed, sum.Retried)
		if sum.Admitted == 0 || sum.Denied == 0 || sum.Failed == 0 || sum.Retried == 0 {
			t.Error("the histories are too dull")
		}
	}()
	rapid.Check(t, func(t *rapid.T) {
		h, o, end := drawHistory(t, int64(time.Second))
		var ended []audit.KeyUsage
		for k := range h.keys {
			ended = append(ended, h.n.left(fmt.Sprintf("org/k%d", k), end+1000))
		}
		r, err := audit.Run(o, h.events, ended...)
		if err != nil {
			t.Fatal(err)
		}
		if !r.OK {
			t.Fatalf("false alarm under %+v:\n%s", o.Limits, r.Summary())
		}
		wantSeries(t, r)
		sum.Calls += r.Calls
		sum.Admitted += r.Admitted
		sum.Denied += r.Denied
		sum.Failed += r.Failed
		sum.Retried += r.Retried
	})
}

// k admissions are added to a log in which a limit without refill is used up.
func TestEveryExtraAdmissionIsFound(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		amount := rapid.Int64Range(1, 20).Draw(t, "amount")
		o := audit.Options{Limits: []audit.Limit{{Dimension: audit.Requests, Amount: amount}}}
		h := &history{
			rng: rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 2)), limits: o.Limits, n: newNaive(o.Limits...),
			keys: rapid.IntRange(1, 3).Draw(t, "keys"), jitter: rapid.Int64Range(0, 1e8).Draw(t, "jitter"),
		}
		end := h.play(200, 1e9)
		k := rapid.IntRange(0, 30).Draw(t, "k")
		for i := range h.events {
			e := &h.events[i]
			if k > 0 && e.Op == bench.OpCheck && e.Answer.Outcome == bench.Denied && e.Call.Key == "org/k0" {
				e.Call = &bench.Call{Key: e.Call.Key, ID: fmt.Sprint("extra-", i), Requests: 1}
				e.Answer = bench.Answer{Outcome: bench.Allowed}
				k--
			}
		}
		extra := int64(0)
		for _, e := range h.events {
			if len(e.Call.ID) > 5 && e.Call.ID[:5] == "extra" {
				extra++
			}
		}
		r, err := audit.Run(o, h.events, h.n.left("org/k0", end))
		if err != nil {
			t.Fatal(err)
		}
		if d := r.Dimensions[0]; d.Over != extra || d.Missing != extra || d.Excess != 0 {
			t.Fatalf("%d extra: %+v", extra, d)
		}
	})
}

// The check of a token bucket is compared with a search over every interval.
func TestTokenBucketMatchesExhaustiveSearch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		l := audit.Limit{
			Dimension: audit.Requests, Algorithm: rapid.SampledFrom([]audit.Algorithm{audit.TokenBucket, audit.SlidingWindow}).Draw(t, "algorithm"),
			Amount: rapid.Int64Range(1, 20).Draw(t, "amount"), Window: time.Duration(rapid.Int64Range(1, 50).Draw(t, "window")),
		}
		var events []bench.Event
		for i := range rapid.IntRange(1, 40).Draw(t, "n") {
			sent := rapid.Int64Range(0, 100).Draw(t, "sent")
			events = append(events, event(bench.OpCheck, check("k", i, rapid.Int64Range(1, 9).Draw(t, "cost")),
				time.Duration(sent), time.Duration(sent+rapid.Int64Range(0, 30).Draw(t, "took")), allowed))
		}
		var want int64
		for _, s := range events {
			for _, e := range events {
				length := int64(e.Done - s.Sent)
				if length < 0 || l.Algorithm == audit.SlidingWindow && length >= int64(l.Window) {
					continue
				}
				var sum int64
				for _, x := range events {
					if x.Sent >= s.Sent && x.Done <= e.Done {
						sum += x.Call.Requests
					}
				}
				room := l.Amount
				if l.Algorithm == audit.TokenBucket {
					room += l.Amount * length / int64(l.Window)
				}
				want = max(want, sum-room)
			}
		}
		r, err := audit.Run(audit.Options{Limits: []audit.Limit{l}}, events)
		if err != nil {
			t.Fatal(err)
		}
		if d := r.Dimensions[0]; d.Over != want || d.Possible < want {
			slices.SortFunc(events, func(a, b bench.Event) int { return cmp.Compare(a.Sent, b.Sent) })
			t.Fatalf("over = %d, want %d", d.Over, want)
		}
		wantSeries(t, r)
	})
}
