// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/bucketring/bucketring/internal/pgtest"
	"github.com/bucketring/bucketring/internal/waittest"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.End()
	os.Exit(code)
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// small is a policy of two tiers.
const small = `
INSERT INTO bucketring_tiers (name) VALUES ('free'), ('gold');
INSERT INTO bucketring_limits (tier, name, dimension, amount, period) VALUES ('free', 'tokens', 'tokens', 1000, 'min'), ('gold', 'tokens', 'tokens', 50000, 'min');
INSERT INTO bucketring_settings VALUES ('default_tier', 'free');
INSERT INTO bucketring_assignments VALUES ('acme/alice', 'gold'), ('acme/bob', 'free'), ('beta/*', 'gold');`

// tablesWith makes a database with the tables and some rows.
func tablesWith(t testing.TB, rows string) *pgtest.Database {
	t.Helper()
	d := pgtest.Shared(t).Database(t, Schema())
	if rows != "" {
		d.Exec(t, rows)
	}
	return d
}

func newFeed(t testing.TB, d *pgtest.Database) *Feed {
	t.Helper()
	f, err := New(Options{URL: d.URL, Catalog: limiter.NewCatalog()})
	check(t, err)
	t.Cleanup(f.Close)
	return f
}

func load(t testing.TB, f *Feed) *policy.Policy {
	t.Helper()
	p, err := f.Load(t.Context(), false)
	check(t, err)
	return p
}

// tierOf returns the tier of a key and its tokens per minute.
func tierOf(t testing.TB, p *policy.Policy, key string) string {
	t.Helper()
	var plan limiter.Plan
	check(t, p.Resolve(limiter.Time{Wall: time.Date(2026, 12, 1, 0, 0, 0, 0, time.UTC).UnixNano()}, key, "", "", &plan))
	limits := plan.Levels[plan.Count-1].Limits.Limits()
	return fmt.Sprintf("%s %d", plan.Tier, limits[0].Amount)
}

func want(t testing.TB, p *policy.Policy, key, tier string) {
	t.Helper()
	if got := tierOf(t, p, key); got != tier {
		t.Errorf("%s has %s, want %s", key, got, tier)
	}
}

// sameAsWhole compares what a feed made of changes with what the tables have.
func sameAsWhole(t testing.TB, d *pgtest.Database, p *policy.Policy) {
	t.Helper()
	whole := load(t, newFeed(t, d))
	if p.Digest() != whole.Digest() {
		t.Errorf("the policy after changes differs from the tables: %v", policy.Diff(whole, p))
	}
}

func TestChangesReadSingleRows(t *testing.T) {
	d := tablesWith(t, small)
	f := newFeed(t, d)
	p := load(t, f)
	want(t, p, "acme/alice", "gold 50000")
	want(t, p, "beta/x", "gold 50000")
	want(t, p, "other", "free 1000")
	if again := load(t, f); again != p {
		t.Error("a load without a change made another policy")
	}
	hash := policy.HashAPIKey("a-key-of-carol")
	for _, step := range []struct{ sql, key, tier string }{
		{"UPDATE bucketring_assignments SET tier = 'gold' WHERE key = 'acme/bob'", "acme/bob", "gold 50000"},
		{"DELETE FROM bucketring_assignments WHERE key = 'acme/alice'", "acme/alice", "free 1000"},
		{"UPDATE bucketring_assignments SET key = 'acme/carol' WHERE key = 'acme/bob'", "acme/carol", "gold 50000"},
		{"UPDATE bucketring_limits SET amount = 2000 WHERE tier = 'free'", "acme/alice", "free 2000"},
		{"INSERT INTO bucketring_tiers (name) VALUES ('max'); INSERT INTO bucketring_limits (tier, name, dimension, amount, period) VALUES ('max', 'tokens', 'tokens', 7, 'min'); INSERT INTO bucketring_assignments VALUES ('new/one', 'max')", "new/one", "max 7"},
		{"UPDATE bucketring_tiers SET name = 'most' WHERE name = 'max'", "new/one", "most 7"},
		{"INSERT INTO bucketring_assignments VALUES ('acme/*', 'most')", "acme/alice", "most 7"},
		{"DELETE FROM bucketring_assignments WHERE key LIKE 'acme/%'", "acme/carol", "free 2000"},
		{"UPDATE bucketring_settings SET value = 'gold' WHERE name = 'default_tier'", "other", "gold 50000"},
		{"INSERT INTO bucketring_api_keys VALUES ('" + hash + "', 'acme/carol', 'most')", "other", "gold 50000"},
		{"INSERT INTO bucketring_overrides VALUES ('other', 'tokens', '77/min', '2026-12-24', 'a launch'), ('other/x', 'tokens', '78', '2026-11-24', NULL)", "other", "gold 77"},
		{"UPDATE bucketring_overrides SET value = '79' WHERE key = 'other'", "other", "gold 79"},
		{"DELETE FROM bucketring_overrides WHERE key = 'other'", "other", "gold 50000"},
	} {
		d.Exec(t, step.sql)
		p = load(t, f)
		want(t, p, step.key, step.tier)
	}
	if key, tier, ok := p.APIKeyOwner("a-key-of-carol"); !ok || key != "acme/carol" || tier != "most" {
		t.Errorf("APIKeyOwner = %q, %q, %v", key, tier, ok)
	}
	d.Exec(t, "DELETE FROM bucketring_api_keys")
	p = load(t, f)
	if _, _, ok := p.APIKeyOwner("a-key-of-carol"); ok {
		t.Error("a deleted API key is still valid")
	}
	sameAsWhole(t, d, p)
	if f.full != 1 {
		t.Errorf("all rows were read %d times, want once", f.full)
	}
}

// TestOutOfOrderCommits: a transaction that began first and commits last is not lost, with
// savepoints and a rollback.
func TestOutOfOrderCommits(t *testing.T) {
	d := tablesWith(t, small)
	f := newFeed(t, d)
	load(t, f)
	first, second, third := d.Connect(t), d.Connect(t), d.Connect(t)
	exec := func(c pg, sql string) {
		t.Helper()
		check(t, c.exec(sql))
	}
	a, b, c := pg{first}, pg{second}, pg{third}
	exec(a, "BEGIN; SAVEPOINT s; UPDATE bucketring_assignments SET tier = 'free' WHERE key = 'acme/alice'; RELEASE s")
	exec(c, "BEGIN; UPDATE bucketring_assignments SET tier = 'free' WHERE key = 'beta/*'")
	exec(b, "UPDATE bucketring_assignments SET tier = 'gold' WHERE key = 'acme/bob'")
	p := load(t, f)
	want(t, p, "acme/bob", "gold 50000")
	want(t, p, "acme/alice", "gold 50000") // not committed
	p = load(t, f)
	want(t, p, "acme/alice", "gold 50000")
	exec(a, "COMMIT")
	p = load(t, f)
	want(t, p, "acme/alice", "free 1000")
	exec(c, "ROLLBACK")
	p = load(t, f)
	want(t, p, "beta/x", "gold 50000")
	sameAsWhole(t, d, p)
	if f.full != 1 {
		t.Errorf("all rows were read %d times, want once", f.full)
	}
}

// TestRandomTransactions commits and rolls back transactions of several writers in any
// order, while a feed follows.
func TestRandomTransactions(t *testing.T) {
	d := tablesWith(t, small+"INSERT INTO bucketring_assignments SELECT 'k/' || i, 'free' FROM generate_series(0, 99) i;")
	f := newFeed(t, d)
	load(t, f)
	var writers sync.WaitGroup
	for w := range 4 {
		c := pg{d.Connect(t)}
		writers.Go(func() {
			r := rand.New(rand.NewPCG(uint64(w), 1))
			for range 60 {
				sql := "BEGIN"
				base := w * 25 // rows of its own, so that nobody waits
				for range 1 + r.IntN(4) {
					key := fmt.Sprintf("k/%d", base+r.IntN(25))
					switch r.IntN(3) {
					case 0:
						sql += fmt.Sprintf("; DELETE FROM bucketring_assignments WHERE key = '%s'", key)
					default:
						tier := []string{"free", "gold"}[r.IntN(2)]
						sql += fmt.Sprintf("; INSERT INTO bucketring_assignments VALUES ('%s', '%s') ON CONFLICT (key) DO UPDATE SET tier = excluded.tier", key, tier)
					}
				}
				sql += fmt.Sprintf("; SELECT pg_sleep(%f)", r.Float64()/200)
				end := "COMMIT"
				if r.IntN(4) == 0 {
					end = "ROLLBACK"
				}
				if err := c.exec(sql + "; " + end); err != nil {
					t.Error(err)
				}
			}
		})
	}
	done := make(chan struct{})
	go func() { writers.Wait(); close(done) }()
	for running := true; running; {
		select {
		case <-done:
			running = false
		default:
		}
		load(t, f)
	}
	sameAsWhole(t, d, load(t, f))
	if f.full != 1 {
		t.Errorf("all rows were read %d times, want once", f.full)
	}
}

// TestWholeTables: a truncated table, and more changes than are listed one by one, are
// noticed.
func TestWholeTables(t *testing.T) {
	d := tablesWith(t, small)
	f := newFeed(t, d)
	load(t, f)
	d.Exec(t, "INSERT INTO bucketring_assignments SELECT 'k/' || i, 'gold' FROM generate_series(1, 5000) i")
	p := load(t, f)
	want(t, p, "k/5000", "gold 50000")
	d.Exec(t, "TRUNCATE bucketring_assignments")
	p = load(t, f)
	want(t, p, "k/5000", "free 1000")
	sameAsWhole(t, d, p)
	d.Exec(t, "TRUNCATE bucketring_prices")
	load(t, f)
	if f.full != 3 {
		t.Errorf("all rows were read %d times, want 3 times", f.full)
	}
}

// TestPrunedChanges: who missed changes that are no longer listed reads everything, and
// nobody else does.
func TestPrunedChanges(t *testing.T) {
	d := tablesWith(t, small)
	late, prompt := newFeed(t, d), newFeed(t, d)
	load(t, late)
	d.Exec(t, "UPDATE bucketring_assignments SET tier = 'free' WHERE key = 'acme/alice'")
	load(t, prompt)
	d.Exec(t, "UPDATE bucketring_changes SET at = now() - interval '2 hours'")
	d.Exec(t, "UPDATE bucketring_assignments SET tier = 'gold' WHERE key = 'acme/bob'") // prunes
	var left int
	check(t, d.Connect(t).QueryRow(t.Context(), "SELECT count(*) FROM bucketring_changes").Scan(&left))
	if left != 1 {
		t.Errorf("%d changes are listed, want the last one only", left)
	}
	for _, f := range []*Feed{late, prompt} {
		p := load(t, f)
		want(t, p, "acme/alice", "free 1000")
		want(t, p, "acme/bob", "gold 50000")
	}
	if late.full != 2 || prompt.full != 1 {
		t.Errorf("all rows were read %d and %d times, want 2 and 1", late.full, prompt.full)
	}
}

// TestRestoredTables: after a restore everything is read, also if the transactions of the
// list are of another server.
func TestRestoredTables(t *testing.T) {
	d := tablesWith(t, small)
	f := newFeed(t, d)
	load(t, f)
	d.Exec(t, "DROP TABLE bucketring_changes, bucketring_state")
	d.Exec(t, "UPDATE pg_trigger SET tgenabled = 'D' WHERE tgname LIKE 'bucketring%'") // as while a dump is restored
	d.Exec(t, "DELETE FROM bucketring_assignments WHERE key = 'acme/alice'")
	d.Exec(t, Schema())
	d.Exec(t, "INSERT INTO bucketring_changes (xid, tab, keys) VALUES ('99999999', 'bucketring_assignments', '{acme/bob}'); UPDATE bucketring_state SET pruned = '99999990'")
	want(t, load(t, f), "acme/alice", "free 1000")
	load(t, f)
	if f.full != 2 {
		t.Errorf("all rows were read %d times, want twice", f.full)
	}
	d.Exec(t, "UPDATE bucketring_assignments SET tier = 'gold' WHERE key = 'acme/bob'")
	want(t, load(t, f), "acme/bob", "gold 50000")
	f.last.xmax = 1 << 40 // as if transactions were lost
	load(t, f)
	if f.full != 3 {
		t.Errorf("all rows were read %d times, want three times", f.full)
	}
}

// TestBadRow: a row that cannot be used is named, with its column and value, and changes
// nothing; later changes are not lost.
func TestBadRow(t *testing.T) {
	for name, test := range map[string]struct{ sql, want, repair string }{
		"limit": {
			"UPDATE bucketring_limits SET period = 'fortnight' WHERE tier = 'gold'",
			`bucketring_limits, row (tier=gold, name=tokens), column period: tier gold, limit tokens: window must be second, minute, hour, day, week, month, year, or a duration such as 30s, got "fortnight"`,
			"UPDATE bucketring_limits SET period = 'min' WHERE tier = 'gold'",
		},
		"assignment": {
			"INSERT INTO bucketring_assignments VALUES ('acme//x', 'gold')", `bucketring_assignments: key "acme//x" has an empty segment`,
			"DELETE FROM bucketring_assignments WHERE key = 'acme//x'",
		},
		"API key": {
			"INSERT INTO bucketring_api_keys VALUES ('sha256:0123456789ab" + strings.Repeat("0", 52) + "', 'acme//x', NULL)",
			`bucketring_api_keys, row (hash=sha256:0123456789ab), column key: key`, "DELETE FROM bucketring_api_keys",
		},
		"override": {
			"INSERT INTO bucketring_overrides VALUES ('acme/bob', 'tokens', '5', 'soon')",
			`bucketring_overrides, row (key=acme/bob, limit_name=tokens), column until: until must be a date such as 2026-12-24`, "DELETE FROM bucketring_overrides",
		},
		"override of no limit": {
			"INSERT INTO bucketring_overrides VALUES ('acme/bob', 'token', '5', '2026-12-24')",
			`bucketring_overrides: tier free of acme/bob has no limit "token"; did you mean "tokens"?`, "DELETE FROM bucketring_overrides",
		},
		"tier": {
			"UPDATE bucketring_tiers SET zone = 'Mars/Base' WHERE name = 'gold'", `bucketring_tiers, row (name=gold), column zone: zone must be an IANA time zone`,
			"UPDATE bucketring_tiers SET zone = NULL",
		},
		"price": {
			"INSERT INTO bucketring_prices (model, input, output) VALUES ('m', 0.12345678, 1)", `bucketring_prices, row (model=m), column input: the price of "m": input has more than 6 decimals, got "0.12345678"`,
			"DELETE FROM bucketring_prices",
		},
		"model": {
			"INSERT INTO bucketring_models (model, weight_output) VALUES ('a**', 1)", `bucketring_models, row (model=a**): model must not have a double star`,
			"DELETE FROM bucketring_models",
		},
		"setting": {
			"UPDATE bucketring_settings SET value = 'fre'", `bucketring_settings, row (name=default_tier), column value: tier "fre" is not defined; did you mean "free"?`,
			"UPDATE bucketring_settings SET value = 'free'",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := tablesWith(t, small)
			f := newFeed(t, d)
			load(t, f)
			d.Exec(t, test.sql)
			var first *policy.Problem
			for range 2 { // the second load has nothing new to read
				_, err := f.Load(t.Context(), false)
				var problems policy.Problems
				if !errors.As(err, &problems) || !strings.Contains(err.Error(), test.want) {
					t.Fatalf("Load = %v, want %s", err, test.want)
				}
				if first != nil && &problems[0] != first {
					t.Error("an unchanged bad row was read again")
				}
				first = &problems[0]
			}
			d.Exec(t, "UPDATE bucketring_assignments SET tier = 'gold' WHERE key = 'acme/bob'")
			if _, err := f.Load(t.Context(), false); err == nil {
				t.Fatal("a later change hides the bad row")
			}
			d.Exec(t, test.repair)
			p := load(t, f)
			want(t, p, "acme/bob", "gold 50000")
			sameAsWhole(t, d, p)
			if f.full != 1 {
				t.Errorf("all rows were read %d times, want once", f.full)
			}
		})
	}
}

// TestNotification: a change wakes a feed long before its poll, and so does the end of the
// server.
func TestNotification(t *testing.T) {
	d := tablesWith(t, small)
	f, err := New(Options{URL: d.URL, Catalog: limiter.NewCatalog(), Interval: time.Hour})
	check(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { f.Run(ctx); close(done) }()
	f.Wait(ctx) // it listens: changes before that are read now
	load(t, f)
	for i := range 3 {
		d.Exec(t, fmt.Sprintf("UPDATE bucketring_limits SET amount = %d WHERE tier = 'gold'", 10+i))
		deadline, stop := context.WithTimeout(ctx, waittest.Limit)
		f.Wait(deadline)
		if deadline.Err() != nil {
			t.Fatal("no notification")
		}
		stop()
		want(t, load(t, f), "acme/alice", fmt.Sprintf("gold %d", 10+i))
	}
	cancel()
	<-done
	f.Close()
}
