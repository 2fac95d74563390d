// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/bucketring/bucketring/internal/pause"
	"github.com/bucketring/bucketring/internal/secret"
	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// apply returns the policy of the tables. Without p.all, it reads only what changed since
// current.
func (p *pending) apply(ctx context.Context, tx pgx.Tx, current *policy.Policy, catalog *limiter.Catalog) (*policy.Policy, error) {
	spare := current != nil // there are calls
	if p.all {
		current = policy.Default(catalog)
	}
	l := loader{tx: tx, edit: current.Edit(), tiers: map[string]string{}, spare: spare}
	if p.all {
		l.edit.Clear()
	}
	if p.all || p.base {
		if err := l.base(ctx); err != nil {
			return nil, err
		}
	}
	if p.all {
		return l.finish(l.all(ctx))
	}
	return l.finish(l.some(ctx, p.rows))
}

// loader puts rows into a policy.
type loader struct {
	tx       pgx.Tx
	edit     *policy.Edit
	cells    map[int]policy.Cell // by line of the base
	problems policy.Problems     // of rows that the policy cannot describe
	tiers    map[string]string   // each name once
	spare    bool                // rest half of the time, for what else the process does
}

// baseName is the name of the file that is made of the small tables.
const baseName = "the tables"

func (l *loader) base(ctx context.Context) error {
	d, err := readBase(ctx, l.tx)
	if err != nil {
		return err
	}
	var text bytes.Buffer
	l.cells = map[int]policy.Cell{}
	if err := d.WriteYAML(&text, func(line int, c policy.Cell) { l.cells[line] = c }); err != nil {
		return err
	}
	l.edit.SetBase([]policy.File{{Name: baseName, Source: text.Bytes()}})
	return nil
}

// all reads the large tables.
func (l *loader) all(ctx context.Context) error {
	if err := l.assign(ctx, "SELECT key, tier FROM bucketring_assignments"); err != nil {
		return err
	}
	if err := l.apiKeys(ctx, "SELECT hash, key, coalesce(tier, '') FROM bucketring_api_keys"); err != nil {
		return err
	}
	return l.overrides(ctx, "SELECT key, limit_name, value, until, coalesce(reason, '') FROM bucketring_overrides")
}

// some reads single rows of the large tables, and removes those that are gone.
func (l *loader) some(ctx context.Context, rows map[string]map[rowKey]struct{}) error {
	if keys := firstColumns(rows[assignmentsTable]); len(keys) > 0 {
		for _, key := range keys {
			l.edit.Unassign(key)
		}
		if err := l.assign(ctx, "SELECT key, tier FROM bucketring_assignments WHERE key = ANY($1)", keys); err != nil {
			return err
		}
	}
	if hashes := firstColumns(rows[apiKeysTable]); len(hashes) > 0 {
		for _, hash := range hashes {
			if _, ok := secret.Parse(hash); ok { // others were never set
				l.edit.RemoveAPIKey(hash, policy.Place{Source: apiKeysTable})
			}
		}
		if err := l.apiKeys(ctx, "SELECT hash, key, coalesce(tier, '') FROM bucketring_api_keys WHERE hash = ANY($1)", hashes); err != nil {
			return err
		}
	}
	if changed := rows[overridesTable]; len(changed) > 0 {
		keys, limits := make([]string, 0, len(changed)), make([]string, 0, len(changed))
		for k := range changed {
			l.edit.RemoveOverride(k[0], k[1])
			keys, limits = append(keys, k[0]), append(limits, k[1])
		}
		return l.overrides(ctx, `SELECT key, limit_name, value, until, coalesce(reason, '') FROM bucketring_overrides
			WHERE (key, limit_name) IN (SELECT * FROM unnest($1::text[], $2::text[]))`, keys, limits)
	}
	return nil
}

func firstColumns(rows map[rowKey]struct{}) []string {
	list := make([]string, 0, len(rows))
	for k := range rows {
		list = append(list, k[0])
	}
	return list
}

// pauseAfter is the number of rows that are read at once while there are calls: about half
// a millisecond.
const pauseAfter = 512

// rows calls do with the columns of each row, which it must not keep.
func (l *loader) rows(ctx context.Context, do func(columns [][]byte), sql string, args ...any) error {
	rows, err := l.tx.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	half := pause.Half()
	for n := 1; rows.Next(); n++ {
		do(rows.RawValues())
		if l.spare && n%pauseAfter == 0 {
			half()
		}
	}
	return rows.Err()
}

// tier returns the name of a tier.
func (l *loader) tier(b []byte) string {
	name, known := l.tiers[string(b)]
	if !known {
		name = string(b)
		l.tiers[name] = name
	}
	return name
}

func (l *loader) assign(ctx context.Context, sql string, args ...any) error {
	return l.rows(ctx, func(c [][]byte) {
		l.edit.Assign(policy.Assignment{Key: string(c[0]), Tier: l.tier(c[1]), At: policy.Place{Source: assignmentsTable}})
	}, sql, args...)
}

// shownHash is how many bytes of a hash are shown: enough to find the row.
const shownHash = len(secret.Prefix) + 12

func (l *loader) apiKeys(ctx context.Context, sql string, args ...any) error {
	return l.rows(ctx, func(c [][]byte) {
		k := policy.APIKey{Hash: string(c[0]), Key: string(c[1]), Tier: l.tier(c[2]), At: policy.Place{Source: apiKeysTable}}
		hash := k.Hash[:min(len(k.Hash), shownHash)]
		if err := limiter.ValidateKey(k.Key); err != nil { // the policy's problem would not say which
			l.problems = append(l.problems, policy.Problem{
				File: rowName(apiKeysTable, []string{hash}, "key"), Message: fmt.Sprintf("key %v, got %q", err, k.Key),
			})
			return
		}
		l.edit.SetAPIKey(k)
	}, sql, args...)
}

// overrides reads overrides. Of problems that the policy would report without the key it
// finds those that the table lets pass.
func (l *loader) overrides(ctx context.Context, sql string, args ...any) error {
	return l.rows(ctx, func(c [][]byte) {
		o := policy.Override{
			Key: string(c[0]), Limit: string(c[1]), Value: string(c[2]), Until: string(c[3]), Reason: string(c[4]), At: policy.Place{Source: overridesTable},
		}
		bad := func(column, format string, args ...any) {
			l.problems = append(l.problems, policy.Problem{File: rowName(overridesTable, []string{o.Key, o.Limit}, column), Message: fmt.Sprintf(format, args...)})
		}
		if err := limiter.ValidateKey(o.Key); err != nil || strings.Contains(o.Key, "*") {
			bad("key", "key must be one key, such as acme/alice, got %q", o.Key)
			return
		}
		until, err := time.Parse(time.DateOnly, o.Until)
		if err != nil {
			until, err = time.Parse(time.RFC3339, o.Until)
		}
		if err != nil || until.Year() < 2001 || until.Year() > 2199 {
			bad("until", "until must be a date such as 2026-12-24, at whose beginning it ends, or a time such as 2026-12-24T18:00:00Z, got %q", o.Until)
			return
		}
		l.edit.SetOverride(o)
	}, sql, args...)
}

// finish returns the policy, or its problems with the names of the rows.
func (l *loader) finish(err error) (*policy.Policy, error) {
	if err != nil {
		return nil, err
	}
	p, err := l.edit.Policy()
	var problems policy.Problems
	if err != nil && !errors.As(err, &problems) {
		return nil, err
	}
	for i := range problems {
		problems[i] = l.named(problems[i])
	}
	if problems = append(l.problems, problems...); len(problems) > 0 {
		return nil, problems
	}
	return p, nil
}

// named returns a problem with its row instead of its line.
func (l *loader) named(p policy.Problem) policy.Problem {
	if p.File != baseName {
		return p
	}
	c, known := l.cells[p.Line]
	p.Line, p.Column, p.Excerpt, p.Caret = 0, 0, "", 0
	if known {
		p.File = rowName(tableOf(c.Section, c.Names, c.Key))
	}
	return p
}
