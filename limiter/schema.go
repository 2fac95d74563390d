// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"encoding/binary"
	"maps"
	"math"
	"sync/atomic"
)

// Codes of dimensions. All custom dimensions have the code dimCustom.
const (
	dimRequests = iota
	dimTokens
	dimInput
	dimOutput
	dimSpend
	dimConcurrent
	dimCustom
)

func dimensionCode(d Dimension) uint8 {
	for i, b := range BuiltinDimensions {
		if b == d {
			return uint8(i)
		}
	}
	return dimCustom
}

// limit is a compiled Limit. It is immutable except for span.
type limit struct {
	Limit
	id       uint32 // of the definition
	bucketID uint32 // of the dimension and name; limits with the same one share usage
	dim      uint8
	zero     bool // admits no cost: the amount is 0, or the limit is closed
	capacity int64
	window   int64            // ns
	full     wide             // capacity in units x ns
	sub      int64            // length of a sliding window's sub-window, ns
	headroom [Batch + 1]int64 // by class, in units; that of NoPriority is 0
	large    int64            // costs from here on make a decision Large
	span     atomic.Pointer[span]
}

// touchesOutput reports whether the cost depends on the output.
func (l *limit) touchesOutput() bool {
	return l.dim == dimTokens || l.dim == dimOutput || l.dim == dimSpend
}

// schema is the list of limits that a record has buckets for. It is immutable except
// for mappings.
type schema struct {
	id     uint32
	limits []*limit
	// mappings has the mapping of each schema that records have had when this one was
	// wanted, by the id of that schema. It is copied on write, under Catalog.mu.
	mappings atomic.Pointer[map[uint32]*mapping]
}

// find returns the position of the limit with a bucket id, or -1.
func (s *schema) find(bucketID uint32) int {
	for i, l := range s.limits {
		if l.bucketID == bucketID {
			return i
		}
	}
	return -1
}

type bucketKey struct {
	dimension Dimension
	name      string
}

// mapping maps the limits of a wanted schema to positions in the schema of a record. A
// nil mapping in the catalog means that the record must be migrated.
type mapping struct{ positions []uint8 }

// limitLocked returns the compiled limit of a definition. Readers see only the elements
// of the slice that they loaded, so appending to its spare capacity does not affect them.
func (c *Catalog) limitLocked(l Limit) *limit {
	limits := *c.limits.Load()
	identity := l.identity()
	id, ok := c.mu.limitIDs[identity]
	if ok {
		return limits[id]
	}
	k := bucketKey{l.Dimension, l.Name}
	bucketID, ok := c.mu.bucketIDs[k]
	if !ok {
		bucketID = uint32(len(c.mu.bucketIDs))
		c.mu.bucketIDs[k] = bucketID
	}
	n := &limit{Limit: l, id: uint32(len(limits)), bucketID: bucketID, dim: dimensionCode(l.Dimension), zero: l.Amount == 0 || l.Closed, capacity: l.Amount, window: int64(l.Window)}
	if l.Burst != 0 {
		n.capacity = l.Burst
	}
	if l.Algorithm == TokenBucket {
		n.full = mulWide(n.capacity, n.window)
	}
	for _, c := range Priorities {
		n.headroom[c] = l.Headroom.Units(c, n.capacity)
	}
	n.large = max(n.capacity/100+boolInt(n.capacity%100 != 0), 1)
	if l.Async || l.Shadow {
		n.large = math.MaxInt64
	}
	n.sub = (n.window + subWindows - 1) / subWindows
	c.mu.limitIDs[identity] = n.id
	grown := append(limits, n)
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
	grown := append(schemas, s)
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

// mapping returns the positions of want's limits in a record of schema have, or nil if
// one of them is not there and the record must be migrated first.
func (c *Catalog) mapping(have, want *schema) *mapping {
	known := want.mappings.Load()
	if known != nil {
		if m, ok := (*known)[have.id]; ok {
			return m
		}
	}
	m := &mapping{}
	for _, l := range want.limits {
		i := have.find(l.bucketID)
		if i < 0 || have.limits[i] != l {
			m = nil
			break
		}
		m.positions = append(m.positions, uint8(i))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	grown := map[uint32]*mapping{have.id: m}
	if known = want.mappings.Load(); known != nil {
		maps.Copy(grown, *known)
	}
	want.mappings.Store(&grown)
	return m
}
