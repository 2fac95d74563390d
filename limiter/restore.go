// SPDX-License-Identifier: Apache-2.0

package limiter

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"

	"github.com/cespare/xxhash/v2"
)

// Restore replaces the state of a partition by that of a snapshot, as if the snapshot
// had been taken at now. To account for time that has passed since, pass an earlier
// time, as in now.Add(-downtime). zone loads the time zones that limits name. If data
// is invalid, Restore returns an error and changes nothing.
func (e *Engine) Restore(now Time, partition int, data []byte, zone func(string) (*time.Location, error)) error {
	fresh, err := e.decode(now, partition, data, zone)
	if err != nil {
		return err
	}
	s := &e.shards[partition]
	s.Lock()
	defer s.Unlock()
	s.mono = max(now.Mono, s.mono)
	s.replace(fresh, partition)
	s.seq = max(s.seq, fresh.seq) + uint64(boolInt(s.records.tracked))
	s.forgetAllChanges()
	return nil
}

// restorer builds a partition from a snapshot, or changes one as a message of changes says.
type restorer struct {
	decoder
	*definitions
	p         *partition
	now       Time
	partition int
	changes   *changeSet // nil for a snapshot
	buckets   []bucket   // of the record that is being read, for reuse
	timelines []timeline
	ids       []decoder // of id entries, which are read last
	marks     int       // in all timelines
	claims    map[claim]bool
}

// definitions are what items refer to, by their ids in the snapshot or message.
type definitions struct {
	catalog *Catalog
	limits  map[uint64]*limit
	schemas map[uint64]*schema
	tiers   map[uint64]string
}

func newDefinitions(c *Catalog) *definitions {
	return &definitions{c, map[uint64]*limit{}, map[uint64]*schema{}, map[uint64]string{}}
}

// claim identifies the mark of a charge to a token bucket.
type claim struct {
	handle uint32
	pos    int
	mark   int64
}

func (e *Engine) decode(now Time, number int, data []byte, zone func(string) (*time.Location, error)) (*partition, error) {
	body, err := checkFrame(data, snapshotMagic, "snapshot")
	if err != nil {
		return nil, err
	}
	fresh := newPartition(e)
	d := newRestorer(&fresh, now, number, body)
	for d.item(zone) {
	}
	d.entries()
	if d.marks != len(d.claims) {
		d.fail("timelines have %d marks for %d charges", d.marks, len(d.claims))
	}
	if len(d.buf) > 0 {
		d.fail("%d bytes of trailing data", len(d.buf))
	}
	return d.p, d.err
}

// checkFrame returns what is between the magic and the checksum of a snapshot or message.
func checkFrame(data []byte, magic, what string) (body []byte, err error) {
	if len(data) < len(magic)+8 || string(data[:len(magic)]) != magic {
		return nil, fmt.Errorf("%s: not a %s of this version (%d bytes)", what, what, len(data))
	}
	body = data[:len(data)-8]
	sum := decoder{buf: data[len(body):]}
	if got := sum.fixed(); got != xxhash.Sum64(body) {
		return nil, fmt.Errorf("%s: wrong checksum: the data is corrupt", what)
	}
	return body[len(magic):], nil
}

func newRestorer(p *partition, now Time, number int, body []byte) *restorer {
	d := &restorer{
		decoder: decoder{buf: body, size: len(snapshotMagic) + len(body), what: "snapshot"}, now: now, partition: number, p: p,
		definitions: newDefinitions(p.engine.catalog), claims: map[claim]bool{},
	}
	p.seq = d.uint()
	return d
}

// item reads an item, and returns whether there are more.
func (d *restorer) item(zone func(string) (*time.Location, error)) bool {
	switch d.upTo(tagID, "item") {
	case tagLimit:
		d.limit(zone)
	case tagSchema:
		d.schema()
	case tagTier:
		id := d.uint()
		d.tiers[id] = d.string("tier")
	case tagRecord:
		d.record()
	case tagID:
		d.ids = append(d.ids, d.part())
	default:
		return false
	}
	return d.err == nil
}

func (d *restorer) limit(zone func(string) (*time.Location, error)) {
	id := d.uint()
	l := Limit{Name: d.string("name"), Dimension: Dimension(d.string("dimension"))}
	if name := d.string("zone"); name != "" && d.err == nil {
		z, err := zone(name)
		if err != nil {
			d.fail("zone %q: %w", name, err)
			return
		}
		l.Zone = z
	}
	l.Algorithm = Algorithm(d.upTo(uint64(counter), "algorithm"))
	l.Amount, l.Window = d.int(), time.Duration(d.int())
	calendar := d.upTo(1<<(startMinuteBits+11)-1, "calendar")
	l.Calendar = Calendar(calendar % (1 << startDayBits))
	l.StartDay = int(calendar >> startDayBits % (1 << (startMinuteBits - startDayBits)))
	l.StartMinute = int(calendar >> startMinuteBits)
	l.Burst, l.Shadow, l.Degrade = d.int(), d.bool(), d.bool()
	l.Unreachable = Unreachable(d.upTo(uint64(Open), "unreachable"))
	l.Closed, l.FullCapacity = d.bool(), d.int()
	flags := d.upTo(waitFlag|uint64(SlicesOff)<<slicesShift|3, "flags of a limit")
	if flags&waitFlag != 0 {
		flags &^= waitFlag
		l.Headroom, l.Queue = Headroom{d.int(), d.int()}, Queue{time.Duration(d.int()), d.int()}
	}
	l.Async, l.Hidden, l.Slices = flags&1 != 0, flags&2 != 0, Slices(flags>>slicesShift)
	switch {
	case d.err != nil:
		return
	case l.Algorithm == counter:
		if l != counterLimit {
			d.fail("limit %q: not the definition of counters", l.Name)
		}
		d.limits[id] = d.catalog.counter.limits[0]
		return
	}
	if problems := l.validate(); problems != nil {
		d.fail("%w", problems[0])
		return
	}
	d.catalog.mu.Lock()
	defer d.catalog.mu.Unlock()
	d.limits[id] = d.catalog.limitLocked(l)
}

// limitRef reads a reference to a limit.
func (d *restorer) limitRef() *limit {
	id := d.uint()
	l := d.limits[id]
	if l == nil {
		d.fail("limit %d is not defined", id)
	}
	return l
}

// schema reads the limits of records.
func (d *restorer) schema() {
	id := d.uint()
	var of schema
	for range d.upTo(4*maxLimits, "limits of a record") {
		l := d.limitRef()
		if d.err != nil {
			return
		}
		if of.find(l.bucketID) >= 0 {
			d.fail("schema %d: has limit %q twice", id, l.Name)
			return
		}
		of.limits = append(of.limits, l)
	}
	if d.err == nil {
		d.schemas[id] = d.catalog.schemaOf(of.limits)
	}
}

// maxHandle bounds handles, so that invalid ones take little memory.
const maxHandle = 1 << 26

// record reads a record. In a message of changes it may replace one.
func (d *restorer) record() {
	pins := uint32(0)
	if d.changes != nil {
		pins = uint32(d.upTo(math.MaxUint32, "pins"))
	}
	name := d.bytes(maxName, "name")
	denied := d.bool()
	end := bytes.IndexByte(name, 0)
	hasModel := end >= 0
	if !hasModel {
		end = len(name)
	}
	scope, model := string(name[:end]), string(name[min(end+1, len(name)):])
	if d.err == nil && (scope == "" || PartitionOf(scope) != d.partition) {
		d.fail("record %q: name is empty or of another partition", name)
	}
	if hasModel && model == "" {
		d.fail("record %q: model is empty", name) // find would not return it
	}
	handle := uint32(d.upTo(maxHandle, "handle"))
	schemaID := d.uint()
	of := d.schemas[schemaID]
	switch {
	case d.err != nil:
	case of == nil:
		d.fail("record %q: schema %d is not defined", name, schemaID)
	case handle == 0 && d.changes != nil:
		d.fail("record %q: it has no handle", name)
	case !d.validLimits(model, of.limits):
		d.fail("record %q: limits and name do not match", name)
	}
	if d.err != nil {
		return
	}
	d.recordBuckets(of)
	limitOfCounter := uint64(0)
	if of == d.catalog.counter {
		limitOfCounter = d.upTo(MaxAmount, "limit of a counter")
	}
	if d.err != nil {
		return
	}
	recordID, rec := d.place(name, scope, model, of, handle, pins)
	if rec == nil {
		return
	}
	if rec.flags &^= recordDenied; denied {
		rec.flags |= recordDenied
	}
	for i := range d.buckets {
		*d.p.bucketAt(rec, i) = d.buckets[i]
		d.marks += int(d.timelines[i].live)
	}
	if of == d.catalog.counter {
		rec.buckets[1].lo = limitOfCounter
	}
	d.p.copyTimelines(rec, d.timelines)
	if handle != 0 && rec.handle == 0 {
		rec.handle = handle
		d.p.handleTaken(handle)
		*d.p.handles.allocAt(handle) = recordID
	}
}

// recordBuckets reads the buckets and timelines of a record.
func (d *restorer) recordBuckets(of *schema) {
	d.buckets, d.timelines = slices.Grow(d.buckets[:0], len(of.limits)), slices.Grow(d.timelines[:0], len(of.limits))
	for _, l := range of.limits {
		var t timeline
		d.buckets = append(d.buckets, d.bucket(l, &t))
		d.timelines = append(d.timelines, t)
	}
}

// place returns the record of a name, with buckets to be filled. It returns nil if there is
// no room for it.
func (d *restorer) place(name []byte, scope, model string, of *schema, handle, pins uint32) (uint32, *record) {
	recordID, rec := d.p.find(scope, model)
	switch {
	case d.changes != nil:
		return d.replaceRecord(recordID, rec, name, scope, model, of, handle, pins)
	case rec != nil:
		d.fail("record %q: name is repeated", name)
		return 0, nil
	case d.p.handles.has(handle):
		d.fail("record %q: its handle is that of another", name)
		return 0, nil
	}
	return d.insertRecord(name, scope, model, of)
}

func (d *restorer) insertRecord(name []byte, scope, model string, of *schema) (uint32, *record) {
	recordID, rec := d.p.insert(name, d.p.hashName(scope, model), of, d.now)
	if rec == nil {
		d.fail("record %q: no room in its table", name)
	}
	return recordID, rec
}

// validLimits reports whether a record may have these limits. Counters have the limit of
// counters only, and other records do not have it.
func (d *restorer) validLimits(model string, limits []*limit) bool {
	counterLimits := d.catalog.counter.limits
	if strings.HasPrefix(model, counterMark) {
		return slices.Equal(limits, counterLimits)
	}
	return !slices.Contains(limits, counterLimits[0])
}

func (d *restorer) bucket(l *limit, t *timeline) (b bucket) {
	switch l.Algorithm {
	case TokenBucket:
		b.setLevel(d.wide())
		if b.hi < 0 || b.hi > maxLevel { // maxWide is not the level of a bucket
			d.fail("level of %q is out of range", l.Name)
		}
		d.timeline(t)
	case SlidingWindow:
		d.ring(l, &b)
	case FixedWindow, counter:
		b.hi, b.lo = d.int(), uint64(d.natural("used"))
		if l.Algorithm == counter && b.lo > math.MaxInt64/2 {
			d.fail("count of a counter is out of range")
		}
	default:
		b.lo = uint64(d.natural("leases"))
	}
	return b
}

// subWindow returns the sub-window of l that ended age nanoseconds ago.
func (d *restorer) subWindow(l *limit, age int64) int64 {
	if age < 0 || age > int64(2*maxWindow) {
		d.fail("age %d is out of range", age)
		return 0
	}
	return floorDiv(d.now.Mono-age, l.sub)
}

func (d *restorer) ring(l *limit, b *bucket) {
	n := d.upTo(subWindows+1, "sub-windows")
	if n == 0 || d.err != nil {
		return
	}
	r := d.p.ensureRing(l, b, d.now)
	for range n {
		k, c := d.subWindow(l, d.int()), d.natural("count")
		if r.sum > math.MaxInt64/2 {
			d.fail("count of %q is out of range", l.Name)
		}
		if r.contains(k) {
			r.add(k, c)
		}
	}
}
