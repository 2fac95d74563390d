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

// TestWithdraw: a sending that is taken back leaves nothing, unless somebody else
// goes by the reservation.
func TestWithdraw(t *testing.T) {
	const key = "acme/alice"
	base := limiter.Request{Key: key, ID: "r", Requests: 1, InputTokens: 100, OutputTokens: 50, TTL: 20 * time.Second}
	type step func(n *node, r limiter.Request) // at noon, but for what comes later
	sent := func(attempt uint64) step {
		return func(n *node, r limiter.Request) {
			r.Attempt = attempt
			n.reserve(noon, &r)
		}
	}
	withdrawn := func(attempt uint64) step {
		return func(n *node, r limiter.Request) { n.Withdraw(noon, r.Key, r.ID, attempt) }
	}
	told := func(n *node, r limiter.Request) {
		r.Force = true
		n.reserve(noon, &r)
	}
	moved := func(n *node, _ limiter.Request) {
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
		{"the only one", []step{sent(1), withdrawn(1)}, 0, 0},
		{"sent twice over a link", []step{sent(1), sent(1), withdrawn(1)}, 0, 0},
		{"both", []step{sent(1), sent(2), withdrawn(1), withdrawn(2)}, 0, 0},
		{"one of two", []step{sent(1), sent(2), withdrawn(1)}, 150, 1},
		{"one of two, twice", []step{sent(1), sent(2), withdrawn(1), withdrawn(1)}, 150, 1},
		{"two of three", []step{sent(1), sent(2), sent(3), withdrawn(1), withdrawn(2)}, 150, 1},
		{"another one", []step{sent(1), withdrawn(2)}, 150, 1},
		{"answered directly before", []step{sent(0), sent(1), withdrawn(1)}, 150, 1},
		{"answered directly after", []step{sent(1), sent(0), withdrawn(1)}, 150, 1},
		{"admitted in fallback", []step{sent(1), told, withdrawn(1)}, 150, 1},
		{"admitted in fallback afterwards", []step{sent(1), withdrawn(1), told}, 150, 1},
		{"asked again", []step{sent(1), withdrawn(1), sent(2)}, 150, 1},
		{"after a move nobody knows", []step{sent(1), moved, withdrawn(1)}, 150, 1},
		{"none", []step{sent(1), withdrawn(0)}, 150, 1},
		{"settled", []step{sent(1), func(n *node, r limiter.Request) {
			n.settle(noon, limiter.Usage{Key: key, ID: r.ID, InputTokens: 100, OutputTokens: 7, Final: true})
		}, withdrawn(1)}, 107, 0},
		{"expired", []step{sent(1), func(n *node, r limiter.Request) {
			n.Withdraw(noon.Add(21*time.Second), r.Key, r.ID, 1)
		}}, 0, 0},
		{"expired, and asked again", []step{sent(1), func(n *node, r limiter.Request) {
			late := noon.Add(21 * time.Second)
			n.Withdraw(late, r.Key, r.ID, 1)
			r.Attempt = 2
			if d := n.reserve(late, &r); d.Replayed || d.Status != limiter.Held {
				n.t.Errorf("the id again = %+v, want a new reservation", d)
			}
			r.Attempt = 1
			if err := n.Reserve(late, &r, new(limiter.Decision)); !errors.Is(err, limiter.ErrWithdrawn) {
				n.t.Errorf("the sending that was withdrawn = %v, want %v", err, limiter.ErrWithdrawn)
			}
		}}, 150, 1},
		{"in use", []step{sent(1), func(n *node, r limiter.Request) {
			n.settle(noon, limiter.Usage{Key: key, ID: r.ID, InputTokens: 100, OutputTokens: 7})
		}, withdrawn(1)}, 150, 1},
		{"under another key", []step{sent(1), func(n *node, r limiter.Request) { n.Withdraw(noon, "acme/bob", r.ID, 1) }}, 150, 1},
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

// TestWithdrawnBeforeArrival: the withdrawal overtakes the reserve.
func TestWithdrawnBeforeArrival(t *testing.T) {
	n := newNode(t, limiter.Options{})
	r := &limiter.Request{Key: "acme/alice", ID: "r", InputTokens: 100, Attempt: 1}
	r.Plan = n.plan(r.Key, tokenLimits()...)
	n.Withdraw(noon, r.Key, r.ID, 1)
	p := limiter.PartitionOf(r.Key)
	if err := n.Restore(noon, p, n.Snapshot(noon, p, nil), nil); err != nil { // a move does not forget it
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
		t.Errorf("another sending: %+v, want a new reservation", d)
	}
	n.cancel(noon, r.Key, r.ID)
}

// sendings is what is known of one request id, naively: who may go by it, and
// what it charges.
type sendings struct {
	status limiter.Status
	due    int64 // its lease ends, or it is forgotten
	output int64 // reported
	tokens int64
	heard  map[uint64]bool
	stays  bool
}

func (s *sendings) hear(attempt uint64) {
	if s.stays = s.stays || attempt == 0 || len(s.heard) == 2 && !s.heard[attempt]; attempt != 0 {
		s.heard[attempt] = true
	}
}

// withdrawals is a model of [limiter.Engine.Withdraw] for one key.
type withdrawals struct {
	now limiter.Time
	ids map[string]*sendings
	off map[uint64]int64 // withdrawn -> forgotten
}

const (
	sentInput, sentOutput = 100, 50
	sentTTL               = 20 * time.Second
)

// pass lets time come to now: leases end, with what was reported or the input,
// and ids are forgotten.
func (m *withdrawals) pass(d time.Duration) {
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
	for attempt, until := range m.off {
		if until <= m.now.Mono {
			delete(m.off, attempt)
		}
	}
}

func (m *withdrawals) reserve(id string, attempt uint64) error {
	s := m.ids[id]
	switch {
	case attempt != 0 && m.off[attempt] != 0:
		return limiter.ErrWithdrawn
	case s == nil:
		s = &sendings{limiter.Held, m.now.Mono + int64(sentTTL), -1, sentInput + sentOutput, map[uint64]bool{}, false}
		m.ids[id] = s
	case s.status == limiter.Cancelled:
		return limiter.ErrConflict
	}
	s.hear(attempt)
	return nil
}

func (m *withdrawals) settle(id string, output int64, final bool) error {
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
		s.output, s.stays = max(s.output, output), true
		s.tokens = max(s.tokens, sentInput+s.output)
		if s.status == limiter.Held {
			s.due = m.now.Mono + int64(sentTTL)
		}
	}
	return nil
}

func (m *withdrawals) cancel(id string) error {
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

func (m *withdrawals) end(s *sendings, as limiter.Status, tokens int64) {
	if s.status == limiter.Held {
		s.due = m.now.Mono + int64(10*time.Minute)
	}
	s.status, s.tokens = as, tokens
}

func (m *withdrawals) withdraw(id string, attempt uint64) {
	if attempt == 0 || m.off[attempt] != 0 {
		return
	}
	m.off[attempt] = m.now.Mono + int64(30*time.Second)
	s := m.ids[id]
	if s == nil || !s.heard[attempt] {
		return
	}
	delete(s.heard, attempt)
	if len(s.heard) == 0 && !s.stays && (s.status == limiter.Held || s.status == limiter.Expired) {
		delete(m.ids, id)
	}
}

// move is a restart or another owner: who heard of what is not known there.
func (m *withdrawals) move() {
	for _, s := range m.ids {
		s.stays = true
	}
}

func (m *withdrawals) used() (tokens, slots int64) {
	for _, s := range m.ids {
		if tokens += s.tokens; s.status == limiter.Held {
			slots++
		}
	}
	return tokens, slots
}

// TestWithdrawIsTheModel: sendings, their withdrawals, and everything else that
// may become of a reservation, in any order.
func TestWithdrawIsTheModel(t *testing.T) {
	const key = "acme/alice"
	c := limiter.NewCatalog()
	p := plan(key, mustSet(t, c,
		limiter.Limit{Name: "tokens", Dimension: limiter.Tokens, Algorithm: limiter.FixedWindow, Amount: 1e9, Calendar: limiter.Year},
		limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: 1e9}))
	rapid.Check(t, func(t *rapid.T) {
		e := limiter.New(limiter.Options{Catalog: c})
		m := &withdrawals{now: noon, ids: map[string]*sendings{}, off: map[uint64]int64{}}
		forgotten := int64(0) // of ids that are known no more: their charge is final
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			id := rapid.SampledFrom([]string{"a", "a", "a", "b"}).Draw(t, "id")
			attempt := rapid.SampledFrom([]uint64{1, 1, 1, 2, 3, 0}).Draw(t, "attempt")
			var err, want error
			var d limiter.Decision
			op := rapid.SampledFrom([]string{"reserve", "reserve", "reserve", "withdraw", "withdraw", "withdraw", "progress", "settle", "cancel", "pass", "pass", "move"}).Draw(t, "op")
			switch op {
			case "reserve":
				r := &limiter.Request{Key: key, ID: id, InputTokens: sentInput, OutputTokens: sentOutput, TTL: sentTTL, Plan: p, Attempt: attempt}
				r.Force = attempt == 0 && rapid.Bool().Draw(t, "told")
				want, err = m.reserve(id, attempt), e.Reserve(m.now, r, &d)
			case "withdraw":
				m.withdraw(id, attempt)
				e.Withdraw(m.now, key, id, attempt)
			case "progress", "settle":
				u := &limiter.Usage{Key: key, ID: id, InputTokens: sentInput, OutputTokens: rapid.Int64Range(0, 90).Draw(t, "output"), Final: op == "settle"}
				want, err = m.settle(id, u.OutputTokens, u.Final), e.Settle(m.now, u, &d)
			case "cancel":
				want, err = m.cancel(id), e.Cancel(m.now, key, id, &d)
			case "pass":
				d := rapid.SampledFrom([]time.Duration{10 * time.Second, 20 * time.Second, 20 * time.Second, 9 * time.Minute}).Draw(t, "passes")
				known := maps.Clone(m.ids)
				m.pass(d)
				for id, s := range known {
					if m.ids[id] == nil {
						forgotten += s.tokens
					}
				}
			case "move":
				m.move()
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
			if got := used(d.Limits[0]); got != forgotten+tokens {
				t.Fatalf("%d tokens used after %s, want %d", got, op, forgotten+tokens)
			}
			if got := used(d.Limits[1]); got != slots {
				t.Fatalf("%d slots taken after %s, want %d", got, op, slots)
			}
		}
	})
}

// TestWithdrawalsLeaveRoom: withdrawals of what never was may fill the memory of
// ids, but not so that reservations find no room in it.
func TestWithdrawalsLeaveRoom(t *testing.T) {
	const ids = 64
	n := newNode(t, limiter.Options{MaxIDs: ids})
	for i := range uint64(10 * ids) {
		n.Withdraw(noon, "flood", "r", 1+i)
	}
	if got := n.Stats().IDs; got < ids/2 || got > ids*3/4 {
		t.Errorf("%d of %d ids are remembered, want most of them, but not all", got, ids)
	}
	r := &limiter.Request{Key: "acme/alice", Attempt: 1}
	r.Plan = n.plan(r.Key, limiter.Limit{Name: "slots", Dimension: limiter.Concurrent, Algorithm: limiter.Concurrency, Amount: ids})
	for i := range ids / 4 {
		r.ID = strconv.Itoa(i)
		wantOutcome(t, "Reserve("+r.ID+")", n.reserve(noon, r), limiter.Allowed)
	}
	n.Withdraw(noon, r.Key, r.ID, 1)
	if got := n.Stats().Reservations; got != ids/4-1 {
		t.Errorf("%d reservations after a withdrawal without room to remember it, want %d", got, ids/4-1)
	}
}
