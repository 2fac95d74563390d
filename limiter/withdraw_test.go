// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"maps"
	"strconv"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// TestWithdraw checks that withdrawing an attempt cancels its reservation, unless
// another caller uses that.
func TestWithdraw(t *testing.T) {
	const key = "acme/alice"
	base := limiter.Request{Key: key, ID: "r", Requests: 1, InputTokens: 100, OutputTokens: 50, TTL: 20 * time.Second}
	type step func(n *node, r limiter.Request) // at noon, unless it says otherwise
	reserve := func(attempt uint64) step {
		return func(n *node, r limiter.Request) {
			r.Attempt = attempt
			n.reserve(noon, &r)
		}
	}
	withdraw := func(attempt uint64) step {
		return func(n *node, r limiter.Request) { _, _ = n.Withdraw(noon, r.Key, r.ID, attempt) }
	}
	force := func(n *node, r limiter.Request) {
		r.Force = true
		n.reserve(noon, &r)
	}
	restart := func(n *node, _ limiter.Request) {
		p := limiter.PartitionOf(key)
		if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil {
			n.t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		name          string
		steps         []step
		tokens, slots int64
	}{
		{"the only attempt", []step{reserve(1), withdraw(1)}, 0, 0},
		{"an attempt that arrives twice", []step{reserve(1), reserve(1), withdraw(1)}, 0, 0},
		{"both attempts", []step{reserve(1), reserve(2), withdraw(1), withdraw(2)}, 0, 0},
		{"one attempt of two", []step{reserve(1), reserve(2), withdraw(1)}, 150, 1},
		{"one attempt of two, twice", []step{reserve(1), reserve(2), withdraw(1), withdraw(1)}, 150, 1},
		{"two attempts of three", []step{reserve(1), reserve(2), reserve(3), withdraw(1), withdraw(2)}, 150, 1},
		{"all of three attempts", []step{reserve(1), reserve(2), reserve(3), withdraw(3), withdraw(1), withdraw(2)}, 0, 0},
		{"another attempt", []step{reserve(1), withdraw(2)}, 150, 1},
		{"a call without attempt before", []step{reserve(0), reserve(1), withdraw(1)}, 150, 1},
		{"a call without attempt after", []step{reserve(1), reserve(0), withdraw(1)}, 150, 1},
		{"admitted in fallback", []step{reserve(1), force, withdraw(1)}, 150, 1},
		{"admitted in fallback afterwards", []step{reserve(1), withdraw(1), force}, 150, 1},
		{"another attempt after it", []step{reserve(1), withdraw(1), reserve(2)}, 150, 1},
		{"after a restart", []step{reserve(1), restart, withdraw(1)}, 0, 0},
		{"attempt 0", []step{reserve(1), withdraw(0)}, 150, 1},
		{"settled", []step{reserve(1), func(n *node, r limiter.Request) {
			n.settle(noon, limiter.Usage{Key: key, ID: r.ID, InputTokens: 100, OutputTokens: 7, Final: true})
		}, withdraw(1)}, 107, 0},
		{"expired", []step{reserve(1), func(n *node, r limiter.Request) {
			_, _ = n.Withdraw(noon.Add(21*time.Second), r.Key, r.ID, 1)
		}}, 0, 0},
		{"expired, then another attempt", []step{reserve(1), func(n *node, r limiter.Request) {
			late := noon.Add(21 * time.Second)
			_, _ = n.Withdraw(late, r.Key, r.ID, 1)
			r.Attempt = 2
			if d := n.reserve(late, &r); d.Replayed || d.Status != limiter.Held {
				n.t.Errorf("the id again = %+v, want a new reservation", d)
			}
			r.Attempt = 1
			if err := n.Reserve(late, &r, new(limiter.Decision)); !errors.Is(err, limiter.ErrWithdrawn) {
				n.t.Errorf("Reserve of the withdrawn attempt = %v, want %v", err, limiter.ErrWithdrawn)
			}
		}}, 150, 1},
		{"with progress", []step{reserve(1), func(n *node, r limiter.Request) {
			n.settle(noon, limiter.Usage{Key: key, ID: r.ID, InputTokens: 100, OutputTokens: 7})
		}, withdraw(1)}, 150, 1},
		{"under another key", []step{reserve(1), func(n *node, r limiter.Request) { _, _ = n.Withdraw(noon, "acme/bob", r.ID, 1) }}, 150, 1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			n := newNode(t, limiter.Options{})
			r := base
			r.Plan = n.plan(key,
				limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 6000, Calendar: limiter.Day},
				limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 2})
			for _, do := range tt.steps {
				do(n, r)
			}
			d := n.peek(noon, &r)
			wantUsed(t, "afterwards", d, 0, tt.tokens)
			wantUsed(t, "afterwards", d, 1, tt.slots)
		})
	}
}

// TestWithdrawnBeforeArrival checks a withdrawal that arrives before its attempt.
func TestWithdrawnBeforeArrival(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "r", InputTokens: 100, Attempt: 1}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	_, _ = n.Withdraw(noon, r.Key, r.ID, 1)
	p := limiter.PartitionOf(r.Key)
	if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil { // survives a restart
		t.Fatal(err)
	}
	var d limiter.Decision
	for _, later := range []time.Duration{0, 30*time.Second - 1} {
		if err := n.Reserve(noon.Add(later), r, &d); !errors.Is(err, limiter.ErrWithdrawn) {
			t.Errorf("Reserve() after %s = %v, want %v", later, err, limiter.ErrWithdrawn)
		}
	}
	again := *r
	again.Attempt = 2
	if d := n.reserve(noon, &again); d.Outcome != limiter.Allowed || d.Replayed {
		t.Errorf("another attempt: %+v, want a new reservation", d)
	}
	n.cancel(noon, r.Key, r.ID)
}

// idModel is a naive model of one request id: the attempts that got its answer, and
// its charge.
type idModel struct {
	status    limiter.Status
	due       int64 // end of its lease or of its retention
	output    int64 // reported by progress
	tokens    int64
	attempts  map[uint64]bool
	permanent bool
}

func (s *idModel) addAttempt(attempt uint64) {
	if s.permanent = s.permanent || attempt == 0 || len(s.attempts) == 4 && !s.attempts[attempt]; attempt != 0 {
		s.attempts[attempt] = true
	}
}

// withdrawModel is a model of [limiter.Engine.Withdraw] for one key.
type withdrawModel struct {
	now       limiter.Time
	ids       map[string]*idModel
	withdrawn map[uint64]int64 // attempt -> end of its retention
}

const (
	sentInput, sentOutput = 100, 50
	sentTTL               = 20 * time.Second
)

// advance lets time pass: leases expire with the reported usage or the input, and ids
// are forgotten.
func (m *withdrawModel) advance(d time.Duration) {
	m.now = m.now.Add(d)
	for id, s := range m.ids {
		if s.due > m.now.Mono {
			continue
		}
		if s.status != limiter.Held {
			delete(m.ids, id)
			continue
		}
		s.status, s.due = limiter.Expired, m.now.Mono+int64(10*time.Minute)
		if s.tokens = sentInput; s.output >= 0 {
			s.tokens += s.output
		}
	}
	for attempt, until := range m.withdrawn {
		if until <= m.now.Mono {
			delete(m.withdrawn, attempt)
		}
	}
}

func (m *withdrawModel) reserve(id string, attempt uint64) error {
	s := m.ids[id]
	switch {
	case attempt != 0 && m.withdrawn[attempt] != 0:
		return limiter.ErrWithdrawn
	case s == nil:
		s = &idModel{limiter.Held, m.now.Mono + int64(sentTTL), -1, sentInput + sentOutput, map[uint64]bool{}, false}
		m.ids[id] = s
	case s.status == limiter.Cancelled:
		return limiter.ErrConflict
	}
	s.addAttempt(attempt)
	return nil
}

func (m *withdrawModel) settle(id string, output int64, final bool) error {
	s := m.ids[id]
	switch {
	case s == nil:
		return limiter.ErrUnknownReservation
	case s.status == limiter.Cancelled, s.status == limiter.Settled && final && s.output != output:
		return limiter.ErrConflict
	case s.status == limiter.Settled:
	case final:
		m.end(s, limiter.Settled, sentInput+output)
		s.output = output
	default:
		s.output, s.permanent = max(s.output, output), true
		s.tokens = max(s.tokens, sentInput+s.output)
		if s.status == limiter.Held {
			s.due = m.now.Mono + int64(sentTTL)
		}
	}
	return nil
}

func (m *withdrawModel) cancel(id string) error {
	s := m.ids[id]
	switch {
	case s == nil:
		return limiter.ErrUnknownReservation
	case s.status == limiter.Settled:
		return limiter.ErrConflict
	case s.status != limiter.Cancelled:
		m.end(s, limiter.Cancelled, 0)
	}
	return nil
}

func (m *withdrawModel) end(s *idModel, as limiter.Status, tokens int64) {
	if s.status == limiter.Held {
		s.due = m.now.Mono + int64(10*time.Minute)
	}
	if as == limiter.Cancelled {
		s.due = min(s.due, m.now.Mono+int64(30*time.Second))
	}
	s.status, s.tokens = as, tokens
}

func (m *withdrawModel) withdraw(id string, attempt uint64) {
	if attempt == 0 || m.withdrawn[attempt] != 0 {
		return
	}
	m.withdrawn[attempt] = m.now.Mono + int64(30*time.Second)
	s := m.ids[id]
	if s == nil || !s.attempts[attempt] {
		return
	}
	delete(s.attempts, attempt)
	if len(s.attempts) == 0 && !s.permanent && (s.status == limiter.Held || s.status == limiter.Expired) {
		delete(m.ids, id)
	}
}

func (m *withdrawModel) used() (tokens, slots int64) {
	for _, s := range m.ids {
		if tokens += s.tokens; s.status == limiter.Held {
			slots++
		}
	}
	return tokens, slots
}

// TestWithdrawIsTheModel compares attempts, withdrawals and all other calls for a
// reservation, in any order, with the model.
func TestWithdrawIsTheModel(t *testing.T) {
	const key = "acme/alice"
	c := limiter.NewCatalog()
	p := plan(key, mustSet(t, c,
		limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 1e9, Calendar: limiter.Year},
		limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1e9}))
	rapid.Check(t, func(t *rapid.T) {
		e := limiter.New(limiter.Options{Catalog: c})
		m := &withdrawModel{now: noon, ids: map[string]*idModel{}, withdrawn: map[uint64]int64{}}
		final := int64(0) // charges of forgotten ids
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "id")
			attempt := rapid.SampledFrom([]uint64{1, 1, 1, 2, 3, 4, 5, 0}).Draw(t, "attempt")
			var err, want error
			var d limiter.Decision
			op := rapid.SampledFrom([]string{"reserve", "reserve", "reserve", "withdraw", "withdraw", "withdraw", "progress", "settle", "cancel", "pass", "pass", "move"}).Draw(t, "op")
			switch op {
			case "reserve":
				r := &limiter.Request{Key: key, ID: id, InputTokens: sentInput, OutputTokens: sentOutput, TTL: sentTTL, Plan: p, Attempt: attempt}
				r.Force = attempt == 0 && rapid.Bool().Draw(t, "force")
				want, err = m.reserve(id, attempt), e.Reserve(m.now, r, &d)
			case "withdraw":
				m.withdraw(id, attempt)
				_, _ = e.Withdraw(m.now, key, id, attempt)
			case "progress", "settle":
				u := &limiter.Usage{Key: key, ID: id, InputTokens: sentInput, OutputTokens: rapid.Int64Range(0, 90).Draw(t, "output"), Final: op == "settle"}
				want, err = m.settle(id, u.OutputTokens, u.Final), e.Settle(m.now, u, &d)
			case "cancel":
				want, err = m.cancel(id), e.Cancel(m.now, key, id, &d)
			case "pass":
				d := rapid.SampledFrom([]time.Duration{10 * time.Second, 20 * time.Second, 20 * time.Second, 9 * time.Minute}).Draw(t, "passes")
				before := maps.Clone(m.ids)
				m.advance(d)
				for id, s := range before {
					if m.ids[id] == nil {
						final += s.tokens
					}
				}
			case "move":
				part := limiter.PartitionOf(key)
				if err := e.Restore(m.now, part, e.Snapshot(m.now, part, nil), nil); err != nil {
					t.Fatalf("Restore() = %v", err)
				}
			}
			if (err == nil) != (want == nil) || !errors.Is(err, want) {
				t.Fatalf("%s of %s, attempt %d = %v, want %v", op, id, attempt, err, want)
			}
			tokens, slots := m.used()
			e.Peek(m.now, &limiter.Request{Key: key, Plan: p}, &d)
			if got := used(d.Limits[0]); got != final+tokens {
				t.Fatalf("%d tokens used after %s, want %d", got, op, final+tokens)
			}
			if got := used(d.Limits[1]); got != slots {
				t.Fatalf("%d slots taken after %s, want %d", got, op, slots)
			}
		}
	})
}

// TestWithdrawalsLeaveRoom checks that withdrawals of unknown attempts leave room for
// the ids of reservations.
func TestWithdrawalsLeaveRoom(t *testing.T) {
	const ids = 64
	n := newNode(t, limiter.Options{MaxIDs: ids})
	for i := range uint64(10 * ids) {
		_, _ = n.Withdraw(noon, "flood", "r", 1+i)
	}
	if got := n.Stats().IDs; got < ids/2 || got > ids*3/4 {
		t.Errorf("%d of %d ids are remembered, want between 1/2 and 3/4", got, ids)
	}
	r := &limiter.Request{Key: "acme/alice", Attempt: 1}
	r.Plan = n.plan(r.Key, limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: ids})
	for i := range ids / 4 {
		r.ID = strconv.Itoa(i)
		wantOutcome(t, "Reserve("+r.ID+")", n.reserve(noon, r), limiter.Allowed)
	}
	_, _ = n.Withdraw(noon, r.Key, r.ID, 1)
	if got := n.Stats().Reservations; got != ids/4-1 {
		t.Errorf("%d reservations after a withdrawal that is not remembered, want %d", got, ids/4-1)
	}
}
