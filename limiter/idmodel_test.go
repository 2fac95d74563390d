// SPDX-License-Identifier: Apache-2.0

package limiter_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/bucketring/bucketring/limiter"
)

// modelID is a naive model of what is remembered of one id.
type modelID struct {
	body  string
	state string // check, held, settled, cancelled or expired
	due   int64  // Mono: end of the lease or of the retention
	cost  int64  // what its decision charged
	final int64
}

// idMemory is a naive model of the remembered ids of several roots.
type idMemory struct {
	now  limiter.Time
	ids  map[[2]string]*modelID // by root and id
	used map[string]int64       // requests charged, by root
}

// advance lets time pass: leases end, which keeps the charge of requests, and ids are
// forgotten.
func (m *idMemory) advance(d time.Duration) {
	m.now = m.now.Add(d)
	for k, x := range m.ids {
		if x.state == "held" && x.due <= m.now.Mono {
			x.state, x.due = "expired", m.now.Mono+int64(10*time.Minute)
		}
		if x.state != "held" && x.due <= m.now.Mono {
			delete(m.ids, k)
		}
	}
}

func (m *idMemory) end(x *modelID, state string) {
	if x.state == "held" {
		x.due = m.now.Mono + int64(10*time.Minute)
	}
	if x.state = state; state == "cancelled" {
		x.due = min(x.due, m.now.Mono+int64(30*time.Second))
	}
}

// TestRememberedIDsAreTheModel compares calls with few ids under several roots, of which
// some share a partition, with the model: a repeat gets the same decision and is charged
// once, a conflict is found, and every id is forgotten on time.
func TestRememberedIDsAreTheModel(t *testing.T) {
	roots := []string{"flood", "other"}
	for i := 0; len(roots) < 4; i++ {
		if root := fmt.Sprint("root-", i); limiter.PartitionOf(root) == limiter.PartitionOf("flood") {
			roots = append(roots, root)
		}
	}
	c := limiter.NewCatalog()
	set := mustSet(t, c, limiter.Limit{Name: "requests", Dimension: limiter.Requests, Algorithm: limiter.FixedWindow, Amount: 1e9, Calendar: limiter.Year})
	rapid.Check(t, func(t *rapid.T) {
		e := limiter.New(limiter.Options{Catalog: c})
		m := &idMemory{now: noon, ids: map[[2]string]*modelID{}, used: map[string]int64{}}
		for range rapid.IntRange(1, 80).Draw(t, "steps") {
			root, id := rapid.SampledFrom(roots).Draw(t, "root"), rapid.SampledFrom([]string{"a", "b"}).Draw(t, "id")
			k := [2]string{root, id}
			x := m.ids[k]
			op := rapid.SampledFrom([]string{"check", "check", "force", "reserve", "reserve", "settle", "cancel", "pass", "pass", "pass", "sweep", "move"}).Draw(t, "op")
			var d limiter.Decision
			var err, want error
			switch op {
			case "check", "force", "reserve":
				r := &limiter.Request{Key: root, ID: id, Requests: rapid.Int64Range(1, 2).Draw(t, "requests"), Plan: plan(root, set), TTL: 20 * time.Second, Force: op == "force"}
				call, state, retention := e.Check, "check", 30*time.Second
				switch op {
				case "force":
					retention = 10 * time.Minute
				case "reserve":
					call, state, retention = e.Reserve, "held", r.TTL
				}
				body := fmt.Sprint(op == "reserve", r.Requests)
				replayed := x != nil
				switch {
				case x == nil:
					m.ids[k] = &modelID{body, state, m.now.Mono + int64(retention), r.Requests, 0}
					m.used[root] += r.Requests
				case x.body != body || x.state == "cancelled":
					want = limiter.ErrConflict
				}
				if err = call(m.now, r, &d); err != nil {
					break
				}
				if d.Outcome != limiter.Allowed || d.Replayed != replayed || d.Limits[0].Cost != m.ids[k].cost {
					t.Fatalf("%s of %v = %s, replayed %t, cost %d, want replayed %t, cost %d", op, k, d.Outcome, d.Replayed, d.Limits[0].Cost, replayed, m.ids[k].cost)
				}
				if got := used(d.Limits[0]); got != m.used[root] {
					t.Fatalf("%s of %v shows %d used, want %d as it is now", op, k, got, m.used[root])
				}
			case "settle":
				output := rapid.Int64Range(0, 1).Draw(t, "output")
				switch {
				case x == nil:
					want = limiter.ErrUnknownReservation
				case x.state == "check", x.state == "cancelled", x.state == "settled" && x.final != output:
					want = limiter.ErrConflict
				case x.state != "settled":
					m.end(x, "settled")
					x.final = output
				}
				err = e.Settle(m.now, &limiter.Usage{Key: root, ID: id, OutputTokens: output, Final: true}, &d)
			case "cancel":
				switch {
				case x == nil:
					want = limiter.ErrUnknownReservation
				case x.state == "check", x.state == "settled":
					want = limiter.ErrConflict
				case x.state != "cancelled":
					m.end(x, "cancelled")
					m.used[root] -= x.cost
				}
				err = e.Cancel(m.now, root, id, &d)
			case "pass":
				m.advance(rapid.SampledFrom([]time.Duration{1, time.Second, 10 * time.Second, 30*time.Second - 1, 10*time.Minute - 1}).Draw(t, "passes"))
				for _, root := range roots { // a lease ends when a call or the sweep sees it
					e.Peek(m.now, &limiter.Request{Key: root, Plan: plan(root, set)}, &d)
				}
			case "sweep":
				e.Sweep(m.now, 2*limiter.Partitions)
			case "move":
				part := limiter.PartitionOf(root)
				if err := e.Restore(m.now, part, e.Snapshot(m.now, part, nil), nil); err != nil {
					t.Fatalf("Restore() = %v", err)
				}
			}
			if (err == nil) != (want == nil) || !errors.Is(err, want) {
				t.Fatalf("%s of %v = %v, want %v", op, k, err, want)
			}
		}
		m.advance(31 * time.Second)
		m.advance(10*time.Minute + time.Second)
		e.Sweep(m.now.Add(-10*time.Minute), 2*limiter.Partitions) // ends the leases
		e.Sweep(m.now, 2*limiter.Partitions)
		if s := e.Stats(); s.IDs != len(m.ids) || len(m.ids) != 0 {
			t.Fatalf("%d ids at the end, and %d in the model, want none", s.IDs, len(m.ids))
		}
	})
}
