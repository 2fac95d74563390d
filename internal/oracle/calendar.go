// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"fmt"
	"sort"
	"time"

	"github.com/bucketring/bucketring/limiter"
)

// window is the half-open interval of a fixed window, in Unix nanoseconds.
type window struct{ start, end int64 }

// windowAt is the fixed window of l that contains the instant wall.
func windowAt(l limiter.Limit, wall int64) window {
	if l.Calendar == limiter.NoCalendar {
		w := int64(l.Window)
		start := wall - ((wall%w)+w)%w
		return window{start, start + w}
	}
	// A window is the run of instants whose local label is the same. Labels
	// never decrease, so both ends are found by bisection.
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	const reach = 400 * 24 * time.Hour // more than the longest window
	here := label(l.Calendar, zone, wall)
	from := wall - int64(reach)
	start := from + int64(sort.Search(int(reach), func(i int) bool { return label(l.Calendar, zone, from+int64(i)) >= here }))
	end := wall + int64(sort.Search(int(reach), func(i int) bool { return label(l.Calendar, zone, wall+int64(i)) > here }))
	return window{start, end}
}

// label names the calendar window of an instant, in an order that follows time.
func label(unit limiter.Calendar, zone *time.Location, wall int64) string {
	t := time.Unix(0, wall).In(zone)
	switch unit {
	case limiter.Hour:
		// A change of the clock begins a new window: the hour that it repeats, or
		// the part of one, is not the one before.
		change, _ := t.ZoneBounds()
		return change.UTC().Format(time.RFC3339) + t.Format(" 2006-01-02 15")
	case limiter.Day:
		return t.Format("2006-01-02")
	case limiter.Week:
		year, week := t.ISOWeek()
		return fmt.Sprintf("%04d-%02d", year, week)
	case limiter.Year:
		return t.Format("2006")
	default:
		return t.Format("2006-01")
	}
}
