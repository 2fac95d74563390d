// SPDX-License-Identifier: Apache-2.0

package postgres

import "strings"

// table is a table with its columns; the first keys of them are its primary key.
type table struct {
	name    string
	keys    int
	columns []string
}

// tables are those of a policy, such that each comes after those that it refers to.
var tables = []table{
	{"bucketring_settings", 1, []string{"name", "value"}},
	{"bucketring_tiers", 1, []string{"name", "zone", "estimate", "estimate_output_tokens", "bound_output", "weight", "default_priority", "highest_priority"}},
	{"bucketring_limits", 2, []string{
		"tier", "name", "dimension", "amount", "period", "starts", "burst", "algorithm", "on_exceed", "mode", "unreachable", "durability", "show", "slices", "models",
		"max_wait", "max_depth", "headroom_standard", "headroom_batch",
	}},
	{"bucketring_prices", 1, []string{"model", "input", "output", "cached_input", "cache_write", "cache_write_1h", "request", "image", "search", "service_tiers"}},
	{"bucketring_models", 1, []string{"model", "weight_input", "weight_cached_input", "weight_output", "default_output_tokens", "bound_output"}},
	{assignmentsTable, 1, []string{"key", "tier"}},
	{apiKeysTable, 1, []string{"hash", "key", "tier"}},
	{overridesTable, 2, []string{"key", "limit_name", "value", "until", "reason"}},
}

// The large tables.
const (
	assignmentsTable = "bucketring_assignments"
	apiKeysTable     = "bucketring_api_keys"
	overridesTable   = "bucketring_overrides"
)

func isLarge(name string) bool {
	return name == assignmentsTable || name == apiKeysTable || name == overridesTable
}

// primaryKey returns the columns of the primary key of a table.
func primaryKey(name string) []string {
	for _, t := range tables {
		if t.name == name {
			return t.columns[:t.keys]
		}
	}
	return nil
}

// columnOf returns the column that has a key of a policy file.
func columnOf(section, key string) string {
	switch section + " " + key {
	case "limits limit":
		return "amount"
	case "limits window":
		return "period"
	case "tiers mode":
		return "estimate"
	case "tiers output_tokens":
		return "estimate_output_tokens"
	case "limits standard", "limits batch":
		return "headroom_" + key
	case "tiers default", "tiers highest":
		return key + "_priority"
	case "models input", "models cached_input", "models output":
		return "weight_" + key
	}
	return key
}

// tableOf returns the table and the row that have a section of a policy file.
func tableOf(section string, names []string, key string) (table string, keys []string, column string) {
	if section == "" {
		return "bucketring_settings", []string{key}, "value"
	}
	return "bucketring_" + strings.ToLower(section), names, columnOf(section, key)
}
