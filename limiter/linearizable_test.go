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

// 8 goroutines check one key and reserve, settle and cancel a few shared ids, while no
// time passes. Some order of their calls must explain all results.

const (
	sharedIDs = 6
	tokensCap = 500
	slotsCap  = 3
)

// op is a call. i is the index of the reservation, n the cost or usage.
type op struct {
	verb string // check, reserve, progress, settle, cancel, peek
	i    int
	n    int64
}

// result is the result of an op.
type result struct {
	err      string
	outcome  limiter.Outcome
	status   limiter.Status
	replayed bool
	tokens   int64 // remaining
	slots    int64
}

// modelState is the state of the sequential model. It is comparable.
type modelState struct {
	tokens, slots int64 // used
	reservations  [sharedIDs]reservation
}

type reservation struct {
	status         limiter.Status
	charged, final int64
}

func estimateOf(i int) int64 { return int64(20 + 30*i) }

func (w modelState) now(outcome limiter.Outcome, s limiter.Status) result {
	return result{outcome: outcome, status: s, tokens: max(0, tokensCap-w.tokens), slots: slotsCap - w.slots}
}

func (w modelState) step(o op) (result, modelState) {
	r := &w.reservations[o.i]
	switch o.verb {
	case "check":
		if o.n > 0 && w.tokens+o.n > tokensCap { // a cost of 0 is always admitted, even in debt
			return w.now(limiter.Denied, 0), w
		}
		w.tokens += o.n
		return w.now(limiter.Allowed, 0), w
	case "reserve":
		switch e := estimateOf(o.i); {
		case r.status == limiter.Cancelled:
			return result{err: "conflict"}, w
		case r.status != limiter.NoStatus:
			again := w.now(limiter.Allowed, limiter.Held)
			again.replayed = true
			return again, w
		case w.tokens+e > tokensCap || w.slots == slotsCap:
			return w.now(limiter.Denied, 0), w
		default:
			w.tokens += e
			w.slots++
			*r = reservation{status: limiter.Held, charged: e}
			return w.now(limiter.Allowed, limiter.Held), w
		}
	case "progress", "settle", "cancel":
		switch {
		case r.status == limiter.NoStatus:
			return result{err: "unknown"}, w
		case r.status == limiter.Cancelled && o.verb != "cancel",
			r.status == limiter.Settled && (o.verb == "cancel" || o.verb == "settle" && o.n != r.final):
			return result{err: "conflict"}, w
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
		Init: func() any { return modelState{} },
		Step: func(state, input, output any) (bool, any) {
			want, next := state.(modelState).step(input.(op))
			return want == output.(result), next
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
			t.Fatalf("no order of the calls explains history %d", seed)
		case porcupine.Unknown:
			t.Errorf("history %d: not decided within 20 s", seed)
		}
	}
}

// record returns the calls of 8 goroutines to one key.
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
					o.n = 30 * random.Int64N(2) // so that some calls are repeated
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

func perform(n *node, p *limiter.Plan, o op) result {
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
		return result{err: "conflict"}
	case errors.Is(err, limiter.ErrUnknownReservation):
		return result{err: "unknown"}
	case err != nil:
		return result{err: err.Error()}
	}
	return result{outcome: d.Outcome, status: d.Status, replayed: d.Replayed, tokens: d.Limits[0].Remaining, slots: d.Limits[1].Remaining}
}
