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

// windowAt returns the fixed window of l that contains wall.
func windowAt(l limiter.Limit, wall int64) window {
	if l.Calendar == limiter.NoCalendar {
		w := int64(l.Window)
		start := wall - ((wall%w)+w)%w
		return window{start, start + w}
	}
	// A window is all instants with the same label. Labels never decrease, so both
	// ends are found by binary search.
	zone := l.Zone
	if zone == nil {
		zone = time.UTC
	}
	const reach = 400 * 24 * time.Hour // more than the longest window
	current := label(l, zone, wall)
	from := wall - int64(reach)
	start := from + int64(sort.Search(int(reach), func(i int) bool { return label(l, zone, from+int64(i)) >= current }))
	end := wall + int64(sort.Search(int(reach), func(i int) bool { return label(l, zone, wall+int64(i)) > current }))
	return window{start, end}
}

// label returns the name of the calendar window of an instant. Labels sort by time.
func label(l limiter.Limit, zone *time.Location, wall int64) string {
	t := time.Unix(0, wall).In(zone)
	change, _ := t.ZoneBounds()
	if change.IsZero() || l.Calendar == limiter.Hour {
		return clockLabel(l, t)
	}
	// The clock may be set back to before the start of the window, which does not begin
	// again.
	return max(clockLabel(l, t), clockLabel(l, change.Add(-1).In(zone)))
}

// clockLabel returns the name of the calendar window by what the local clock shows.
func clockLabel(l limiter.Limit, t time.Time) string {
	switch l.Calendar {
	case limiter.Hour:
		// A change of the zone's offset begins a new window, so that a repeated hour is
		// not counted with the hour before.
		change, _ := t.ZoneBounds()
		return change.UTC().Format(time.RFC3339) + t.Format(" 2006-01-02 15")
	case limiter.Day:
		day := time.Date(t.Year(), t.Month(), t.Day(), 0, 0, 0, 0, time.UTC)
		if 60*t.Hour()+t.Minute() < l.StartMinute {
			day = day.AddDate(0, 0, -1)
		}
		return day.Format("2006-01-02")
	case limiter.Week:
		year, week := t.ISOWeek()
		return fmt.Sprintf("%04d-%02d", year, week)
	case limiter.Year:
		return t.Format("2006")
	default:
		month := time.Date(t.Year(), t.Month(), 1, 0, 0, 0, 0, time.UTC)
		if last := month.AddDate(0, 1, -1).Day(); t.Day() < min(l.StartDay, last) {
			month = month.AddDate(0, -1, 0)
		}
		return month.Format("2006-01")
	}
}
