// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/anishathalye/porcupine"

	"github.com/bucketring/bucketring/limiter"
)

// One key, no time passes: 8 goroutines reserve, settle and cancel a few shared
// ids and check between them. Whatever they saw must be explained by some order
// of their calls.

const (
	sharedIDs = 6
	tokensCap = 500
	slotsCap  = 3
)

// op is a call; i is the reservation's number, n the cost or usage.
type op struct {
	verb string // check, reserve, progress, settle, cancel, peek
	i    int
	n    int64
}

// seen is its answer.
type seen struct {
	err      string
	outcome  limiter.Outcome
	status   limiter.Status
	replayed bool
	tokens   int64 // remaining
	slots    int64
}

// world is the sequential model's state; it is comparable.
type world struct {
	tokens, slots int64 // used
	reservations  [sharedIDs]reservation
}

type reservation struct {
	status         limiter.Status
	charged, final int64
	first          seen
}

func estimateOf(i int) int64 { return int64(20 + 30*i) }

func (w world) now(outcome limiter.Outcome, s limiter.Status) seen {
	return seen{outcome: outcome, status: s, tokens: max(0, tokensCap-w.tokens), slots: slotsCap - w.slots}
}

func (w world) step(o op) (seen, world) {
	r := &w.reservations[o.i]
	switch o.verb {
	case "check":
		if o.n > 0 && w.tokens+o.n > tokensCap { // nothing is always granted, even in debt
			return w.now(limiter.Denied, 0), w
		}
		w.tokens += o.n
		return w.now(limiter.Allowed, 0), w
	case "reserve":
		switch e := estimateOf(o.i); {
		case r.status == limiter.Cancelled:
			return seen{err: "conflict"}, w
		case r.status != limiter.NoStatus:
			again := r.first
			again.replayed = true
			return again, w
		case w.tokens+e > tokensCap || w.slots == slotsCap:
			return w.now(limiter.Denied, 0), w
		default:
			w.tokens += e
			w.slots++
			*r = reservation{status: limiter.Held, charged: e}
			r.first = w.now(limiter.Allowed, limiter.Held)
			return r.first, w
		}
	case "progress", "settle", "cancel":
		switch {
		case r.status == limiter.NoStatus:
			return seen{err: "unknown"}, w
		case r.status == limiter.Cancelled && o.verb != "cancel",
			r.status == limiter.Settled && (o.verb == "cancel" || o.verb == "settle" && o.n != r.final):
			return seen{err: "conflict"}, w
		case r.status != limiter.Held:
			return w.now(limiter.Allowed, r.status), w
		}
		target := o.n
		if o.verb == "progress" {
			target = max(target, r.charged)
		} else {
			w.slots--
			r.status, r.final = limiter.Settled, o.n
			if o.verb == "cancel" {
				target, r.status = 0, limiter.Cancelled
			}
		}
		w.tokens += target - r.charged
		r.charged = target
		return w.now(limiter.Allowed, r.status), w
	default:
		return w.now(limiter.Allowed, 0), w
	}
}

func TestConcurrentCallsAreLinearizable(t *testing.T) {
	model := porcupine.Model{
		Init: func() any { return world{} },
		Step: func(state, input, output any) (bool, any) {
			want, next := state.(world).step(input.(op))
			return want == output.(seen), next
		},
		DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
	}
	for seed := range uint64(30) {
		history := record(t, seed)
		switch res, _ := porcupine.CheckOperationsVerbose(model, history, 20*time.Second); res {
		case porcupine.Illegal:
			for _, o := range history {
				t.Logf("%4d..%4d  %s", o.Call, o.Return, model.DescribeOperation(o.Input, o.Output))
			}
			t.Fatalf("history %d has no sequential explanation", seed)
		case porcupine.Unknown:
			t.Errorf("history %d: no verdict within 20 s", seed)
		}
	}
}

// record lets 8 goroutines loose on one key.
func record(t *testing.T, seed uint64) []porcupine.Operation {
	const goroutines, calls = 8, 12
	n := newNode(t, limiter.Options{})
	p := n.plan("k",
		limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.TokenBucket, Amount: tokensCap, Window: time.Minute},
		limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: slotsCap})
	var clock atomic.Int64
	var wg sync.WaitGroup
	history := make([][]porcupine.Operation, goroutines)
	start := make(chan struct{})
	for g := range goroutines {
		wg.Go(func() {
			random := rand.New(rand.NewPCG(seed, uint64(g)))
			<-start
			for range calls {
				o := op{i: random.IntN(sharedIDs), n: 10 * random.Int64N(12)}
				o.verb = []string{"check", "reserve", "reserve", "reserve", "progress", "settle", "settle", "cancel", "peek"}[random.IntN(9)]
				if o.verb == "settle" {
					o.n = 30 * random.Int64N(2) // so that repeats happen
				}
				call := clock.Add(1)
				answer := perform(n, p, o)
				history[g] = append(history[g], porcupine.Operation{ClientId: g, Input: o, Call: call, Output: answer, Return: clock.Add(1)})
			}
		})
	}
	close(start)
	wg.Wait()
	var all []porcupine.Operation
	for _, h := range history {
		all = append(all, h...)
	}
	return all
}

func perform(n *node, p *limiter.Plan, o op) seen {
	var d limiter.Decision
	var err error
	id := "r" + strconv.Itoa(o.i)
	switch o.verb {
	case "check":
		err = n.Check(noon, &limiter.Request{Key: "k", Plan: p, InputTokens: o.n}, &d)
	case "reserve":
		err = n.Reserve(noon, &limiter.Request{Key: "k", Plan: p, ID: id, OutputTokens: estimateOf(o.i)}, &d)
	case "progress", "settle":
		err = n.Settle(noon, &limiter.Usage{Key: "k", ID: id, OutputTokens: o.n, Final: o.verb == "settle"}, &d)
	case "cancel":
		err = n.Cancel(noon, "k", id, &d)
	default:
		n.Peek(noon, &limiter.Request{Key: "k", Plan: p}, &d)
	}
	switch {
	case errors.Is(err, limiter.ErrConflict):
		return seen{err: "conflict"}
	case errors.Is(err, limiter.ErrUnknownReservation):
		return seen{err: "unknown"}
	case err != nil:
		return seen{err: err.Error()}
	}
	return seen{outcome: d.Outcome, status: d.Status, replayed: d.Replayed, tokens: d.Limits[0].Remaining, slots: d.Limits[1].Remaining}
}
