// SPDX-License-Identifier: Apache-2.0

package limiter

import "slices"

// timelines are the timelines of a record. Only those of token buckets with an open
// reservation are in use.
type timelines struct {
	byBucket []timeline
	live     int // marks, over all timelines
}

// openMark adds a mark to the timeline of token bucket i for a charge made now.
func (p *partition) openMark(rec *record, i int) int64 {
	if rec.timelinesID == 0 {
		timelinesID, tls := p.timelines.alloc()
		rec.timelinesID = timelinesID
		tls.byBucket = p.timelineList(len(p.engine.catalog.schema(rec.schema).limits))
	}
	tls := p.timelines.at(rec.timelinesID)
	tls.live++
	return tls.byBucket[i].addMark(p.bucketAt(rec, i).level())
}

// timelineList returns a list of timelines, of which none is live.
func (p *partition) timelineList(buckets int) []timeline {
	if n := len(p.spareTimelines); n > 0 && cap(p.spareTimelines[n-1]) >= buckets {
		spare := p.spareTimelines[n-1][:buckets]
		p.spareTimelines = p.spareTimelines[:n-1]
		return spare
	}
	return make([]timeline, buckets, max(buckets, bucketsPerRecord))
}

// copyTimelines gives a record copies of timelines. It must have none.
func (p *partition) copyTimelines(rec *record, of []timeline) {
	if slices.ContainsFunc(of, func(t timeline) bool { return t.live > 0 }) {
		list := p.timelineList(len(of))
		copy(list, of)
		p.setTimelines(rec, list)
	}
}

// closeMark removes a mark, and frees the timelines if it was the last.
func (p *partition) closeMark(rec *record, i int, mark int64) {
	t := p.timelineOf(rec, i)
	if !t.hasMark(mark) { // not that of a valid copy
		return
	}
	t.removeMark(mark)
	tls := p.timelines.at(rec.timelinesID)
	if tls.live--; tls.live == 0 {
		p.freeTimelines(rec)
	}
}

// maxSpare is the most lists of timelines that a partition keeps for reuse.
const maxSpare = 8

func (p *partition) freeTimelines(rec *record) {
	if rec.timelinesID == 0 {
		return
	}
	if of := p.timelines.at(rec.timelinesID).byBucket; len(p.spareTimelines) < maxSpare {
		for i := range of {
			of[i].live = 0
		}
		p.spareTimelines = append(p.spareTimelines, of)
	}
	*p.timelines.at(rec.timelinesID) = timelines{}
	p.timelines.free(rec.timelinesID)
	rec.timelinesID = 0
}

// timelineOf returns the timeline of bucket i if it is in use, else nil.
func (p *partition) timelineOf(rec *record, i int) *timeline {
	if rec.timelinesID == 0 {
		return nil
	}
	if t := &p.timelines.at(rec.timelinesID).byBucket[i]; t.live > 0 {
		return t
	}
	return nil
}

// setTimelines replaces the timelines of a record.
func (p *partition) setTimelines(rec *record, of []timeline) {
	live := 0
	for i := range of {
		live += int(of[i].live)
	}
	if live == 0 {
		p.freeTimelines(rec)
		return
	}
	if rec.timelinesID == 0 {
		rec.timelinesID, _ = p.timelines.alloc()
	}
	*p.timelines.at(rec.timelinesID) = timelines{byBucket: of, live: live}
}
