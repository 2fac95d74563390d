// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/bucketring/bucketring/limiter"
	"github.com/bucketring/bucketring/limiter/policy"
)

// Changes are the numbers of rows that an import inserts, updates and deletes.
type Changes struct{ Inserted, Updated, Deleted int64 }

// Import makes the tables have the policy p, in one transaction, and changes only the
// rows that differ. Before it commits, it reads the policy back and compares the digest,
// and calls confirm with the policy that the tables had, nil if they had none that is
// valid. If confirm returns an error, Import changes nothing and returns the error.
// Writers to the tables wait meanwhile; readers do not.
func Import(ctx context.Context, o Options, p *policy.Policy, confirm func(before *policy.Policy, c Changes) error) error {
	config, name, err := parseURL(o.URL, o.Insecure)
	if err != nil {
		return err
	}
	if err := importTo(ctx, config, p, confirm); err != nil {
		return fmt.Errorf("%s: %w", name, advise(err))
	}
	return nil
}

func importTo(ctx context.Context, config *pgx.ConnConfig, p *policy.Policy, confirm func(*policy.Policy, Changes) error) error {
	conn, err := connect(ctx, config)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	tx, err := conn.Begin(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback(ctx) }() // nothing to do after a commit
	if _, err := readPosition(ctx, tx); err != nil {
		return err
	}
	for _, t := range tables {
		if _, err := tx.Exec(ctx, "LOCK TABLE "+t.name+" IN SHARE ROW EXCLUSIVE MODE"); err != nil {
			return err
		}
	}
	everything := pending{all: true}
	before, err := everything.apply(ctx, tx, nil, limiter.NewCatalog())
	if err != nil {
		before = nil // whatever they have is replaced
		if tx.Conn().IsClosed() {
			return err
		}
	}
	changes, err := replace(ctx, tx, p.Definition())
	if err != nil {
		return err
	}
	after, err := everything.apply(ctx, tx, nil, limiter.NewCatalog())
	if err != nil {
		return fmt.Errorf("the tables would have no valid policy: %w", err)
	}
	if after.Digest() != p.Digest() {
		return fmt.Errorf("the tables cannot hold this policy exactly: its digest would be %s, want %s; please report it", after.Digest(), p.Digest())
	}
	if err := confirm(before, changes); err != nil {
		return err
	}
	return tx.Commit(ctx)
}

// replace makes the tables have the rows of a policy.
func replace(ctx context.Context, tx pgx.Tx, d *policy.Definition) (c Changes, err error) {
	for _, t := range tables {
		if err := t.copyRows(ctx, tx, d); err != nil {
			return c, err
		}
		changed, err := tx.Exec(ctx, t.mergeSQL())
		if err != nil {
			return c, err
		}
		var inserted int64
		if err := tx.QueryRow(ctx, "SELECT count(*) FROM pg_temp."+t.staging()+" WHERE NOT known").Scan(&inserted); err != nil {
			return c, err
		}
		c.Inserted += inserted
		c.Updated += changed.RowsAffected() - inserted
	}
	for _, t := range slices.Backward(tables) { // what is referred to goes last
		gone, err := tx.Exec(ctx, t.deleteSQL())
		if err != nil {
			return c, err
		}
		c.Deleted += gone.RowsAffected()
	}
	return c, nil
}

// staging is the name of the temporary table with the rows that a table is to have.
func (t table) staging() string { return t.name + "_new" }

// columnTypes of those that are no texts.
var columnTypes = map[string]string{
	"estimate_output_tokens": "bigint", "weight": "integer", "max_depth": "bigint", "default_output_tokens": "bigint", "bound_output": "boolean", "show": "boolean",
	"amount": "numeric", "burst": "numeric", "models": "text[]", "input": "numeric", "output": "numeric", "cached_input": "numeric",
	"cache_write": "numeric", "cache_write_1h": "numeric", "request": "numeric", "image": "numeric", "search": "numeric",
	"service_tiers": "jsonb", "weight_input": "numeric", "weight_cached_input": "numeric", "weight_output": "numeric",
}

// copyRows makes the temporary table, in which all columns are texts.
func (t table) copyRows(ctx context.Context, tx pgx.Tx, d *policy.Definition) error {
	sql := fmt.Sprintf("CREATE TEMPORARY TABLE %s (%s text, known boolean NOT NULL DEFAULT false) ON COMMIT DROP", t.staging(), strings.Join(t.columns, " text, "))
	if _, err := tx.Exec(ctx, sql); err != nil {
		return err
	}
	rows := make(chan []any, 1024)
	copying, cancel := context.WithCancel(ctx)
	go func() {
		defer close(rows)
		t.rowsOf(d, func(values ...string) bool {
			row := make([]any, len(values))
			for i, v := range values {
				if v != "" {
					row[i] = v
				}
			}
			select {
			case rows <- row:
				return true
			case <-copying.Done():
				return false
			}
		})
	}()
	_, err := tx.CopyFrom(ctx, pgx.Identifier{"pg_temp", t.staging()}, t.columns, pgx.CopyFromFunc(func() ([]any, error) { return <-rows, nil }))
	cancel()
	for range rows { // until it has ended
	}
	if err != nil {
		return fmt.Errorf("copy rows for %s: %w", t.name, err)
	}
	on := t.match()
	if _, err := tx.Exec(ctx, fmt.Sprintf("UPDATE pg_temp.%s n SET known = true FROM %s t WHERE %s", t.staging(), t.name, on)); err != nil {
		return err
	}
	_, err = tx.Exec(ctx, "ANALYZE pg_temp."+t.staging())
	return err
}

// match compares the primary keys of the table t and its staging table n.
func (t table) match() string {
	parts := make([]string, t.keys)
	for i, c := range t.columns[:t.keys] {
		parts[i] = "t." + c + " = n." + c
	}
	return strings.Join(parts, " AND ")
}

// mergeSQL inserts rows that are new and updates those that differ.
func (t table) mergeSQL() string {
	selected, set := make([]string, len(t.columns)), []string{}
	for i, c := range t.columns {
		selected[i] = c + "::" + t.columnType(c)
		if i >= t.keys {
			set = append(set, c+" = excluded."+c)
		}
	}
	all := strings.Join(t.columns, ", ")
	return fmt.Sprintf("INSERT INTO %s AS t (%s) SELECT %s FROM pg_temp.%s ON CONFLICT (%s) DO UPDATE SET %s WHERE (%s) IS DISTINCT FROM (%s)",
		t.name, all, strings.Join(selected, ", "), t.staging(), strings.Join(t.columns[:t.keys], ", "), strings.Join(set, ", "),
		"t."+strings.Join(t.columns, ", t."), "excluded."+strings.Join(t.columns, ", excluded."))
}

func (t table) columnType(column string) string {
	if t.name == "bucketring_tiers" && column == "bound_output" {
		return "boolean" // never NULL: see rowsOf
	}
	if typ, ok := columnTypes[column]; ok {
		return typ
	}
	return "text"
}

// deleteSQL deletes the rows that are not in the staging table.
func (t table) deleteSQL() string {
	return fmt.Sprintf("DELETE FROM %s t WHERE NOT EXISTS (SELECT 1 FROM pg_temp.%s n WHERE %s)", t.name, t.staging(), t.match())
}

// rowsOf yields the rows of a table, until yield returns false.
func (t table) rowsOf(d *policy.Definition, yield func(values ...string) bool) {
	switch t.name {
	case "bucketring_settings":
		for _, s := range [...][2]string{{"default_tier", d.DefaultTier}, {"default_output_tokens", d.DefaultOutputTokens}} {
			if s[1] != "" && !yield(s[0], s[1]) {
				return
			}
		}
	case "bucketring_tiers":
		for _, x := range d.Tiers {
			bound := "false"
			if x.BoundOutput != "" {
				bound = x.BoundOutput
			}
			if !yield(x.Name, x.Zone, x.Estimate, x.EstimateOutput, bound, x.Weight, x.DefaultPriority, x.HighestPriority) {
				return
			}
		}
	case "bucketring_limits":
		limitRows(d, yield)
	case "bucketring_prices":
		for _, x := range d.Prices {
			if !yield(x.Model, x.Input, x.Output, x.CachedInput, x.CacheWrite, x.CacheWrite1h, x.Request, x.Image, x.Search, factorsText(x.ServiceTiers)) {
				return
			}
		}
	case "bucketring_models":
		for _, x := range d.Models {
			if !yield(x.Model, x.WeightInput, x.WeightCachedInput, x.WeightOutput, x.DefaultOutputTokens, x.BoundOutput) {
				return
			}
		}
	case assignmentsTable:
		for key, tier := range d.Assign {
			if !yield(key, tier) {
				return
			}
		}
	case apiKeysTable:
		for k := range d.APIKeys {
			if !yield(k.Hash, k.Key, k.Tier) {
				return
			}
		}
	case overridesTable:
		for o := range d.Overrides {
			if !yield(o.Key, o.Limit, o.Value, o.Until, o.Reason) {
				return
			}
		}
	}
}

func limitRows(d *policy.Definition, yield func(values ...string) bool) {
	for _, t := range d.Tiers {
		for _, l := range t.Limits {
			models := ""
			if len(l.Models) > 0 {
				models = arrayText(l.Models)
			}
			if !yield(t.Name, l.Name, l.Dimension, strings.TrimPrefix(l.Limit, "$"), l.Window, l.Starts, strings.TrimPrefix(l.Burst, "$"),
				l.Algorithm, l.OnExceed, l.Mode, l.Unreachable, l.Durability, l.Show, l.Slices, models,
				l.MaxWait, l.MaxDepth, l.HeadroomStandard, l.HeadroomBatch) {
				return
			}
		}
	}
}

// arrayText writes texts as an array of PostgreSQL.
func arrayText(list []string) string {
	quoted := make([]string, len(list))
	for i, s := range list {
		quoted[i] = `"` + strings.NewReplacer(`\`, `\\`, `"`, `\"`).Replace(s) + `"`
	}
	return "{" + strings.Join(quoted, ",") + "}"
}

func factorsText(factors []policy.FactorDefinition) string {
	if len(factors) == 0 {
		return ""
	}
	m := map[string]json.Number{}
	for _, f := range factors {
		m[f.Name] = json.Number(f.Factor)
	}
	text, err := json.Marshal(m)
	if err != nil {
		return strconv.Quote(err.Error()) // cannot happen: the factors are numbers; the table would refuse it
	}
	return string(text)
}
