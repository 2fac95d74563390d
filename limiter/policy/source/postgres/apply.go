// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// apply returns the policy of the tables. Without p.all, it reads only what changed since
// current.
func (p *pending) apply(ctx context.Context, tx pgx.Tx, current *policy.Policy, catalog *limiter.Catalog) (*policy.Policy, error) {
	if p.all {
		current = policy.Default(catalog)
	}
	l := loader{tx: tx, edit: current.Edit(), tiers: map[string]string{}}
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
	return l.apiKeys(ctx, "SELECT hash, key, coalesce(tier, '') FROM bucketring_api_keys")
}

// some reads single rows of the large tables, and removes those that are gone.
func (l *loader) some(ctx context.Context, rows map[string]map[string]struct{}) error {
	keys := slices.Collect(maps.Keys(rows[assignmentsTable]))
	for _, key := range keys {
		l.edit.Unassign(key)
	}
	if len(keys) > 0 {
		if err := l.assign(ctx, "SELECT key, tier FROM bucketring_assignments WHERE key = ANY($1)", keys); err != nil {
			return err
		}
	}
	hashes := slices.Collect(maps.Keys(rows[apiKeysTable]))
	for _, hash := range hashes {
		if isHash(hash) { // others were never set
			l.edit.RemoveAPIKey(hash, policy.Place{Source: apiKeysTable})
		}
	}
	if len(hashes) > 0 {
		return l.apiKeys(ctx, "SELECT hash, key, coalesce(tier, '') FROM bucketring_api_keys WHERE hash = ANY($1)", hashes)
	}
	return nil
}

// rows calls do with the columns of each row, which it must not keep.
func (l *loader) rows(ctx context.Context, do func(columns [][]byte), sql string, args ...any) error {
	rows, err := l.tx.Query(ctx, sql, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		do(rows.RawValues())
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
const shownHash = len("sha256:") + 12

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

// isHash reports whether s is the hash of an API key.
func isHash(s string) bool {
	digits, prefixed := strings.CutPrefix(s, "sha256:")
	sum, err := hex.DecodeString(digits)
	return prefixed && err == nil && len(sum) == sha256.Size
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
