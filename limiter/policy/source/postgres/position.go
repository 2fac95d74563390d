// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"
)

// position says which transactions a load saw.
type position struct {
	lineage  string // of the server; "": nothing was loaded
	snapshot string // pg_snapshot
	xmin     uint64 // every transaction before it was seen
	xmax     uint64 // no transaction from it on was seen
	pruned   uint64 // the last transaction whose changes are no longer listed; 0: none
}

// minServer is the first version with pg_snapshot.
const minServer = 130000

// readPosition returns the position of the snapshot of tx, without its lineage.
func readPosition(ctx context.Context, tx pgx.Tx) (p position, err error) {
	var server, version int
	var standby, tables bool
	if err := tx.QueryRow(ctx, `SELECT current_setting('server_version_num')::int, pg_is_in_recovery(), to_regclass('bucketring_state') IS NOT NULL`).
		Scan(&server, &standby, &tables); err != nil {
		return p, err
	}
	switch {
	case server < minServer:
		return p, fmt.Errorf("the server is PostgreSQL %d: version 13 or later is needed", server/10000)
	case !tables:
		return p, errNoTables
	}
	var xmin, xmax, pruned string
	if err := tx.QueryRow(ctx, `SELECT version, pruned::text, s::text, pg_snapshot_xmin(s)::text, pg_snapshot_xmax(s)::text
		FROM bucketring_state, pg_current_snapshot() s`).Scan(&version, &pruned, &p.snapshot, &xmin, &xmax); err != nil {
		return p, err
	}
	if version != schemaVersion {
		return p, fmt.Errorf("the tables have version %d, and this program needs %d: run: bucketring policy sql | psql", version, schemaVersion)
	}
	for _, v := range []struct {
		text string
		to   *uint64
	}{{xmin, &p.xmin}, {xmax, &p.xmax}, {pruned, &p.pruned}} {
		if *v.to, err = strconv.ParseUint(v.text, 10, 64); err != nil {
			return p, fmt.Errorf("read a transaction id: %w", err)
		}
	}
	if standby {
		// The snapshot of a standby does not list what is in progress.
		p.snapshot = fmt.Sprintf("%d:%d:", p.xmin, p.xmin)
	}
	return p, nil
}

// readLineage returns what changes when transactions may have been lost: the server, its
// timeline after a failover or a restore, the database, and the tables. If that cannot be
// known, each connection has a lineage of its own.
func readLineage(ctx context.Context, conn *pgx.Conn) string {
	var s string
	err := conn.QueryRow(ctx, `SELECT concat_ws(' ', system_identifier,
		CASE WHEN pg_is_in_recovery() THEN 'standby' ELSE left(pg_walfile_name(pg_current_wal_lsn()), 8) END,
		(SELECT oid FROM pg_database WHERE datname = current_database()), to_regclass('bucketring_state')::oid)
		FROM pg_control_system()`).Scan(&s)
	if err != nil || strings.Contains(s, "standby") {
		return fmt.Sprintf("connection %p %d %s", conn, conn.PgConn().PID(), s)
	}
	return s
}

// follows reports whether all changes between last and p are listed.
func (p position) follows(last position) bool {
	// After a restore from a dump, pruned may be a transaction of another server, which
	// this one has not reached.
	lost := p.pruned >= last.xmin && p.pruned < p.xmax && p.pruned > 0
	return last.lineage != "" && last.lineage == p.lineage && p.xmax >= last.xmax && !lost
}
