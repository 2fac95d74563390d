// SPDX-License-Identifier: Apache-2.0

package limiter

// Snapshots and messages of changes are lists of items. Each begins with its tag. Limits,
// schemas and tiers are written before the first item that refers to them, by their ids in
// the catalog; tiers by their number in the list.
const (
	tagEnd       = iota // the last item
	tagLimit            // id, definition
	tagSchema           // id, ids of its limits
	tagTier             // number, name
	tagRecord           // see record; in a message of changes after its length and pins
	tagID               // length, see entry
	tagPartition        // of a message: number, after, through, length of its items
	tagRemoved          // of a message: root and key of an id
)

// Where the start of a limit's windows is in the number of its calendar.
const (
	startDayBits    = 3
	startMinuteBits = 8
)

// slicesShift is where Slices is in the number of a limit's flags.
const slicesShift = 2

// waitFlag is set in the number of a limit's flags if its headroom and queue follow. Versions
// that know none cannot have the policy that sets them.
const waitFlag = 1 << 4

// stateEncoder writes items with the state of a partition. Times are relative to now.
type stateEncoder struct {
	encoder
	p   *partition
	now Time

	chunked     bool
	full        [][]byte // full chunks, which come before the encoder's
	separate    bool
	definitions encoder // of limits, schemas and tiers, if they are separate

	limits  bitset // definitions that are written, by id
	schemas bitset
	tiers   map[string]uint64 // numbers of the names that are written
	name    []byte            // scratch space
}

// define begins a definition.
func (s *stateEncoder) define(tag uint64) *encoder {
	if s.separate {
		s.definitions.uint(tag)
		return &s.definitions
	}
	s.item(tag)
	return &s.encoder
}

// item begins an item. In a snapshot it begins a new chunk if the last one is full.
func (s *stateEncoder) item(tag uint64) {
	if s.chunked && len(s.buf) >= snapshotChunk {
		s.full = append(s.full, s.buf)
		s.buf = newChunk()
	}
	s.uint(tag)
}

// useLimit writes the definition of a limit, if it is not written yet.
func (s *stateEncoder) useLimit(l *limit) {
	if s.limits.set(l.id) {
		return
	}
	d := s.define(tagLimit)
	d.uint(uint64(l.id))
	d.string(l.Name)
	d.string(string(l.Dimension))
	zone := ""
	if l.Zone != nil {
		zone = l.Zone.String()
	}
	d.string(zone)
	d.uint(uint64(l.Algorithm))
	d.int(l.Amount)
	d.int(int64(l.Window))
	// Without a start, the number is that of versions that know no starts.
	d.uint(uint64(l.Calendar) | uint64(l.StartDay)<<startDayBits | uint64(l.StartMinute)<<startMinuteBits)
	d.int(l.Burst)
	d.bool(l.Shadow)
	d.bool(l.Degrade)
	d.uint(uint64(l.Unreachable))
	d.bool(l.Closed)
	d.int(l.FullCapacity)
	// One number, which earlier versions read if nothing is hidden, or lent in another way.
	flags := uint64(boolInt(l.Async) | boolInt(l.Hidden)<<1 | int64(l.Slices)<<slicesShift)
	if l.Headroom == (Headroom{}) && l.Queue == (Queue{}) {
		d.uint(flags)
		return
	}
	d.uint(flags | waitFlag)
	for _, n := range [...]int64{l.Headroom.Standard, l.Headroom.Batch, int64(l.Queue.MaxWait), l.Queue.MaxDepth} {
		d.int(n)
	}
}

func (s *stateEncoder) useSchema(of *schema) {
	if s.schemas.set(of.id) {
		return
	}
	for _, l := range of.limits {
		s.useLimit(l)
	}
	d := s.define(tagSchema)
	d.uint(uint64(of.id))
	d.uint(uint64(len(of.limits)))
	for _, l := range of.limits {
		d.uint(uint64(l.id))
	}
}

// useTier writes the name of the tier of terms, and that of their rates, with a number, if
// they are not written yet. It returns the number.
func (s *stateEncoder) useTier(t *terms) uint64 {
	s.name = t.appendNames(s.name[:0])
	if number, ok := s.tiers[string(s.name)]; ok {
		return number
	}
	name, number := string(s.name), uint64(len(s.tiers))
	s.tiers[name] = number
	d := s.define(tagTier)
	d.uint(number)
	d.string(name)
	return number
}

// namesEnd separates the names of a tier and of rates. No name has it.
const namesEnd = "\x00"

// appendNames appends the names of the tier and of the rates, in one text. Without the latter,
// it is that of versions that know none.
func (t *terms) appendNames(b []byte) []byte {
	b = append(b, t.tier...)
	if t.Name != "" && len(t.tier)+1+len(t.Name) <= maxNameBytes {
		b = append(append(b, namesEnd...), t.Name...)
	}
	return b
}

// record writes a record after the tag of its item. It must have been advanced to s.now,
// and its schema be defined. Charges refer to it by its handle.
func (s *stateEncoder) record(rec *record) {
	p := s.p
	of := p.engine.catalog.schema(rec.schema)
	s.uint(uint64(rec.length))
	s.buf = p.appendName(s.buf, rec)
	s.bool(rec.flags&recordDenied != 0)
	s.uint(uint64(rec.handle))
	s.uint(uint64(of.id))
	for i, l := range of.limits {
		b := *p.bucketAt(rec, i)
		switch l.Algorithm {
		case TokenBucket:
			s.wide(b.level())
			s.timeline(p.timelineOf(rec, i))
		case SlidingWindow:
			s.ring(l, p.ringOf(l, b, s.now))
		case FixedWindow:
			s.int(b.hi)
			s.int(int64(b.lo))
		case counter:
			s.int(b.hi)
			s.int(int64(b.lo))
			s.uint(counterLimitOf(rec))
		default:
			s.int(int64(b.lo))
		}
	}
}

// age returns how long ago sub-window k ended, or 0 for the current one.
func (s *stateEncoder) age(l *limit, k int64) int64 {
	return max(0, s.now.Mono-((k+1)*l.sub-1))
}

func (s *stateEncoder) ring(l *limit, r *ring) {
	if r == nil {
		s.uint(0)
		return
	}
	n := uint64(0)
	for _, c := range r.counts {
		if c != 0 {
			n++
		}
	}
	s.uint(n)
	for k := r.head - subWindows; k <= r.head; k++ {
		if c := *r.count(k); c != 0 {
			s.int(s.age(l, k))
			s.int(c)
		}
	}
}

func (s *stateEncoder) timeline(t *timeline) {
	if t == nil {
		s.uint(0)
		return
	}
	if !t.many { // as makeMany would make it
		s.uint(1)
		s.wide(wide{})
		s.wide(wasteOf(t.low))
		s.uint(firstMark + 1)
		s.uint(firstMark / blockSize)
		s.uint(1)
		s.uint(0)
		s.wide(t.low)
		return
	}
	m := t.more
	s.uint(uint64(len(m.blocks)))
	s.wide(m.base)
	s.wide(m.waste)
	s.uint(uint64(m.next))
	for i := range m.blocks {
		b := &m.blocks[i]
		s.uint(uint64(b.seq))
		s.uint(uint64(b.n))
		s.uint(uint64(b.dead))
		for _, low := range b.low[:b.n] {
			if low.hi != maxWide.hi {
				low = low.add(b.pending)
			}
			s.wide(low)
		}
	}
}
