// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"

	"github.com/jackc/pgx/v5"
)

// pending is what changed since the last valid policy.
type pending struct {
	all  bool // read everything
	base bool // read the small tables
	// Rows of the large tables, by the values of their primary keys.
	rows map[string]map[rowKey]struct{}
}

// rowKey has the values of a primary key, of one or two columns.
type rowKey [2]string

// maxPending bounds the rows that are read one by one, and the changes that are read at
// once. If there are more, all rows are read.
const maxPending = 20_000

// read adds the changes since a position, and reports whether there are any.
func (p *pending) read(ctx context.Context, tx pgx.Tx, since position) (changed bool, err error) {
	rows, err := tx.Query(ctx, `SELECT DISTINCT tab, keys FROM bucketring_changes
		WHERE xid >= $1::text::xid8 AND NOT pg_visible_in_snapshot(xid, $2::text::pg_snapshot) AND xid < pg_snapshot_xmax(pg_current_snapshot())
		LIMIT $3`, formatXID(since.xmin), since.snapshot, maxPending+1)
	if err != nil {
		return false, err
	}
	var table string
	var keys []string
	count := 0
	if _, err = pgx.ForEachRow(rows, []any{&table, &keys}, func() error {
		count++
		p.add(table, keys)
		return nil
	}); err != nil {
		return false, err
	}
	p.all = p.all || count > maxPending
	return count > 0, nil
}

// add adds the row of a table with these keys; nil: any row.
func (p *pending) add(table string, keys []string) {
	switch {
	case !isLarge(table):
		p.base = true
	case len(keys) == 0:
		p.all = true
	default:
		if p.rows == nil {
			p.rows = map[string]map[rowKey]struct{}{}
		}
		if p.rows[table] == nil {
			p.rows[table] = map[rowKey]struct{}{}
		}
		var k rowKey
		copy(k[:], keys)
		p.rows[table][k] = struct{}{}
		p.all = p.all || len(p.rows[table]) > maxPending
	}
}
