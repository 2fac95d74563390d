// SPDX-License-Identifier: Apache-2.0

package postgres

import _ "embed" // schema.sql

//go:embed schema.sql
var schema string

// schemaVersion is that of schema.sql.
const schemaVersion = 1

// Schema returns the SQL that makes the tables, with comments. Running it again changes
// no rows.
func Schema() string { return schema }
