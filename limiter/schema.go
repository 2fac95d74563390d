// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"encoding/binary"
	"maps"
	"slices"
	"sync/atomic"
)

// dimension codes; own dimensions share dimOwn and are told apart by name.
const (
	dimRequests = iota
	dimTokens
	dimInput
	dimOutput
	dimSpend
	dimConcurrent
	dimOwn
)

func dimensionCode(d Dimension) uint8 {
	for i, b := range BuiltinDimensions {
		if b == d {
			return uint8(i)
		}
	}
	return dimOwn
}

// limit is a Limit with what deciding needs at hand. Immutable but for span.
type limit struct {
	Limit
	id       uint32 // of this very definition
	slot     uint32 // of its state: dimension and name
	dim      uint8
	zero     bool // takes no cost: the amount is 0, or the limit is closed
	capacity int64
	window   int64 // ns
	full     wide  // capacity in units x ns
	sub      int64 // sliding: length of a sub-window, ns
	span     atomic.Pointer[span]
}

// touchesOutput says whether a smaller output makes a smaller cost.
func (l *limit) touchesOutput() bool {
	return l.dim == dimTokens || l.dim == dimOutput || l.dim == dimSpend
}

// schema is the limits that a record keeps state for, in slot order.
type schema struct {
	id     uint32
	limits []*limit
}

// find returns the position of a slot id, or -1.
func (s *schema) find(slot uint32) int {
	for i, l := range s.limits {
		if l.slot == slot {
			return i
		}
	}
	return -1
}

type slotKey struct {
	dimension Dimension
	name      string
}

type viewKey struct{ have, want uint32 }

// view maps the limits of a wanted schema to positions in the schema that a
// record has. A nil view in the catalog says that the record must change.
type view struct{ pos []uint8 }

func (c *Catalog) limitLocked(l Limit) *limit {
	limits := *c.limits.Load()
	id, ok := c.mu.limitIDs[l.identity()]
	if ok {
		return limits[id]
	}
	k := slotKey{l.Dimension, l.Name}
	slot, ok := c.mu.slotIDs[k]
	if !ok {
		slot = uint32(len(c.mu.slotIDs))
		c.mu.slotIDs[k] = slot
	}
	n := &limit{Limit: l, id: uint32(len(limits)), slot: slot, dim: dimensionCode(l.Dimension), zero: l.Amount == 0 || l.Closed, capacity: l.Amount, window: int64(l.Window)}
	if l.Burst != 0 {
		n.capacity = l.Burst
	}
	if l.Algorithm == TokenBucket {
		n.full = mulWide(n.capacity, n.window)
	}
	n.sub = (n.window + subWindows - 1) / subWindows
	c.mu.limitIDs[l.identity()] = n.id
	grown := append(slices.Clip(limits), n)
	c.limits.Store(&grown)
	return n
}

func (c *Catalog) schemaLocked(limits []*limit) *schema {
	var key []byte
	for _, l := range limits {
		key = binary.LittleEndian.AppendUint32(key, l.id)
	}
	schemas := *c.schemas.Load()
	id, ok := c.mu.schemaIDs[string(key)]
	if ok {
		return schemas[id]
	}
	s := &schema{id: uint32(len(schemas)), limits: limits}
	c.mu.schemaIDs[string(key)] = s.id
	grown := append(slices.Clip(schemas), s)
	c.schemas.Store(&grown)
	return s
}

func (c *Catalog) limit(id uint32) *limit   { return (*c.limits.Load())[id] }
func (c *Catalog) schema(id uint32) *schema { return (*c.schemas.Load())[id] }

func (c *Catalog) schemaOf(limits []*limit) *schema {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.schemaLocked(limits)
}

// view returns how want reads from a record that has have, or nil if the
// record lacks one of the limits and must change first.
func (c *Catalog) view(have, want *schema) *view {
	k := viewKey{have.id, want.id}
	if v, ok := (*c.views.Load())[k]; ok {
		return v
	}
	v := &view{}
	for _, l := range want.limits {
		i := have.find(l.slot)
		if i < 0 || have.limits[i] != l {
			v = nil
			break
		}
		v.pos = append(v.pos, uint8(i))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	grown := maps.Clone(*c.views.Load())
	grown[k] = v
	c.views.Store(&grown)
	return v
}

// tierNames numbers the names of tiers, which remembered answers repeat.
type tierNames struct {
	ids   map[string]uint32
	names []string
}

func (c *Catalog) tierID(name string) uint32 {
	if id, ok := c.tiers.Load().ids[name]; ok {
		return id
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	old := c.tiers.Load()
	if id, ok := old.ids[name]; ok {
		return id
	}
	grown := &tierNames{ids: maps.Clone(old.ids), names: append(slices.Clip(old.names), name)}
	grown.ids[name] = uint32(len(old.names))
	c.tiers.Store(grown)
	return grown.ids[name]
}

func (c *Catalog) tierName(id uint32) string { return c.tiers.Load().names[id] }
