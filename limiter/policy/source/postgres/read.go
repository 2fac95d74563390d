// SPDX-License-Identifier: Apache-2.0

package postgres

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/bucketring/bucketring/limiter/policy"
)

// readBase reads the small tables.
func readBase(ctx context.Context, tx pgx.Tx) (*policy.Definition, error) {
	d := &policy.Definition{}
	for _, read := range []func(context.Context, pgx.Tx, *policy.Definition) error{readSettings, readTiers, readLimits, readPrices, readModels} {
		if err := read(ctx, tx, d); err != nil {
			return nil, err
		}
	}
	return d, nil
}

// each calls do with the columns of each row, which are texts; NULL is "".
func each(ctx context.Context, tx pgx.Tx, sql string, columns int, do func(c []string) error) error {
	rows, err := tx.Query(ctx, sql)
	if err != nil {
		return err
	}
	values, to := make([]string, columns), make([]any, columns)
	for i := range values {
		to[i] = &values[i]
	}
	_, err = pgx.ForEachRow(rows, to, func() error { return do(values) })
	return err
}

// texts selects columns as texts; NULL is "".
func texts(columns ...string) string {
	list := make([]string, len(columns))
	for i, c := range columns {
		list[i] = "coalesce((" + c + ")::text, '')"
	}
	return "SELECT " + strings.Join(list, ", ")
}

// added are columns that tables of earlier versions lack: there they are NULL.
func added(table string, columns ...string) []string {
	for i, c := range columns {
		columns[i] = "to_jsonb(" + table + ") ->> '" + c + "'"
	}
	return columns
}

func readSettings(ctx context.Context, tx pgx.Tx, d *policy.Definition) error {
	return each(ctx, tx, texts("name", "value")+" FROM bucketring_settings", 2, func(c []string) error {
		switch c[0] {
		case "default_tier":
			d.DefaultTier = c[1]
		case "default_output_tokens":
			d.DefaultOutputTokens = c[1]
		}
		return nil
	})
}

func readTiers(ctx context.Context, tx pgx.Tx, d *policy.Definition) error {
	columns := append([]string{"name", "zone", "estimate", "estimate_output_tokens", "bound_output"}, added("t", "weight", "default_priority", "highest_priority")...)
	return each(ctx, tx, texts(columns...)+" FROM bucketring_tiers t ORDER BY name COLLATE \"C\"", 8, func(c []string) error {
		d.Tiers = append(d.Tiers, policy.TierDefinition{
			Name: c[0], Zone: c[1], Estimate: c[2], EstimateOutput: c[3], BoundOutput: c[4], Weight: c[5], DefaultPriority: c[6], HighestPriority: c[7],
		})
		return nil
	})
}

func readLimits(ctx context.Context, tx pgx.Tx, d *policy.Definition) error {
	tiers := map[string]*policy.TierDefinition{}
	for i := range d.Tiers {
		tiers[d.Tiers[i].Name] = &d.Tiers[i]
	}
	columns := append([]string{
		"tier", "name", "dimension", "trim_scale(amount)", "period", "starts", "trim_scale(burst)", "algorithm", "on_exceed", "mode",
		"unreachable", "durability", "show", "slices", "to_json(models)",
	}, added("l", "max_wait", "max_depth", "headroom_standard", "headroom_batch")...)
	sql := texts(columns...) + " FROM bucketring_limits l ORDER BY tier COLLATE \"C\", name COLLATE \"C\""
	return each(ctx, tx, sql, 19, func(c []string) error {
		t := tiers[c[0]]
		if t == nil {
			return rowProblem("bucketring_limits", []string{c[0], c[1]}, "tier", "tier %q is not defined", c[0])
		}
		l := policy.LimitDefinition{
			Name: c[1], Dimension: c[2], Limit: c[3], Window: c[4], Starts: c[5], Burst: c[6], Algorithm: c[7], OnExceed: c[8], Mode: c[9],
			Unreachable: c[10], Durability: c[11], Show: c[12], Slices: c[13], MaxWait: c[15], MaxDepth: c[16], HeadroomStandard: c[17], HeadroomBatch: c[18],
		}
		if l.Dimension == "spend" {
			l.Limit = "$" + l.Limit
			if l.Burst != "" {
				l.Burst = "$" + l.Burst
			}
		}
		if c[14] != "" {
			if err := json.Unmarshal([]byte(c[14]), &l.Models); err != nil {
				return rowProblem("bucketring_limits", []string{c[0], c[1]}, "models", "models must be a list of texts, got %s", c[14])
			}
		}
		t.Limits = append(t.Limits, l)
		return nil
	})
}

func readPrices(ctx context.Context, tx pgx.Tx, d *policy.Definition) error {
	sql := texts("model", "trim_scale(input)", "trim_scale(cached_input)", "trim_scale(cache_write)", "trim_scale(cache_write_1h)",
		"trim_scale(output)", "trim_scale(request)", "trim_scale(image)", "trim_scale(search)", "service_tiers") + " FROM bucketring_prices ORDER BY model COLLATE \"C\""
	return each(ctx, tx, sql, 10, func(c []string) error {
		p := policy.PriceDefinition{
			Model: c[0], Input: c[1], CachedInput: c[2], CacheWrite: c[3], CacheWrite1h: c[4], Output: c[5], Request: c[6], Image: c[7], Search: c[8],
		}
		if c[9] != "" {
			factors, err := readFactors(c[9])
			if err != nil {
				return rowProblem("bucketring_prices", []string{c[0]}, "service_tiers", `must be an object with numbers, such as {"flex": 0.5}, got %s`, c[9])
			}
			p.ServiceTiers = factors
		}
		d.Prices = append(d.Prices, p)
		return nil
	})
}

// readFactors reads the factors of service tiers, exactly.
func readFactors(text string) (list []policy.FactorDefinition, err error) {
	var factors map[string]json.Number
	decoder := json.NewDecoder(bytes.NewReader([]byte(text)))
	decoder.UseNumber()
	if err := decoder.Decode(&factors); err != nil {
		return nil, err
	}
	for name, factor := range factors {
		list = append(list, policy.FactorDefinition{Name: name, Factor: trimZeros(factor.String())})
	}
	slices.SortFunc(list, func(a, b policy.FactorDefinition) int { return strings.Compare(a.Name, b.Name) })
	return list, nil
}

func trimZeros(number string) string {
	if strings.Contains(number, ".") {
		number = strings.TrimRight(strings.TrimRight(number, "0"), ".")
	}
	return number
}

func readModels(ctx context.Context, tx pgx.Tx, d *policy.Definition) error {
	sql := texts("model", "trim_scale(weight_input)", "trim_scale(weight_cached_input)", "trim_scale(weight_output)", "default_output_tokens", "bound_output") +
		" FROM bucketring_models ORDER BY model COLLATE \"C\""
	return each(ctx, tx, sql, 6, func(c []string) error {
		d.Models = append(d.Models, policy.ModelDefinition{
			Model: c[0], WeightInput: c[1], WeightCachedInput: c[2], WeightOutput: c[3], DefaultOutputTokens: c[4], BoundOutput: c[5],
		})
		return nil
	})
}

// rowProblem is the problem of a row with these values of its primary key.
func rowProblem(table string, keys []string, column, format string, args ...any) error {
	return policy.Problems{{File: rowName(table, keys, column), Message: fmt.Sprintf(format, args...)}}
}

// rowName names a column of a row: bucketring_limits, row (tier=free, name=tokens), column period.
func rowName(table string, keys []string, column string) string {
	names := primaryKey(table)
	parts := make([]string, len(keys))
	for i, k := range keys {
		parts[i] = names[i] + "=" + k
	}
	s := fmt.Sprintf("%s, row (%s)", table, strings.Join(parts, ", "))
	if column != "" {
		s += ", column " + column
	}
	return s
}
