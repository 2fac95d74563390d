// SPDX-License-Identifier: Apache-2.0

package limiter

type limit struct{ Limit }
type schema struct{}
type slotKey struct {
	dimension Dimension
	name      string
}
type viewKey struct{ have, want uint32 }
type view struct{}

func (c *Catalog) limitLocked(l Limit) *limit           { return &limit{l} }
func (c *Catalog) schemaLocked(limits []*limit) *schema { return &schema{} }
